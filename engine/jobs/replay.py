"""The job that scores further targets of a trained run."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from engine import files
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs.job import Job, Result, next_name, require_trained
from engine.runs import uploads
from engine.runs.run import Run
from engine.targets import UploadedImage, read_function, read_targets, target_function

if TYPE_CHECKING:
    from engine.core.state import Adjoint, Trajectory
    from engine.jobs.asked import Asked
    from engine.jobs.reopen import Trained
    from engine.jobs.session import Session

NORMS = 32  # looks at the adjoint's norm during a replay

SIDECAR_BYTES = 1 << 16


@dataclass(frozen=True)
class Replay(Job):
    """Scores `targets` by their target function. An empty `mode` is that of the trajectory that the run keeps."""

    kind: ClassVar[str] = "replay"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "rebuild", "replay", "done")

    targets: tuple[str, ...]
    function: str = "loss"
    mode: str = ""

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        return dataclasses.replace(
            self,
            targets=check_targets(self.targets, run, dataset),
            function=read_function(self.function, dataset).name,
            mode=run.manifest().mode_for(self.mode or None),
        )

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import check_steps, reopen

        trained = reopen(session)
        with contextlib.closing(session.trajectory(self.mode, trained.digests)) as trajectory:
            check_steps(session, trajectory)
            name = score(session, self, trained, trajectory)
        finalize(session, self.mode)
        return Result(scores=name)


def check_targets(texts: tuple[str, ...], run: Run, dataset: Dataset) -> tuple[str, ...]:
    """The one text of each target that `texts` ask for, with ranges and names of classes (`engine.targets.texts`).

    Raises `ConfigError` where there are none, one is out of range, named twice or without an image, and
    `IntegrityError` where an uploaded image is not kept with the run.
    """
    if not texts:
        raise ConfigError("No target was named.", "Choose at least one test image or class.", {"targets": "name one"})
    targets, record = read_targets(texts, dataset), run.manifest()
    for i, target in enumerate(targets):
        target.resolve(dataset, record.test_logits)
        if isinstance(target, UploadedImage):
            uploads.read(run, target.image_id)
        if target in targets[:i]:
            raise ConfigError(f"The target {target} is named twice.", "Name each target once.")
    return tuple(map(str, targets))


def score(session: "Session", job: Replay, trained: "Trained", trajectory: "Trajectory") -> str:
    """Replays the training backwards for the job's targets and writes their score set, whose name is returned."""
    from engine.core.memory import bytes_per_target, chunk_that_fits
    from engine.core.replay import replay
    from engine.jobs import asked as questions
    from engine.jobs.resume import RESUME_REPLAY, ReplayKeeper, intact, load_replay

    journal, steps, final = session.journal, session.steps, trained.final
    journal.update(status_said="replaying")
    name = next_name(session.run.manifest().files, "scores", target_function(job.function).slug)
    asked = questions.asked_of(session, job.targets)
    values = questions.values(session.model, final, asked, job.function)
    asked_digest = files.json_digest([job.function, *job.targets])
    point = session.resume_point(RESUME_REPLAY)
    resumed = intact(lambda: load_replay(point, session.device, session.optimizer, asked_digest), journal.note)
    if resumed is not None:
        done, chunk, norms, adjoint, scores = resumed
        journal.note(f"Resumes the replay after {done} of {steps} steps.")
    else:
        done, adjoint = 0, questions.adjoints(session.model, final, asked, job.function)
        scores = adjoint.theta.new_zeros(len(asked), session.stream.data.n)
        norms = {steps: _norms(adjoint)}  # by the step that the adjoint stands before
        chunk = session.config.targets_per_pass or chunk_that_fits(
            bytes_per_target(session.model, session.stream.batch_shape), len(asked), session.device
        )
    meter, keeper = (
        journal.phase("replay", steps, done),
        ReplayKeeper(point, session.optimizer, asked_digest, chunk, norms),
    )
    looked = {round(steps * i / NORMS) for i in range(NORMS)}
    keep_every = max(1, trained.digests.every // 2)

    def progress(done: int, adjoint: "Adjoint", scores) -> None:
        meter.report(done)
        if steps - done in looked:
            norms[steps - done] = _norms(adjoint)
        if done < steps and done % keep_every == 0:
            keeper.save(done, adjoint, scores)

    began = time.monotonic()
    scores = replay(
        session.model,
        session.stream,
        trajectory,
        adjoint,
        targets_per_pass=chunk,
        on_progress=progress,
        before_step=session.check_cancelled,
        resume=(done, scores),
    )
    session.writer.flush()
    journal.timing(
        "replay_seconds",
        time.monotonic() - began,
        resume_seconds=keeper.seconds,
        meter_seconds=journal.meter_seconds,
    )
    journal.update(targets_per_pass=chunk, steps_recomputed=trajectory.rebuilt)
    logits = questions.logits(session.model, final, asked)
    _write_scores(session, job, name, asked, scores.float().cpu().numpy(), values, norms, logits)
    return name


def finalize(session: "Session", mode: str) -> None:
    """Afterwards the trajectory folder holds what the manifest says is kept, and nothing else."""
    from engine.jobs.resume import RESUME_REPLAY, RESUME_TRAINING

    folder = session.run.path / "trajectory"
    for name in (RESUME_TRAINING, RESUME_REPLAY):
        session.resume_point(name).delete()
    if mode != "memory":
        session.journal.update(trajectory=dataclasses.replace(session.run.manifest().trajectory, kept=mode))
        for path in folder.glob("full-*" if mode == "disk" else "step-*"):
            files.remove_inside(session.run.path, path)


def _norms(adjoint: "Adjoint") -> list[float]:
    """Of each target, to four figures: they are for people."""
    return [float(f"{norm:.4g}") for norm in adjoint.theta.norm(dim=1).tolist()]


def _write_scores(
    session: "Session",
    job: Replay,
    name: str,
    asked: "list[Asked]",
    scores: np.ndarray,
    values: list[float],
    norms: dict[int, list[float]],
    logits: dict[str, list[float]],
) -> None:
    """The score set float32 [K, N], and beside it what is needed to read it."""
    journal, folder = session.journal, session.run.path / "scores"
    sha = journal.save(scores.nbytes, lambda: files.write_npy(folder / f"{name}.npy", scores))
    by_target = list(zip(*norms.values(), strict=True))  # each from the last step to the first
    growth = [each[-1] / each[0] if each[0] else 0.0 for each in by_target]
    sidecar = {
        "schema": 1,
        "shape": list(scores.shape),
        "dtype": "float32",
        "sha256": sha,
        "target_function": job.function,
        "unit": target_function(job.function).unit,
        "sign": target_function(job.function).meaning(session.dataset.classes),
        "training_digest": session.training,
        "data_fingerprint": session.dataset.fingerprint,
        "replay_mode": job.mode,
        "norm_steps": list(norms),
        "targets": [
            {
                "name": str(each.target),
                "title": each.target.title(session.dataset),
                "split": each.split,
                "images": len(each.rows),
                "value": v,
                "adjoint_growth": g,
                "norms": n,
                **({"logits": logits[str(each.target)]} if str(each.target) in logits else {}),
            }
            for each, v, g, n in zip(asked, values, growth, by_target, strict=True)
        ],
    }
    sidecar_sha = journal.save(SIDECAR_BYTES, lambda: files.write_json(folder / f"{name}.json", sidecar))
    journal.add_files({f"scores/{name}.npy": sha, f"scores/{name}.json": sidecar_sha})
    journal.update(scored=True)
    journal.note(
        f"Wrote scores/{name}.npy, {scores.shape[0]} targets × {scores.shape[1]:,} training images. From the end of "
        f"training to its start the adjoint's norm grew × {max(growth):.3g} at most."
    )

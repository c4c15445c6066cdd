"""The job that scores further targets of a trained run."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from engine import files
from engine.datasets.base import Dataset
from engine.errors import ConfigError, DataError
from engine.jobs.job import Job, Result, next_name, require_trained
from engine.runs import uploads
from engine.runs.run import Run
from engine.targets import Target, UploadedImage, target_function

if TYPE_CHECKING:
    from engine.core.state import Adjoint, Trajectory
    from engine.core.stream import Examples
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
        check_targets(self.targets, run, dataset)
        target_function(self.function)
        return dataclasses.replace(self, mode=run.manifest().mode_for(self.mode or None))

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import check_steps, reopen

        trained = reopen(session)
        with contextlib.closing(session.trajectory(self.mode, trained.digests)) as trajectory:
            check_steps(session, trajectory)
            name = score(session, self, trained, trajectory)
        finalize(session, self.mode)
        return Result(scores=name)


def check_targets(targets: tuple[str, ...], run: Run, dataset: Dataset) -> None:
    """Raises `ConfigError` where there are none, one is out of range or named twice, and `IntegrityError` where an
    uploaded image is not kept with the run."""
    if not targets:
        raise ConfigError("No target was named.", "Choose at least one test image or class.", {"targets": "name one"})
    for i, text in enumerate(targets):
        target = Target.parse(text)
        target.resolve(dataset.test_labels, len(dataset.classes))
        if isinstance(target, UploadedImage):
            uploads.read(run, target.image_id)
        if text in targets[:i]:
            raise ConfigError(f"The target {target} is named twice.", "Name each target once.")


def score(session: "Session", job: Replay, trained: "Trained", trajectory: "Trajectory") -> str:
    """Replays the training backwards for the job's targets and writes their score set, whose name is returned."""
    from engine.core import targets as target_values
    from engine.core.memory import bytes_per_target, chunk_that_fits
    from engine.core.replay import replay
    from engine.jobs.resume import RESUME_REPLAY, ReplayKeeper, intact, load_replay

    journal, steps, final = session.journal, session.steps, trained.final
    journal.update(status_said="replaying")
    name = next_name(session.run.manifest().files, "scores", job.function)
    test, sets = _with_uploads(session, job.targets)
    values = target_values.values(session.model, final, test, sets, job.function).tolist()
    asked = files.json_digest([job.function, *job.targets])
    point = session.resume_point(RESUME_REPLAY)
    resumed = intact(lambda: load_replay(point, session.device, session.optimizer, asked), journal.note)
    if resumed is not None:
        done, chunk, norms, adjoint, scores = resumed
        journal.note(f"Resumes the replay after {done} of {steps} steps.")
    else:
        done, adjoint = 0, target_values.adjoints(session.model, final, test, sets, job.function)
        scores = adjoint.theta.new_zeros(len(sets), session.stream.data.n)
        norms = {steps: _norms(adjoint)}  # by the step that the adjoint stands before
        chunk = session.config.targets_per_pass or chunk_that_fits(
            bytes_per_target(session.model, session.stream.batch_shape), len(sets), session.device
        )
    meter, keeper = journal.phase("replay", steps, done), ReplayKeeper(point, session.optimizer, asked, chunk, norms)
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
    own = [t for t in job.targets if isinstance(Target.parse(t), UploadedImage)]
    logits = target_values.logits(session.model, final, test)[session.test.n :].tolist() if own else []
    _write_scores(
        session, job, name, sets, scores.float().cpu().numpy(), values, norms, dict(zip(own, logits, strict=True))
    )
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


def _with_uploads(session: "Session", targets: tuple[str, ...]) -> "tuple[Examples, list[np.ndarray]]":
    """The test split, behind it one image of a person's own for each target that asks for one; and the rows of each
    target in it, int64 [S]."""
    import torch

    from engine.core.stream import examples

    dataset, test = session.dataset, session.test
    parsed = [Target.parse(text) for text in targets]
    own = [t for t in parsed if isinstance(t, UploadedImage)]
    sets = [
        np.array([test.n + own.index(t)])
        if isinstance(t, UploadedImage)
        else t.resolve(dataset.test_labels, len(dataset.classes))
        for t in parsed
    ]
    if not own:
        return test, sets
    images = np.stack([uploads.read(session.run, t.image_id) for t in own])
    if images.shape[1:] != dataset.test_images.shape[1:]:
        raise DataError(f"An uploaded image of run {session.run.id} is not of its data set's size.", "Upload it again.")
    labels = torch.tensor([t.label for t in own])
    inputs = torch.from_numpy(images)
    if session.trunk is not None:  # then the test split holds features
        of_images = examples(dataset, "test", session.device, session.dtype)
        of_images = dataclasses.replace(of_images, inputs=inputs.to(session.device), labels=labels.to(session.device))
        inputs = torch.as_tensor(session.trunk.features(of_images).inputs)
    return test.followed_by(inputs, labels), sets


def _norms(adjoint: "Adjoint") -> list[float]:
    """Of each target, to four figures: they are for people."""
    return [float(f"{norm:.4g}") for norm in adjoint.theta.norm(dim=1).tolist()]


def _write_scores(session: "Session", job: Replay, name: str, sets, scores, values, norms, own_logits) -> None:
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
        "sign": target_function(job.function).meaning,
        "training_digest": session.training,
        "data_fingerprint": session.dataset.fingerprint,
        "replay_mode": job.mode,
        "norm_steps": list(norms),
        "targets": [
            {
                "name": t,
                "title": Target.parse(t).title(session.dataset),
                "test_images": len(s),
                "value": v,
                "adjoint_growth": g,
                "norms": n,
                **({"logits": own_logits[t]} if t in own_logits else {}),
            }
            for t, s, v, g, n in zip(job.targets, sets, values, growth, by_target, strict=True)
        ],
    }
    sidecar_sha = journal.save(SIDECAR_BYTES, lambda: files.write_json(folder / f"{name}.json", sidecar))
    journal.add_files({f"scores/{name}.npy": sha, f"scores/{name}.json": sidecar_sha})
    journal.update(scored=True)
    journal.note(
        f"Wrote scores/{name}.npy, {scores.shape[0]} targets × {scores.shape[1]:,} training images. From the end of "
        f"training to its start the adjoint's norm grew × {max(growth):.3g} at most."
    )

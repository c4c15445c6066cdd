"""The job that scores further targets of a trained run."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from engine import files
from engine.analysis import cost, wording
from engine.config import window_phrase
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.jobs import ahead, parts
from engine.jobs.job import Job, Phase, Result, next_name, require_trained, targets_in_words
from engine.jobs.parts import Part, PartFile, TargetSet
from engine.jobs.sharing import Merging
from engine.runs import uploads
from engine.runs.run import Run
from engine.targets import UploadedImage, read_function, read_targets, target_function

if TYPE_CHECKING:
    from engine.core.state import Adjoint, Trajectory
    from engine.jobs.asked import Asked
    from engine.jobs.norms import Norms
    from engine.jobs.reopen import Trained
    from engine.jobs.session import Session

SIDECAR_BYTES = 1 << 16

WIDEST_ON_GPU = 8  # targets a pass that is chosen: more are no faster a target, and fewer passes are to be shared out

ROWS = re.compile(r"_(\d+)_(\d+)\.safetensors")


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

    def doing(self) -> str:
        return f"Replaying {targets_in_words(self.targets)}"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return ahead.replay(run, dataset, len(self.targets), self.mode)

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import check_steps, reopen

        trained = reopen(session)
        scoring = Scoring.begun(session, self, trained)
        if scoring.lacking():
            with contextlib.closing(session.trajectory(self.mode, trained.digests)) as trajectory:
                check_steps(session, trajectory)
                scoring.replay(trajectory)
        name = scoring.finish()
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
    seen = set()
    for target in targets:
        target.resolve(dataset, record.test_logits)
        if isinstance(target, UploadedImage):
            uploads.read(run, target.image_id)
        if target in seen:
            raise ConfigError(f"The target {target} is named twice.", "Name each target once.")
        seen.add(target)
    return tuple(map(str, targets))


@dataclass(eq=False)
class Scoring:
    """The scores of one set of targets on their way: what was decided of it, and the parts that are done.

    Made by `begun`. `replay` does this process's share, and `finish` puts the parts of all together.
    """

    session: "Session"
    job: Replay
    trained: "Trained"
    asked: "list[Asked]"
    whole: TargetSet
    done: dict[Part, PartFile | tuple[np.ndarray, dict]] = field(default_factory=dict)  # scores [k, N] and sidecar

    @classmethod
    def begun(cls, session: "Session", job: Replay, trained: "Trained") -> Self:
        """Decides how the set is done, or reads what was decided, and which parts are done already."""
        from engine.jobs import asked as questions

        session.journal.update(status_said="replaying")
        asked = questions.asked_of(session, job.targets)
        scoring = cls(session, job, trained, asked, decided(session, job))
        scoring.collect()
        return scoring

    @cached_property
    def values(self) -> list[float]:
        """φ of each target at the end of training: of all together, so that no division changes their bits."""
        from engine.jobs import asked as questions

        return questions.values(self.session.model, self.trained.final, self.asked, self.job.function)

    # -- what is done, and what is not

    def lacking(self) -> list[int]:
        """Passes, by number, that no finished part holds."""
        finished = {number for part in self.done for number in self.whole.passes_of(part)}
        return [number for number in self.whole.passes if number not in finished]

    def collect(self) -> None:
        """Looks for parts that were finished meanwhile, by this process before or by others now, and lists them in
        the manifest. One that is damaged or foreign is said, and done again."""
        folder = self.session.run.path / "scores"
        known = {each.path for each in self.done.values() if isinstance(each, PartFile)}
        checksums = {}
        for path in parts.paths(folder, self.whole):
            if path in known:
                continue
            try:
                found = parts.read(path, self.whole)
                checksums |= found.checksums()
                if found.part not in self.done:
                    self.done[found.part] = found
            except IntegrityError as error:
                self.session.journal.note(f"{error.what} It is done again.")
                for each in (path, path.with_suffix(".npy")):
                    files.remove_inside(self.session.run.path, each)
        if checksums:
            self.session.journal.add_files(checksums)
            self.session.journal.update(scored=True)

    # -- this process's share

    def replay(self, trajectory: "Trajectory") -> None:
        """Does what this process shall do of the passes that are lacking."""
        lacking = self.lacking()
        sharing = self.session.sharing
        if len(self.cut(lacking)) > 1:  # those who do not work alone have agreed already
            parts.agree(
                parts.plan_path(self.session.run, self.whole.key), plan_of(self.session, self.whole, self.job.mode)
            )
            self._announce(lacking)
        about = dataclasses.asdict(self.job)
        self.replay_passes(trajectory, sharing.share("replay", self.whole.passes, lacking, **about))

    def _announce(self, lacking: list[int]) -> None:
        """What a set in parts will take, before the first of them."""
        todo, asked = self.cut(lacking), len(self.asked)
        targets = sum(map(len, todo))
        took = cost.replay_seconds(self.session.run.manifest(), targets)
        about = (
            ""
            if took is None
            else f", at most about {cost.in_words(took)} for one process, as replays of this run went"
        )
        self.session.journal.note(
            f"{targets:,} of {asked:,} targets in {len(todo)} parts{about}. Each is shown as soon as it is done."
        )

    def cut(self, passes: list[int]) -> list[Part]:
        """Passes as parts, none of which is half of one that was killed and half of another."""
        ends = {end for rows in self._points().values() for end in (rows.first, rows.stop)}
        return parts.split(self.whole.cut(passes, targets_a_part(self.session, self.whole.width)), ends)

    def replay_passes(self, trajectory: "Trajectory", passes: list[int]) -> None:
        session, todo = self.session, self.cut(passes)
        steps, began = session.counted, time.monotonic()
        resumed = [self._resumed(part) for part in todo[:1]]  # those of later parts are looked for in their turn
        already = resumed[0][0] if resumed and resumed[0] is not None else 0
        meter = session.journal.phase("replay", steps * len(todo), already)
        resume_seconds, replayed = 0.0, 0.0
        for i, part in enumerate(todo):
            start = resumed[0] if i == 0 else self._resumed(part)
            scores, norms, seconds = self._replay_part(
                part, trajectory, start, lambda done, i=i: meter.report(i * steps + done)
            )
            resume_seconds += seconds
            replayed += len(part) * (1 - (start[0] if start else 0) / steps)
            self._keep(part, scores, norms)
        session.writer.flush()
        session.journal.timing(
            "replay_seconds",
            time.monotonic() - began,
            replay_targets=replayed,
            resume_seconds=resume_seconds,
            meter_seconds=session.journal.meter_seconds,
        )
        session.journal.update(targets_per_pass=self.whole.width, steps_recomputed=trajectory.rebuilt)

    def _replay_part(
        self,
        part: Part,
        trajectory: "Trajectory",
        resumed: "tuple[int, Norms, Adjoint, Any] | None",
        report: Callable[[int], None],
    ) -> "tuple[np.ndarray, Norms, float]":
        """Scores float32 [k, N] of a part's targets, the norms of their adjoints by step, and the seconds that keeping
        what a killed replay goes on from took."""
        from engine.core.replay import replay
        from engine.jobs import asked as questions
        from engine.jobs import norms as looks
        from engine.jobs.resume import ReplayKeeper

        session, steps, counted = self.session, self.session.steps, self.session.counted
        looked = looks.looked_at(session.start, steps, len(self.asked))
        if resumed is not None:
            done, known, adjoint, scores = resumed
            norms = looks.Recorder(looked, known)
            session.journal.note(f"Resumes the replay after {done} of {counted} steps.")
        else:
            asked = self.asked[part.rows]
            done, adjoint = 0, questions.adjoints(session.model, self.trained.final, asked, self.job.function)
            scores = adjoint.theta.new_zeros(len(asked), session.stream.data.n)
            norms = looks.Recorder(looked)
            norms.first(steps, adjoint)
        point = session.resume_point(self._point(part))
        keeper = ReplayKeeper(point, session.optimizer, self._asked_digest, self.whole.width, norms.norms)
        keep_every = max(1, self.trained.digests.every // 2)

        def progress(done: int, adjoint: "Adjoint", scores) -> None:
            report(done)
            norms.look(steps - done, adjoint)
            if done < counted and done % keep_every == 0:
                keeper.save(done, adjoint, scores)

        with looks.naming_the_place(norms, steps):
            scores = replay(
                session.model,
                session.stream,
                trajectory,
                adjoint,
                targets_per_pass=self.whole.width,
                on_progress=progress,
                before_step=session.check_cancelled,
                resume=(done, scores),
                passes=session.backwards(self.whole.width),
                on_fewer=lambda chunk: session.journal.note(f"Memory ran out: {chunk} targets a pass from here on."),
                start=session.start,
            )
        session.check_data()
        return scores.float().cpu().numpy(), norms.norms(), keeper.seconds

    def _keep(self, part: Part, scores: np.ndarray, norms: "Norms") -> None:
        """In memory where the part is all of the set and this process alone does it; else on disk, for all to see."""
        sidecar = self._sidecar(part, norms)
        session, sharing = self.session, self.session.sharing
        if len(part) == len(self.asked) and sharing.alone:
            self.done[part] = scores, sidecar
            return
        folder = session.run.path / "scores"
        checksums = session.journal.save(
            scores.nbytes + SIDECAR_BYTES,
            lambda: parts.write(folder, self.whole, part, scores, sidecar, sharing.shard),
        )
        session.journal.note(f"Targets {part.first + 1:,} to {part.stop:,} of {len(self.asked):,} are scored.")
        self.done[part] = parts.read(folder / f"{self.whole.name(part, sharing.shard)}.json", self.whole)
        session.journal.add_files(checksums)
        session.journal.update(scored=True)

    def _sidecar(self, part: Part, norms: "Norms") -> dict[str, Any]:
        """What is needed to read some rows of scores."""
        from engine.jobs import asked as questions

        session, function = self.session, target_function(self.job.function)
        asked, values = self.asked[part.rows], self.values[part.rows]
        logits = questions.logits(session.model, self.trained.final, asked)
        by_target = list(zip(*norms.values(), strict=True))  # each from the last step to the first
        growth = [each[-1] / each[0] if each[0] else 0.0 for each in by_target]
        return {
            "schema": 1,
            "dtype": "float32",
            "target_function": self.job.function,
            "unit": function.unit,
            "sign": function.meaning(session.dataset.classes),
            "training_digest": session.training,
            "data_fingerprint": session.dataset.fingerprint,
            "replay_mode": self.job.mode,
            "norm_steps": list(norms),
            "window_start": session.start,
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
            "part": origin_of(session),
        }

    # -- what a killed replay goes on from

    @property
    def _asked_digest(self) -> str:
        return asked_digest(self.session, self.job)

    def _point(self, part: Part) -> str:
        from engine.jobs.resume import RESUME_PARTS, RESUME_REPLAY

        if len(part) == len(self.asked):
            return RESUME_REPLAY
        return RESUME_PARTS.replace("{}_*", f"{self.whole.key}_{part.first:05d}_{part.stop:05d}")

    def _points(self) -> dict[str, Part]:
        """The files that killed replays left of this set, each with the rows that it holds."""
        from engine.jobs.resume import RESUME_PARTS, RESUME_REPLAY

        folder = self.session.run.path / "trajectory"
        names = {path.name: ROWS.search(path.name) for path in folder.glob(RESUME_PARTS.format(self.whole.key))}
        held = {name: Part(int(match[1]), int(match[2])) for name, match in names.items() if match}
        return held | {RESUME_REPLAY: Part(0, len(self.asked))}

    def _resumed(self, part: Part) -> "tuple[int, Norms, Adjoint, Any] | None":
        """Steps done, norms by step, adjoint and scores [k, N] of a part's targets, from what a killed replay left of
        these targets, perhaps among others: with another number of processes, parts are cut in other places."""
        from engine.core.state import Adjoint
        from engine.jobs.resume import intact, load_replay

        session = self.session
        for name, held in self._points().items():
            if not (held.first <= part.first and part.stop <= held.stop):
                continue
            point = session.resume_point(name)
            found = intact(
                lambda point=point: load_replay(point, session.device, session.optimizer, self._asked_digest),
                session.journal.note,
            )
            if found is None or found[1] != self.whole.width:
                continue
            done, _, norms, adjoint, scores = found
            rows = slice(part.first - held.first, part.stop - held.first)
            theta, *opt, buffers = (each[rows].clone() for each in adjoint.parts)
            norms = {t: each[rows] for t, each in norms.items()}
            return done, norms, Adjoint(theta, tuple(opt), buffers), scores[rows].clone()
        return None

    # -- the whole set

    def finish(self) -> str:
        """Waits for the others' parts, writes the score set float32 [K, N] with its sidecar, and returns its name."""
        self.session.sharing.wait(self._all_there)
        journal, folder = self.session.journal, self.session.run.path / "scores"
        record = self.session.run.manifest()
        name = next_name(record.files, "scores", target_function(self.job.function).slug)
        scores, sidecar = self._together()
        sha = journal.save(scores.nbytes, lambda: files.write_npy(folder / f"{name}.npy", scores))
        sidecar |= {"shape": list(scores.shape), "sha256": sha}
        sidecar_sha = journal.save(SIDECAR_BYTES, lambda: files.write_json(folder / f"{name}.json", sidecar))
        mine = {f"scores/{name}.npy": sha, f"scores/{name}.json": sidecar_sha}
        others = {f: s for f, s in record.files.items() if not f.startswith(f"scores/part-{self.whole.key}_")}
        journal.update(files=others | mine, scored=True)
        parts.remove(self.session.run, self.whole)
        growth = max(target["adjoint_growth"] for target in sidecar["targets"])
        phrase = window_phrase(self.session.start, self.session.steps)
        said, begin = (f": {phrase}", "the window's") if phrase else ("", "its")
        journal.note(
            f"Wrote scores/{name}.npy, {wording.count(scores.shape[0], 'targets')} × {scores.shape[1]:,} training "
            f"images{said}. From the end of training to {begin} start the adjoint's norm grew × {growth:.3g} at most."
        )
        return name

    def _all_there(self) -> bool:
        if self.lacking():
            self.collect()
        return not self.lacking()

    def _together(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Scores [K, N] and their sidecar. Raises `IntegrityError` where a part is no longer what it was."""
        from engine.jobs import norms as looks

        inside = [(each.scores(), each.sidecar) if isinstance(each, PartFile) else each for each in self._in_order()]
        scores = inside[0][0] if len(inside) == 1 else np.concatenate([each for each, _ in inside])
        sidecar = {k: v for k, v in inside[0][1].items() if k not in ("part", "checksum")}
        sidecar |= looks.together([each for _, each in inside])
        return np.ascontiguousarray(scores), sidecar

    def _in_order(self) -> list[PartFile | tuple[np.ndarray, dict]]:
        """Parts that hold each row once: of two that hold the same one, as after another division, the first."""
        chosen, row = [], 0
        while row < len(self.asked):
            part = next(part for part in sorted(self.done) if part.first == row)
            chosen.append(self.done[part])
            row = part.stop
        return chosen


def decided(session: "Session", job: Replay) -> TargetSet:
    """The set with the width of its passes: as its plan says, or chosen here, and agreed where others do parts of it.

    Raises `ConfigError`, with both names, where it was begun on another kind of device and this process computes.
    """
    from engine.jobs import machine

    key = parts.set_key(session.training, job.function, job.targets, session.start)
    path = parts.plan_path(session.run, key)
    if path.exists():
        plan = parts.plan_at(path)
    else:
        plan = plan_of(session, _set_of(session, job, _width(session, job)), job.mode)
        if not session.sharing.alone:
            plan = parts.agree(path, plan)
    if not isinstance(session.sharing, Merging):
        done = f"What is done of this set ({path.name})"
        machine.check_one_kind(machine.kind(session.device), plan["kind"], done)
    return _set_of(session, job, plan["width"])


def _set_of(session: "Session", job: Replay, width: int) -> TargetSet:
    return TargetSet(session.training, job.function, job.targets, width, session.start)


def asked_digest(session: "Session", job: Replay) -> str:
    """Of what is asked, for what a killed replay goes on from."""
    return files.json_digest([job.function, *job.targets, *([session.start] if session.start else [])])


def _width(session: "Session", job: Replay) -> int:
    """Targets a pass: as a killed replay had it, or as the run's settings say, or what fits."""
    from engine.core.memory import bytes_per_target, chunk_that_fits
    from engine.jobs.resume import RESUME_REPLAY, intact, load_replay

    digest, point = asked_digest(session, job), session.resume_point(RESUME_REPLAY)
    found = intact(lambda: load_replay(point, session.device, session.optimizer, digest), session.journal.note)
    if found is not None:
        return found[1]
    if session.config.targets_per_pass:
        return session.config.targets_per_pass
    per_target = bytes_per_target(session.model, session.stream.batch_shape)
    fit = chunk_that_fits(per_target, len(job.targets), session.device)
    return even_width(len(job.targets), min(fit, WIDEST_ON_GPU)) if session.device.type == "cuda" else fit


def even_width(targets: int, most: int) -> int:
    """Targets a pass, at most so many, for as many passes as a power of two: 2, 4 and 8 GPUs share them evenly."""
    passes = 1
    while passes * most < targets:
        passes *= 2
    return -(-targets // passes)


def plan_of(session: "Session", whole: TargetSet, mode: str) -> dict[str, Any]:
    """What all who do parts of a set must agree on."""
    return {
        "training": whole.training,
        "function": whole.function,
        "targets": list(whole.targets),
        "mode": mode,
        "width": whole.width,
        **origin_of(session),
    }


def origin_of(session: "Session") -> dict[str, str]:
    """On what a part was computed."""
    import torch

    from engine.jobs import machine

    return {"kind": machine.kind(session.device), "torch": torch.__version__, "host": machine.host()}


def targets_a_part(session: "Session", width: int) -> int:
    """How many targets go through the training together: at most as many as leave half of the free memory, for each
    has an adjoint, another in the making, and its scores."""
    from engine import device as devices

    theta = session.initial.theta
    each = 2 * sum(p.numel() for p in session.initial.parts) + session.stream.data.n
    fit = devices.memory_free(session.device) // 2 // (each * theta.element_size())
    return max(width, min(parts.TARGETS_A_PART, int(fit)))


def finalize(session: "Session", mode: str) -> None:
    """Afterwards the trajectory folder holds what the manifest says is kept, and nothing else."""
    from engine.jobs.resume import RESUME_PARTS, RESUME_REPLAY, RESUME_TRAINING

    folder = session.run.path / "trajectory"
    for name in (RESUME_TRAINING, RESUME_REPLAY, *(path.name for path in folder.glob(RESUME_PARTS.format("*")))):
        session.resume_point(name).delete()
    if mode != "memory":
        session.journal.update(trajectory=dataclasses.replace(session.run.manifest().trajectory, kept=mode))
        for path in folder.glob("full-*" if mode == "disk" else "step-*"):
            files.remove_inside(session.run.path, path)

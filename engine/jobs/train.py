"""The job of a new run: training, and the scores of its own targets."""

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from engine import files
from engine.config import RunConfig, check
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs import ahead
from engine.jobs.job import Job, Phase, Result, targets_in_words
from engine.jobs.replay import Replay, Scoring, finalize
from engine.runs.manifest import TrajectoryRecord
from engine.runs.run import Run
from engine.targets import Target

if TYPE_CHECKING:
    from engine.core.state import Trajectory
    from engine.jobs.reopen import Trained
    from engine.jobs.session import Session


@dataclass(frozen=True)
class TrainAndReplay(Job):
    """Trains and then scores `targets`. A run that was trained already goes on with the replay."""

    kind: ClassVar[str] = "run"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "train", "replay", "done")

    targets: tuple[str, ...]
    function: str
    mode: str

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        return cls(config.targets, config.target_function, config.replay_mode)

    def check(self, run: Run, dataset: Dataset) -> Self:
        check(
            run.manifest().config.replace(targets=self.targets, target_function=self.function, replay_mode=self.mode),
            *dataset.sizes,
        )
        return self

    def doing(self) -> str:
        return f"Training, and replaying for {targets_in_words(self.targets)}"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        replay = ahead.replay(run, dataset, len(self.targets), self.mode)
        return replay if run.manifest().trained else (ahead.training(run, dataset), *replay)

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import check_steps, reopen

        if session.manifest.trained:
            trained = reopen(session)
            opened = contextlib.closing(session.trajectory(self.mode, trained.digests))
        else:
            if self.mode == "memory" and not session.sharing.alone:
                _ = session.forwards  # whether steps are compiled is decided, and written down, before others train
                session.sharing.train()
            trained, trajectory = train(session, self.mode)
            opened = contextlib.closing(trajectory)
        with opened as trajectory:
            if session.manifest.trained:
                check_steps(session, trajectory)
            replay = Replay(_with_images(session, self), self.function, self.mode)
            scoring = Scoring.begun(session, replay, trained)
            if scoring.lacking():
                scoring.replay(trajectory)
            name = scoring.finish()
        finalize(session, self.mode)
        if session.config.clean_when_done:
            session.run.storage().clean_held(("trajectory",))
        return Result(scores=name)


def _with_images(session: "Session", job: TrainAndReplay) -> tuple[str, ...]:
    """The targets of a new run that hold an image of the model that was trained now. A confusion that does not occur
    is no failure of the run: the log says so. Raises `ConfigError` where none is left."""
    record, dataset, held = session.run.manifest(), session.dataset, []
    for target in map(Target.parse, job.targets):
        if target.of_the_model and not len(target.members(dataset, record.test_logits)):
            session.journal.note(f"{target.empty(dataset)} It is left out.")
        else:
            held.append(str(target))
    if not held:
        raise ConfigError(
            f"The model of run {session.run.id} makes none of the confusions asked about.",
            "It is trained and kept: replay it for other targets.",
        )
    return tuple(held)


def train(session: "Session", mode: str) -> "tuple[Trained, Trajectory]":
    """Trains the run, or goes on with a training that was killed, and keeps the final model with its logits.

    The trajectory is the one that training fed: memory mode has its states nowhere else.
    """
    from engine.core.check import check_model
    from engine.core.training import train as train_steps
    from engine.jobs import window
    from engine.jobs.accuracy import WithAccuracy
    from engine.jobs.compiling import check_batch
    from engine.jobs.reopen import Trained, check_start, origin, plan_digest, rates_digest
    from engine.jobs.resume import RESUME_TRAINING, WithResume, intact, load_training
    from engine.models.registry import sources
    from engine.trajectory.digests import pixel_means

    journal, config = session.journal, session.config
    for note in session.model.notes:
        journal.note(note)
    check_batch(session)
    check_model(session.model, session.stream)
    journal.update(
        status_said="training",
        training_digest=session.training,
        data_fingerprint=session.dataset.fingerprint,
        **origin(session),
        precision=config.precision,
        tf32=config.precision == "tf32",
        deterministic="cudnn" if session.device.type == "cuda" else "cpu",
        steps=session.steps,
        parameters=session.model.parameters,
        buffers=session.model.buffers,
    )
    point = session.resume_point(RESUME_TRAINING)
    found = None
    if mode != "memory":
        found = intact(lambda: load_training(point, session.device, session.optimizer), journal.note)
    start, state, known = found or (0, session.initial, {})
    if found is not None:
        check_start(session, known.get(0))
        journal.note(f"Resumes the training before step {start + 1} of {session.steps}.")
    journal.update(
        plan_sha256=plan_digest(session.stream.plan),
        rates_sha256=rates_digest(config.recipe, session.steps),
        pixel_means=pixel_means(session.stream),
        model_sources=sources(session.config),
    )
    digests = session.digests(known)
    trajectory = session.trajectory(mode, digests)
    recorder = trajectory if mode == "memory" else WithResume(trajectory, point, session.resume_every(), digests)
    meter = journal.phase("train", session.steps, start)
    began = time.monotonic()
    try:
        final = train_steps(
            session.model,
            session.stream,
            trajectory=WithAccuracy(window.WithWindow(recorder, session), session),
            on_progress=meter.report,
            before_step=session.check_cancelled,
            resume=(start, state),
            passes=session.forwards,
        )
        session.check_data()
        trained = Trained(final, digests)
        _keep_model(session, trained, mode, time.monotonic() - began)
    except BaseException:
        trajectory.close()
        raise
    return trained, trajectory


def _keep_model(session: "Session", trained: "Trained", mode: str, seconds: float) -> None:
    """Final state, logits of both splits, and digests; then the manifest says that the run is trained."""
    from engine.core import targets
    from engine.jobs import window
    from engine.jobs.accuracy import tell
    from engine.trajectory.state_files import bytes_of, named, write_state

    journal, folder = session.journal, session.run.path / "model"
    final, digests = trained.final, trained.digests
    tensors = named(final, session.optimizer)
    journal.phase("evaluate")
    logits = {
        split: targets.logits(session.model, final, examples).float().cpu().numpy()
        for split, examples in (("train", session.stream.data), ("test", session.test))
    }
    accuracy = float((logits["test"].argmax(1) == session.dataset.test_labels).mean())
    tell(session, session.steps, accuracy, session.test.n)
    checksums = {
        "model/state.safetensors": journal.save(
            bytes_of(tensors),
            lambda: write_state(folder / "state.safetensors", tensors, {"training": session.training}),
        )
    }
    for split, values in logits.items():
        path = folder / f"{split}_logits.npy"
        checksums[f"model/{path.name}"] = journal.save(
            values.nbytes, lambda path=path, values=values: files.write_npy(path, values)
        )
    checksums["model/digests.json"] = journal.save(
        100 * len(digests.known),
        lambda: files.write_json(folder / "digests.json", {"every": digests.every, "sha256": digests.known}),
    )
    journal.add_files(checksums | window.checksums(session))
    journal.timing("train_seconds", seconds)
    journal.update(
        trained=True,
        test_accuracy=accuracy,
        trajectory=TrajectoryRecord(mode if mode != "memory" else None, digests.every, session.steps),
    )
    journal.note(f"Trained in {seconds:.1f} s; test accuracy {accuracy:.1%}.")

"""What a job may use, and nothing else: the run, its data and model on the device, and its journal."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from engine import device as devices
from engine import files
from engine.config import RunConfig, check, window_start
from engine.core.optim.base import Optimizer
from engine.core.state import State, Trajectory
from engine.core.step import Passes
from engine.core.stream import Examples, Stream, examples
from engine.core.training import advance, initial_state, optimizer_for
from engine.core.trunk import Trunk
from engine.core.trunk import split as split_off_trunk
from engine.datasets import registry as dataset_registry
from engine.datasets import store as prepared_data
from engine.datasets.base import Dataset
from engine.errors import CancelledError, IntegrityError
from engine.jobs import giving_way
from engine.jobs.cancel import process_ends
from engine.jobs.journal import Journal
from engine.jobs.resume import ResumePoint
from engine.jobs.sharing import ALONE, Sharing
from engine.models import registry as model_registry
from engine.models.functional import FunctionalModel
from engine.runs import fields
from engine.runs.manifest import Manifest
from engine.runs.run import Run
from engine.trajectory.digests import Digests
from engine.trajectory.modes import Checkpoints, EveryState
from engine.trajectory.segments import segment_length
from engine.trajectory.state_files import bytes_of, digest_of, named, read_state, state_of
from engine.trajectory.stores import DiskStore, MemoryStore
from engine.trajectory.writer import Writer

WINDOW = "model/window.safetensors"  # in a run: the full state before the first step at which weights count


@dataclass(frozen=True, kw_only=True)
class DataSession:
    """What a job may use that looks at the images alone, built by `opened_without_model`: also of a run whose model is
    not here."""

    run: Run
    manifest: Manifest  # as it stood when the session began
    config: RunConfig
    dataset: Dataset
    journal: Journal
    cancel: threading.Event
    sharing: Sharing = ALONE  # with which other processes, if any

    @property
    def gives_way(self) -> bool:
        """Whether its steps wait while a page is drawn: where they take the cores that pages are drawn with."""
        return True

    def check_cancelled(self, t: int) -> None:
        """Before each step t: lets pages go first (`engine.jobs.giving_way`), and raises `CancelledError` where the job
        shall stop, or the process is on its way out."""
        self.sharing.check()
        if self.gives_way:
            giving_way.give()
        if self.cancel.is_set() or process_ends():
            raise CancelledError(f"Cancelled {self.journal.stopped()}.", "What was trained and scored before is kept.")

    def check_data(self) -> None:
        """Before what was computed is recorded: raises `IntegrityError` where somebody wrote to the prepared images."""
        prepared_data.check(self.dataset)


@dataclass(frozen=True, kw_only=True)
class Session(DataSession):
    """Built once a job by `opened`, which also ends it. `training` is the digest of all that decides the trajectory."""

    device: torch.device
    dtype: torch.dtype
    model: FunctionalModel
    stream: Stream  # the steps of the training, on the device
    test: Examples
    optimizer: Optimizer
    initial: State
    training: str
    writer: Writer
    trunk: Trunk | None = None  # its features are what stream and test hold, where there is one

    @property
    def gives_way(self) -> bool:
        return self.device.type == "cpu"

    @property
    def steps(self) -> int:
        return self.stream.steps

    @property
    def start(self) -> int:
        """The first step, from 0, at which example weights count: where replays end and retrainings begin."""
        return window_start(self.config, self.steps)

    @property
    def counted(self) -> int:
        """Steps at which example weights count."""
        return self.steps - self.start

    @cached_property
    def forwards(self) -> Passes:
        """Of the training's steps, as they were or are to be: the first to ask may wait while they are compiled."""
        from engine.jobs.compiling import forwards

        return forwards(self)

    def backwards(self, width: int) -> Passes:
        """Of steps backwards for targets of which `width` are carried at a time where the run says no other number."""
        from engine.jobs.compiling import backwards

        if width not in self._backwards:
            self._backwards[width] = backwards(self, width)
        return self._backwards[width]

    @cached_property
    def _backwards(self) -> dict[int, Passes]:
        return {}

    def segment(self) -> int:
        """Steps from one full checkpoint, and one recorded digest, to the next, from `start` on."""
        return self._segment_of(self.counted)

    def resume_every(self) -> int:
        """Steps from one point that a killed training goes on from to the next: by all that it has, for a short window
        at its end is no reason to write more often."""
        return max(1, self._segment_of(self.steps) // 2)

    def _segment_of(self, steps: int) -> int:
        space = round(self.config.checkpoint_mb * 1e6)
        checkpoint = bytes_of(named(self.initial, self.optimizer))
        return segment_length(steps, checkpoint, self.config.segment, space)

    def resume_point(self, name: str) -> ResumePoint:
        return ResumePoint(self.run.path / "trajectory" / name, self.training, self.writer, self.check_data)

    def digests(self, known: dict[int, str] | None = None, every: int = 0) -> Digests:
        """Of the training's states, none but the `known` ones recorded yet; `every` of a run that was trained."""
        return Digests(self.optimizer, every or self.segment(), self.steps, known, self.start)

    def recorded_digests(self) -> Digests:
        """Those that training left in model/digests.json. Raises `IntegrityError` for a file that is damaged."""
        remedy = "Start the run again."
        path = self.run.path / "model" / "digests.json"
        recorded = files.read_json(path, remedy, self.manifest.files.get("model/digests.json"))
        try:
            fields.check(recorded, {"every": fields.whole, "sha256": fields.by_index(fields.sha256)})
            if not recorded["every"]:
                raise ValueError("0 steps from one digest to the next")
        except (TypeError, ValueError, KeyError) as error:
            raise IntegrityError(f"{path} does not hold digests of states ({error}).", remedy) from None
        return self.digests({int(t): sha for t, sha in recorded["sha256"].items()}, recorded["every"])

    def kept_window(self) -> tuple[int, State] | None:
        """`start` and the full state before it, which lies with the model; None where weights count from the start of
        training, and where it is missing, damaged or not what training went through."""
        if not self.start:
            return None
        path, expected = self.run.path / WINDOW, self.recorded_digests().known.get(self.start)
        try:
            tensors = read_state(path, {"training": self.training, "step": str(self.start)}, "")
            if digest_of(tensors) != expected:
                raise IntegrityError(f"{path} is not the state that training went through.")
        except IntegrityError as error:
            self.journal.note(f"{error.what} The steps before the window are trained again where they are needed.")
            return None
        return self.start, state_of({name: t.to(self.device) for name, t in tensors.items()}, self.optimizer)

    def trajectory(self, mode: str, digests: Digests) -> Trajectory:
        """The states of the training in a replay mode; what is lacking is trained again when it is asked for.

        Memory mode reads the states of a run that keeps them on disk. Close it when done.
        """
        begins, first = (0, self.initial) if not self.manifest.trained else self.kept_window() or (0, self.initial)
        rest = first, self._forward(digests.every), digests, self.journal.note, begins
        if mode == "recompute":
            return Checkpoints(self._disk(full=True), *rest)
        if mode == "disk":
            return EveryState(self._disk(), *rest)
        store = MemoryStore(self.optimizer)
        if self.manifest.trained and self.manifest.kept_mode == "disk":
            with contextlib.closing(EveryState(self._disk(), *rest)) as on_disk:
                for t in reversed(range(self.start, self.steps)):
                    self.check_cancelled(t)
                    store.put(t, on_disk.get(t))
        return EveryState(store, *rest)

    def _disk(self, full: bool = False) -> DiskStore:
        # Whether steps are compiled is no part of it: that is one thing for all of a run (`engine.jobs.compiling`).
        folder, on = self.run.path / "trajectory", devices.computed_on(self.device, torch.get_num_threads())
        return DiskStore(folder, self.training, self.device, self.writer, self.optimizer, full, on)

    def _forward(self, segment: int):
        """Steps run again; those of one segment are part of the replay, more are a phase of their own."""

        def forward(state: State, start: int, stop: int, put) -> State:
            meter = self.journal.phase("rebuild", stop - start) if stop - start > segment else None

            def progress(done: int, losses: list[float], rates: list[float]) -> None:
                if meter is not None:
                    meter.report(done - start)

            return advance(
                self.model,
                self.stream,
                state,
                start,
                stop,
                put,
                progress,
                self.check_cancelled,
                self.forwards,
            )

        return forward


@contextlib.contextmanager
def opened(
    run: Run, journal: Journal, cancel: threading.Event, sharing: Sharing = ALONE, cpu_threads: int | None = None
) -> Iterator[Session]:
    """Loads what a job needs. Raises `DataError` where the data set is not the one that the run was made with.

    On a CPU, torch computes with the run's number of threads meanwhile: sums in the same order have the same bits. A
    run that was not trained yet takes `cpu_threads`.
    """
    manifest = run.manifest()
    config = manifest.config
    dataset = _same_data(run.id, manifest)
    check(config, *dataset.sizes)
    device = devices.choose(config.device)
    journal.watch(device)
    journal.phase("prepare")
    dtype = getattr(torch, config.state_precision)
    cpu_threads = (manifest.threads or cpu_threads) if device.type == "cpu" else None
    with (
        devices.threads(cpu_threads),
        contextlib.closing(Writer(journal.disk_space)) as writer,
    ):
        model = model_registry.build(config, dataset, device)
        train, test = (examples(dataset, split, device, dtype) for split in ("train", "test"))
        trunk = split_off_trunk(model, train, config.recipe) if config.frozen else None
        if trunk is not None:
            model, train, test = trunk.rest, trunk.features(train), trunk.features(test)
            model.notes.append("The frozen trunk's features were computed once, for all steps.")
        optimizer = optimizer_for(model, config.recipe)
        yield Session(
            run=run,
            manifest=manifest,
            config=config,
            dataset=dataset,
            device=device,
            dtype=dtype,
            model=model,
            stream=Stream(train, config.recipe),
            test=test,
            optimizer=optimizer,
            initial=initial_state(model, optimizer),
            training=config.training_digest(dataset.fingerprint),
            journal=journal,
            writer=writer,
            cancel=cancel,
            trunk=trunk,
            sharing=sharing,
        )


@contextlib.contextmanager
def opened_without_model(
    run: Run, journal: Journal, cancel: threading.Event, sharing: Sharing = ALONE
) -> Iterator[DataSession]:
    """Loads the data of a run alone, on which it computes with all cores. Raises `DataError` as `opened` does."""
    manifest = run.manifest()
    dataset = _same_data(run.id, manifest)
    journal.watch(devices.choose("auto"))
    journal.phase("prepare")
    yield DataSession(
        run=run,
        manifest=manifest,
        config=manifest.config,
        dataset=dataset,
        journal=journal,
        cancel=cancel,
        sharing=sharing,
    )


def _same_data(run_id: str, manifest: Manifest) -> Dataset:
    """The data set of a run, read anew."""
    dataset = dataset_registry.reload(manifest.config.dataset)
    made_with, remedy = manifest.data_fingerprint, "Restore it, or start a new run."
    dataset_registry.require_same(dataset, manifest.config.dataset, made_with, f"run {run_id}", remedy)
    return dataset

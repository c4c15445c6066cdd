"""Where the states of a training from Python are kept, and how those that are lacking are trained again."""

import dataclasses
import functools
import os
from pathlib import Path

from engine import files
from engine.config import REPLAY_MODES
from engine.core import training
from engine.core.optim.base import Optimizer
from engine.core.state import Put, State
from engine.core.stream import Stream
from engine.errors import ConfigError
from engine.library.checks import computing
from engine.library.progress import Progress, reported
from engine.library.trained import Trained
from engine.models.functional import FunctionalModel
from engine.trajectory.digests import Digests
from engine.trajectory.modes import Checkpoints, EveryState
from engine.trajectory.segments import segment_length
from engine.trajectory.state_files import digest_of, named
from engine.trajectory.stores import DiskStore, MemoryStore
from engine.trajectory.writer import Writer


def trajectory(
    model: FunctionalModel,
    stream: Stream,
    mode: str,
    folder: Path | None,
    segment: int,
    known: dict[int, str] | None = None,
) -> EveryState | Checkpoints:
    """The states of a training in a replay mode, none of them there yet. `known` are the digests of the states of a
    training that was done before."""
    optimizer = training.optimizer_for(model, stream.recipe)
    initial = training.initial_state(model, optimizer)
    digests = Digests(optimizer, segment_length(stream.steps, 0, segment), stream.steps, known)
    store = _store(mode, folder, stream, initial, optimizer)
    kind = Checkpoints if mode == "recompute" else EveryState
    return kind(store, initial, functools.partial(training.advance, model, stream), digests)


def check_own(kept: EveryState | Checkpoints, folder: Path | None) -> None:
    """Raises `ConfigError` where a folder holds files, and not the states of this training."""
    last = (
        kept.steps - 1 if isinstance(kept, EveryState) else (kept.steps - 1) // kept.digests.every * kept.digests.every
    )
    if folder is not None and any(folder.iterdir()) and not kept.is_intact(last):
        raise ConfigError(
            f"{folder} holds files that are not the states of this training in this mode.",
            "Name the folder that it was trained with, or an empty one.",
        )


def train_again(trained: Trained, progress: Progress) -> None:
    """Trains a training that was loaded again, where it keeps every state and has none. Raises `IntegrityError` where
    it is not the same bit for bit."""
    kept = trained.trajectory
    if not trained.loaded or not isinstance(kept, EveryState) or kept.is_intact(kept.steps - 1):
        return
    with reported(progress, "train again", kept.steps) as report, computing(trained.model):

        def forward(state: State, start: int, stop: int, put: Put) -> State:
            after = lambda done, losses, rates: report(done)  # noqa: E731
            return training.advance(trained.model, trained.stream, state, start, stop, put, after)

        EveryState(kept.store, kept.initial, forward, kept.digests).rebuild()


def mode_and_folder(mode: str | None, folder: object, filled: bool = False) -> tuple[str, Path | None]:
    """The mode, and the folder where there is one, empty unless it may be `filled`. Raises `ConfigError` before
    anything is computed."""
    if mode is None:
        mode = "memory" if folder is None else "disk"
    if mode not in REPLAY_MODES:
        raise ConfigError(f"There is no replay mode {mode!r}.", f"Choose one of {', '.join(REPLAY_MODES)}.")
    if (mode == "disk" and folder is None) or (mode == "memory" and folder is not None):
        raise ConfigError(
            f"Replay mode {mode!r} does not go with trajectory_folder={folder!r}.",
            "Disk mode needs a folder, memory mode takes none.",
        )
    if folder is None:
        return mode, None
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise ConfigError(f"trajectory_folder={folder!r} is no path.", "Give a str or a pathlib.Path.")
    try:
        fit = Path(folder).is_dir() and (filled or not any(Path(folder).iterdir()))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"trajectory_folder {str(folder)[:200]!r} cannot be read ({getattr(error, 'strerror', None) or error}).",
            "Name an empty folder of this training alone.",
        ) from error
    if not fit:
        raise ConfigError(f"{folder} is not an empty folder.", "Make one for this training alone.")
    return mode, Path(folder)


def _store(
    mode: str, folder: Path | None, stream: Stream, initial: State, optimizer: Optimizer
) -> MemoryStore | DiskStore:
    """Where the states go. Files in a folder carry the digest of this training, and of no other."""
    if folder is None:
        return MemoryStore(optimizer, full=mode == "recompute")
    return DiskStore(
        folder, _digest(stream, initial, optimizer), initial.theta.device, Writer(), optimizer, full=mode == "recompute"
    )


def _digest(stream: Stream, initial: State, optimizer: Optimizer) -> str:
    """Of all that decides a training: recipe, initial state, data and weights."""
    data = {"inputs": stream.data.inputs, "labels": stream.data.labels, "weights": stream.weights}
    return files.json_digest(
        ["api", dataclasses.asdict(stream.recipe), digest_of(named(initial, optimizer)), digest_of(data)]
    )

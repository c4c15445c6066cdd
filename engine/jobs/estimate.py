"""What a run will take before it is started: memory, disk and time of each replay mode.

Sizes follow from the model's real shapes. A step keeps its parameters and buffers, and of the
optimizer what a step backwards reads: nothing of SGD, both moments of Adam. A batch is rebuilt from its
number. A full checkpoint keeps all of the optimizer. Where weights count from a step on, the steps before it
are trained, and neither kept nor replayed. Time, and the memory of a pass, are measured: a few steps of
the very model, data and targets, forwards and backwards, and a few writes where the run will go.
"""

import contextlib
import functools
import math
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from engine import files, space
from engine.config import REPLAY_MODES, RunConfig, window_start
from engine.core.schedule import plan_for
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError
from engine.runs.run import list_runs
from engine.trajectory.segments import segment_length

SIDECAR, SIDECAR_TARGET = 1360, 500  # bytes of the JSON beside the scores

SMALL_FILES, A_DIGEST = 12_000, 85  # bytes of configuration, manifest and log; of one digest

RESERVE_RAM = 1 << 30  # bytes left to the system and others

PROBED = 3  # measured steps; the first ones, which allocate, are not among them

WRITTEN_AT_ONCE = 8  # states on their way to a disk or from it: those that wait, are written, and are read ahead


@dataclass(frozen=True)
class Mode:
    """Bytes and seconds of one replay mode. `problem` says what does not fit, with the numbers."""

    disk: int  # that stays
    disk_peak: int  # while it runs, with what a killed run goes on from
    ram: int  # of the process at its peak; without a measurement, beside the engine's own
    gpu: int  # at the peak; 0 on a CPU
    seconds: float | None  # training and replay; None without a measurement
    problem: str


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, times in seconds (None where nothing was measured)."""

    parameters: int
    buffers: int
    moments: int  # numbers that a step keeps of the optimizer
    steps: int
    counted: int  # of them, those at which example weights count, which are replayed
    segment: int
    bytes_per_step: int
    disk_free: int
    ram_free: int
    gpu_free: int  # 0 on a CPU
    device: str
    device_name: str
    train_seconds: float | None
    modes: dict[str, Mode]
    recommended: str | None


@dataclass(frozen=True)
class Sizes:
    """Bytes that follow from the configuration and the model's shapes alone, by replay mode where they differ."""

    steps: int
    counted: int  # of them, those at which example weights count: kept and replayed
    segment: int  # steps from one full checkpoint to the next
    kept: dict[str, int]  # on disk, of the trajectory
    rest: int  # on disk, of everything else
    resume: int  # of what a killed run goes on from
    states: dict[str, int]  # in memory at once, of the trajectory


@dataclass(frozen=True)
class Probe:
    """What was measured: seconds, and bytes at the peak of the process and of the GPU."""

    step: float  # of a training step
    back: float  # of a step backwards with all targets
    write: float  # of a state's file, written and synced
    other: float  # of the check before, the evaluation after
    ram: int
    gpu: int


def estimate(config: RunConfig, root: Path, measure: bool = False) -> Estimate:
    """`measure` takes some seconds, and the device. Raises `ConfigError`, `DataError`; needs torch."""
    from engine import device as devices
    from engine.core.training import initial_state, optimizer_for
    from engine.models import registry as model_registry
    from engine.trajectory.state_files import HEADER, bytes_of, file_tensors

    dataset, device = dataset_registry.load(config.dataset), devices.choose(config.device)
    if measure:
        files.check_writable(root)
        check_device_is_free(device.type, root)
    model = model_registry.build(config, dataset)
    optimizer = optimizer_for(model, config.recipe)
    initial = initial_state(model, optimizer)
    state, full = (bytes_of(file_tensors(initial, optimizer, whole)) - HEADER for whole in (False, True))
    sizes = sizes_of(config, dataset.sizes, state, full)
    chunk, working = _pass_memory(config, dataset, model, device, full)
    probe = _probe(config, dataset, model, device, chunk, root, working) if measure else None
    on_gpu = device.type == "cuda"
    free = {
        "disk": space.disk_free(root),
        "ram": psutil.virtual_memory().available,
        "gpu": devices.memory_free(device) if on_gpu else 0,
    }
    modes = {name: _mode(name, sizes, probe, working, on_gpu, free) for name in REPLAY_MODES}
    return Estimate(
        model.parameters,
        model.buffers,
        len(optimizer.replay_needs) * model.parameters,
        sizes.steps,
        sizes.counted,
        sizes.segment,
        state + HEADER,
        free["disk"],
        free["ram"],
        free["gpu"],
        str(device),
        devices.describe(device),
        sizes.steps * probe.step if probe else None,
        modes,
        recommend(modes, free, sizes.states),
    )


def check_device_is_free(kind: str, root: Path) -> None:
    """Raises `ConfigError` where a job in progress uses the GPU that a measurement would: it might push the job out
    of memory. On a CPU the times are too long, and no more."""
    if kind != "cuda":
        return
    busy = [run.id for run in list_runs(root) if run.lock().is_held()]
    if busy:
        raise ConfigError(
            f"The GPU is in use by run {busy[0]}, so nothing is measured on it now.",
            "Wait until it has finished; the sizes that are shown follow from the shapes.",
        )


def sizes_of(config: RunConfig, data: datasets_base.Sizes, state: int, full: int) -> Sizes:
    """`state` bytes are kept of a step that is only replayed, `full` of one that training can go on from."""
    from engine.trajectory.state_files import HEADER
    from engine.trajectory.writer import WAITING

    n, k, item = data.n_train, len(config.targets), 8 if config.state_precision == "float64" else 4
    steps = len(plan_for(config.recipe, n))
    start = window_start(config, steps)
    counted = steps - start
    segment = segment_length(counted, full + HEADER, config.segment, round(config.checkpoint_mb * 1e6))
    checkpoints = -(-counted // segment)
    first = full + HEADER if start else 0  # the state that the window begins with, beside the model
    logits, scores = 4 * (n + data.n_test) * data.n_classes, 4 * k * n
    sidecars = SIDECAR + SIDECAR_TARGET * k + SMALL_FILES + A_DIGEST * (checkpoints + 1)
    return Sizes(
        steps,
        counted,
        segment,
        kept={"memory": 0, "disk": counted * (state + HEADER), "recompute": checkpoints * (full + HEADER)},
        rest=full + first + logits + scores + sidecars,
        resume=max(full, k * full + item * k * n),  # two of them: the last, until the next is whole
        states={
            "memory": counted * state,
            "disk": min(WAITING + state, counted * state, WRITTEN_AT_ONCE * state),
            "recompute": segment * state,
        },
    )


def _pass_memory(config: RunConfig, dataset, model, device, full: int) -> tuple[int, int]:
    """Targets a pass, and the bytes that a pass takes beside the trajectory: tangents, adjoints (old and new),
    scores, pixels."""
    from engine.core.memory import bytes_per_target, chunk_that_fits
    from engine.core.stream import examples
    from engine.core.trunk import split

    height, width, channels = dataset.image_shape
    n, k, item = dataset.sizes.n_train, len(config.targets), model.theta0.element_size()
    shape, features = (channels, height, width), 0
    trunk = None
    if config.frozen:
        trunk = split(model, examples(dataset, "train", model.theta0.device, model.theta0.dtype), config.recipe)
    if trunk is not None:  # its own passes keep nothing
        model, shape = trunk.rest, trunk.shape
        features = item * math.prod(shape) * (n + dataset.sizes.n_test)
    per_target = bytes_per_target(model, (config.recipe.batch_size, *shape))
    chunk = min(config.targets_per_pass or chunk_that_fits(per_target, k, device), k)
    return chunk, chunk * per_target + 4 * k * full + item * k * n + dataset.train_images.size + features


def _mode(name: str, sizes: Sizes, probe: Probe | None, working: int, on_gpu: bool, free: dict[str, int]) -> Mode:
    """One mode's bytes and seconds, beside what is free."""
    own = psutil.Process().memory_info().rss if probe else 0  # part of the peak, and taken already
    pass_ram = probe.ram if probe else 0 if on_gpu else working
    pass_gpu = probe.gpu if probe else working if on_gpu else 0
    # What is written is copied out of the device, laid out as a file, and handed on.
    ram = pass_ram + 3 * sizes.resume + (0 if on_gpu else sizes.states[name])
    gpu = pass_gpu + (sizes.states[name] if on_gpu else 0)
    disk = sizes.kept[name] + sizes.rest
    disk_peak = disk + 2 * sizes.resume
    needs = (
        ("disk:", disk_peak + space.RESERVE, free["disk"]),
        ("RAM:", ram - own + RESERVE_RAM, free["ram"]),
        ("GPU memory:", gpu, free["gpu"]),
    )
    short = [f"{what} {need / 1e6:,.0f} MB needed, {has / 1e6:,.0f} MB free" for what, need, has in needs if need > has]
    return Mode(disk, disk_peak, ram, gpu, _seconds(name, sizes, probe), "; ".join(short))


def _seconds(name: str, sizes: Sizes, probe: Probe | None) -> float | None:
    """Of training and replay."""
    if probe is None:
        return None
    # A writer that is slower than the steps makes them wait; reading is as fast as writing at least.
    waiting = max(0.0, probe.write - probe.step) + max(0.0, probe.write - probe.back) if name == "disk" else 0.0
    again = probe.step if name == "recompute" else 0.0
    return probe.other + sizes.steps * probe.step + sizes.counted * (probe.back + waiting + again)


def recommend(modes: dict[str, Mode], free: dict[str, int], states: dict[str, int]) -> str | None:
    """Disk where it fits easily, for further targets need no training then; else what fits."""
    fits = [name for name, mode in modes.items() if not mode.problem]
    if "disk" in fits and modes["disk"].disk_peak <= free["disk"] / 2:
        return "disk"
    if "memory" in fits and states["memory"] <= (free["gpu"] or free["ram"]) / 2:
        return "memory"
    return next((name for name in ("recompute", "disk", "memory") if name in fits), None)


@contextlib.contextmanager
def _memory_errors(device):
    import torch

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ConfigError(
            f"Memory ran out on {device} while measuring.",
            "Carry fewer targets per pass, use a "
            "smaller batch or a narrower model, or wait until other work has ended.",
        ) from error


def _probe(config: RunConfig, dataset, model, device, chunk: int, root: Path, working: int) -> Probe:
    """A few steps of the very model, data and targets, forwards and backwards, and a few writes at `root`."""
    import torch

    from engine import device as devices
    from engine.core import targets as target_values
    from engine.core.check import check_model
    from engine.core.stream import Stream, examples
    from engine.core.training import initial_state, optimizer_for
    from engine.jobs import asked as questions
    from engine.jobs.compiling import SAVES, TAKES, is_wanted, uncompiled

    free = devices.memory_free(device)
    if working > free:
        raise ConfigError(
            f"One pass of {chunk} targets takes about {working / 1e6:,.0f} MB, and "
            f"{free / 1e6:,.0f} MB are free on {device}.",
            "Carry fewer targets per pass, use a smaller batch or a narrower model.",
        )
    peak, dtype = devices.Peak(device, reset=True), getattr(torch, config.state_precision)
    model = model.to(device, dtype)
    train, test = (examples(dataset, split, device, dtype) for split in datasets_base.SPLITS)
    clock = functools.partial(_timed, device)
    featuring, (model, train, test) = _on_features(clock, config, model, train, test)
    optimizer, stream = optimizer_for(model, config.recipe), Stream(train, config.recipe)
    asked = questions.before_training(config.targets, dataset, train, test)
    with devices.exact_arithmetic(), _memory_errors(device):
        checking, _ = clock(check_model, model, stream)
        forwards = uncompiled(model, config.precision)
        forward, state = _forwards(clock, forwards, optimizer, stream, initial_state(model, optimizer))
        evaluating, _ = clock(target_values.logits, model, state, test)
        asking, adjoint = clock(questions.adjoints, model, state, asked, config.target_function)
        backwards = uncompiled(model, config.replays_in(device.type), chunk)
        back = _backwards(clock, backwards, optimizer, stream, state, adjoint)
        write = _writing(clock, state, optimizer, root)
    taken = peak.bytes()
    other = featuring + checking + evaluating * (1 + train.n / test.n) + asking
    counted = stream.steps - window_start(config, stream.steps)
    if is_wanted(config.compile, stream.steps * forward + counted * back, device.type):
        left = 1 - SAVES[device.type]
        forward, back, other = left * forward, left * back, other + TAKES[device.type]
    return Probe(forward, back, write, other, taken["rss"], taken.get("gpu", 0))


def _on_features(clock, config: RunConfig, model, train, test) -> tuple[float, tuple[Any, Any, Any]]:
    """What a run trains and its splits, behind the frozen trunk where there is one, and the seconds that the trunk
    takes of all examples: it is measured on some, whose features stand for the others'."""
    from engine.core.trunk import CHUNK, split

    trunk = split(model, train, config.recipe) if config.frozen else None
    if trunk is None:
        return 0.0, (model, train, test)
    seconds, few = clock(trunk.like_features, train)
    return seconds * (train.n + test.n) / min(CHUNK, train.n), (trunk.rest, few, trunk.like_features(test))


def _timed(device, act, *arguments) -> tuple[float, Any]:
    """Seconds, and what `act` returns."""
    import torch

    began = time.perf_counter()
    result = act(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def _forwards(clock, passes, optimizer, stream, state) -> tuple[float, Any]:
    """Seconds of a training step, and the state after those that were measured."""
    from engine.core.step import step

    def one(state, t: int):
        return step(passes, optimizer, state, stream.at(t))[0]

    seconds = []
    for i in range(min(4 * PROBED, stream.steps + 2)):
        taken, state = clock(one, state, i % stream.steps)
        seconds.append(taken)
    return statistics.median(seconds[2:] or seconds), state


def _backwards(clock, passes, optimizer, stream, state, adjoint) -> float:
    """Seconds of a step backwards with all targets."""
    from engine.core.step import step_back

    scores, seconds = adjoint.theta.new_zeros(adjoint.theta.shape[0], stream.data.n), []
    for i in range(PROBED + 1):
        # At a rate of 0 the adjoint stays what it is, over as many steps as are measured.
        inputs = replace(stream.at(i % stream.steps), lr=0.0)
        taken, (adjoint, score) = clock(step_back, passes, optimizer, state, inputs, adjoint)
        scores[:, inputs.index_B] += score
        seconds.append(taken)
    return statistics.median(seconds[1:])


def _writing(clock, state, optimizer, root: Path) -> float:
    """Seconds of a state's file."""
    from engine.trajectory.state_files import file_tensors, write_state

    tensors = file_tensors(state, optimizer, full=False)
    with tempfile.TemporaryDirectory(prefix=files.TEMPORARY, dir=root) as folder:
        return statistics.median(clock(write_state, Path(folder) / "probe", tensors, {})[0] for _ in range(PROBED))

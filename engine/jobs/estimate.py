"""What a run will take before it is started: memory, disk and time of each replay mode.

Sizes follow from the model's real shapes. A step keeps its parameters and buffers and nothing
else (SGD goes backwards without its momentum, and a batch is rebuilt from its number); a full
checkpoint keeps the momentum too. Time, and the memory of a pass, are measured: a few steps of
the very model, data and targets, forwards and backwards, and a few writes where the run will go.
"""

import contextlib
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from engine import files, space
from engine.config import REPLAY_MODES, RunConfig
from engine.core.schedule import plan_for
from engine.datasets import base as datasets_base
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError
from engine.targets import Target
from engine.trajectory.segments import segment_length

SIDECAR, SIDECAR_TARGET = 1360, 500  # bytes of the JSON beside the scores

SMALL_FILES, A_DIGEST = 12_000, 85  # bytes of configuration, manifest and log; of one digest

RESERVE_RAM = 1 << 30  # bytes left to the system and others

PROBED = 3  # measured steps; the first ones, which allocate, are not among them


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
    steps: int
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
class _Probe:
    step: float  # seconds of a training step
    back: float  # of a step backwards with all targets
    write: float  # of a state's file, written and synced
    other: float  # of the check before, the evaluation after
    ram: int  # peak of the process
    gpu: int


def estimate(config: RunConfig, root: Path, measure: bool = False) -> Estimate:
    """`measure` takes some seconds, and the device. Raises `ConfigError`, `DataError`; needs torch."""
    from engine import device as devices
    from engine.core.memory import bytes_per_target, chunk_that_fits
    from engine.core.training import initial_state, optimizer_for
    from engine.models import registry as model_registry
    from engine.trajectory.state_files import HEADER, bytes_of, file_tensors
    from engine.trajectory.writer import WAITING

    if measure:
        files.check_writable(root)
    dataset = dataset_registry.load(config.dataset)
    device = devices.choose(config.device)
    model = model_registry.build(config, dataset)
    n, k = len(dataset.train_labels), len(config.targets)
    item = 8 if config.precision == "float64" else 4
    optimizer = optimizer_for(model, config.recipe)
    initial = initial_state(model, optimizer)
    state, full = (bytes_of(file_tensors(initial, optimizer, full)) - HEADER for full in (False, True))
    steps = len(plan_for(config.recipe, n))
    segment = segment_length(steps, full + HEADER, config.segment, round(config.checkpoint_mb * 1e6))
    checkpoints = -(-steps // segment)

    # Disk: what each mode keeps of the steps; final state, logits and scores; what a killed run goes on from.
    kept = {"memory": 0, "disk": steps * (state + HEADER), "recompute": checkpoints * (full + HEADER)}
    rest = (
        full
        + 4 * (n + len(dataset.test_labels)) * len(dataset.classes)
        + 4 * k * n
        + SIDECAR
        + SIDECAR_TARGET * k
        + SMALL_FILES
        + A_DIGEST * (checkpoints + 1)
    )
    resume = max(full, k * full + item * k * n)  # two of them: the last, until the next is whole

    # Memory beside the trajectory: the tangents of a pass, adjoints (old and new), scores, pixels.
    height, width, channels = dataset.train_images.shape[1:]
    per_target = bytes_per_target(model, (config.recipe.batch_size, channels, height, width))
    chunk = min(config.targets_per_pass or chunk_that_fits(per_target, k, device), k)
    working = chunk * per_target + 4 * k * full + item * k * n + dataset.train_images.size
    states = {
        "memory": steps * state,
        "disk": min(WAITING + state, steps * state, 8 * state),
        "recompute": segment * state,
    }
    on_gpu = device.type == "cuda"
    probe = _probe(config, model, dataset, device, chunk, root, working) if measure else None
    pass_ram = probe.ram if probe else 0 if on_gpu else working
    pass_gpu = probe.gpu if probe else working if on_gpu else 0

    free = {
        "disk": space.disk_free(root),
        "ram": psutil.virtual_memory().available,
        "gpu": devices.memory_free(device) if on_gpu else 0,
    }
    own = psutil.Process().memory_info().rss if probe else 0  # part of the peak, and taken already
    modes = {}
    for name in REPLAY_MODES:
        seconds = None
        if probe:
            # A writer that is slower than the steps makes them wait; reading is as fast as writing at least.
            waiting = max(0.0, probe.write - probe.step) + max(0.0, probe.write - probe.back) if name == "disk" else 0.0
            again = probe.step if name == "recompute" else 0.0
            seconds = probe.other + steps * (probe.step + probe.back + waiting + again)
        # What is written is copied out of the device, laid out as a file, and handed on.
        ram, gpu = pass_ram + 3 * resume + (0 if on_gpu else states[name]), pass_gpu + (states[name] if on_gpu else 0)
        disk, disk_peak = kept[name] + rest, kept[name] + rest + 2 * resume
        short = [
            f"{what} {need / 1e6:,.0f} MB needed, {has / 1e6:,.0f} MB free"
            for what, need, has in (
                ("disk:", disk_peak + space.RESERVE, free["disk"]),
                ("RAM:", ram - own + RESERVE_RAM, free["ram"]),
                ("GPU memory:", gpu, free["gpu"]),
            )
            if need > has
        ]
        modes[name] = Mode(disk, disk_peak, ram, gpu, seconds, "; ".join(short))
    return Estimate(
        model.parameters,
        model.buffers,
        steps,
        segment,
        state + HEADER,
        free["disk"],
        free["ram"],
        free["gpu"],
        str(device),
        devices.describe(device),
        steps * probe.step if probe else None,
        modes,
        _recommend(modes, free, states),
    )


def _recommend(modes: dict[str, Mode], free: dict[str, int], states: dict[str, int]) -> str | None:
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


def _probe(config: RunConfig, model, dataset, device, chunk: int, root: Path, working: int) -> _Probe:
    import torch

    from engine import device as devices
    from engine.core import targets as phi
    from engine.core.check import check_model
    from engine.core.step import step, step_back
    from engine.core.stream import Stream, examples
    from engine.core.training import initial_state, optimizer_for
    from engine.trajectory.state_files import file_tensors, write_state

    free = devices.memory_free(device)
    if working > free:
        raise ConfigError(
            f"One pass of {chunk} targets takes about {working / 1e6:,.0f} MB, and "
            f"{free / 1e6:,.0f} MB are free on {device}.",
            "Carry fewer targets per pass, use a smaller batch or a narrower model.",
        )

    def timed(act) -> tuple[float, object]:
        began = time.perf_counter()
        result = act()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began, result

    recipe, dtype = config.recipe, getattr(torch, config.precision)
    peak = devices.Peak(device, reset=True)
    model = model.to(device, dtype)
    train, test = (examples(dataset, split, device, dtype) for split in datasets_base.SPLITS)
    optimizer, stream = optimizer_for(model, recipe), Stream(train, recipe)
    sets = [Target.parse(t).resolve(dataset.test_labels, len(dataset.classes)) for t in config.targets]
    with devices.exact_arithmetic(), _memory_errors(device):
        other = timed(lambda: check_model(model, stream))[0]
        state, forward, back = initial_state(model, optimizer), [], []

        def forwards(t: int):
            return step(model, optimizer, state, stream.at(t))[0]

        for i in range(min(4 * PROBED, stream.steps + 2)):
            seconds, state = timed(lambda: forwards(i % stream.steps))
            forward.append(seconds)
        other += timed(lambda: phi.logits(model, state, test))[0] * (1 + train.n / test.n)
        seconds, adjoint = timed(lambda: phi.adjoints(model, state, test, sets, config.target_function))
        other += seconds
        scores = adjoint.theta.new_zeros(len(sets), train.n)
        for i in range(PROBED + 1):
            # At a rate of 0 the adjoint stays what it is, over as many steps as are measured.
            inputs = replace(stream.at(i % stream.steps), lr=0.0)
            seconds, (adjoint, score) = timed(lambda: step_back(model, optimizer, state, inputs, adjoint, chunk))
            scores[:, inputs.index_B] += score
            back.append(seconds)
        with tempfile.TemporaryDirectory(prefix=files.TEMPORARY, dir=root) as folder:
            tensors = file_tensors(state, optimizer, full=False)
            write = statistics.median(
                timed(lambda: write_state(Path(folder) / "probe", tensors, {}))[0] for _ in range(PROBED)
            )
    taken = peak.bytes()
    return _Probe(
        statistics.median(forward[2:] or forward),
        statistics.median(back[1:]),
        write,
        other,
        taken["rss"],
        taken.get("gpu", 0),
    )

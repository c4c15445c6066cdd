"""Which of a run's steps are compiled (`engine.core.compiled`), and the compiling itself, as a phase of a job.

    compile = off      none
    compile = on       all; where that cannot be, the log says why, and the work goes on step by step
    compile = auto     where it pays: two steps are measured, and what compiled ones would save over the whole training
                       and replay must be `WORTH` times what the compiling takes

How a run was trained stands in its manifest (`compiled`): its steps are run again in that way, to the same bits, in
every mode, when it is resumed and when it is retrained. Where a run's compiled steps cannot be made, as on a machine
without a compiler, `ConfigError` says so. Steps backwards change no state: each replay decides for itself.
"""

import time
from typing import TYPE_CHECKING

import torch

from engine.core.code_cache import keep_in
from engine.core.compiled import Compiled, CompileError
from engine.core.converted import Converted, converted
from engine.core.memory import largest_batch
from engine.core.state import Adjoint
from engine.core.step import Eager, Passes, step, step_back
from engine.errors import ConfigError
from engine.models.functional import FunctionalModel

if TYPE_CHECKING:
    from engine.jobs.session import Session

# Measured (docs/performance.md). What compiling saves, as a part of the time that steps take one operation at a time:
SAVES = {"cpu": 0.45, "cuda": 0.75}

TAKES = {"cpu": 60.0, "cuda": 90.0}  # seconds of compiling all, from an empty folder

WORTH = 2.0

# Of what a forward pass saves in float32, a step backwards of one target holds (measured, docs/performance.md): not
# compiled, and compiled by its precision.
COPIES = {"off": 4.0, "float64": 2.0, "float32": 2.0, "tf32": 2.0, "bfloat16": 1.2}

WIDTH = {"cpu": 4, "cuda": 1}  # targets that a compiled pass carries: more leave the caches, or take memory for nothing


def pays(seconds: float, kind: str) -> bool:
    """Whether to compile steps that take `seconds` in all, on a kind of device."""
    return SAVES[kind] * seconds > WORTH * TAKES[kind]


def is_wanted(setting: str, seconds: float, kind: str) -> bool:
    """The same for a run's setting: auto, on or off."""
    return setting == "on" or (setting == "auto" and pays(seconds, kind))


def check_batch(session: "Session") -> None:
    """Raises `ConfigError`, with the number that fits, for batches that are too large for the device."""
    config, shape = session.config, session.stream.batch_shape
    copies = COPIES["off" if config.compile == "off" else config.replays_in(session.device.type)]
    fits = largest_batch(session.model, shape, copies, session.device)
    if fits < shape[0]:
        raise ConfigError(
            f"A step of {shape[0]:,} images takes more memory than {session.device} has.",
            f"Choose a batch size of {max(2, fits):,} or less, or a narrower model.",
            {"recipe.batch_size": f"{max(2, fits):,} images fit into the memory of {session.device}"},
        )


def forwards(session: "Session") -> Passes:
    """The passes of the training's own steps. Decides for a run that was not trained, and writes down what."""
    precision = session.config.precision
    compiled = is_compiled(session)
    if not compiled:
        return Eager(session.model, precision)
    passes = _compiled(session, precision, None)
    if passes is not None:
        return passes
    if session.manifest.trained or session.manifest.compiled:
        raise ConfigError(
            f"Run {session.run.id} was trained with compiled steps, which cannot be made here; the log says why.",
            "Use the machine that trained it, install a C++ compiler (g++), or start a new run.",
        )
    session.journal.update(compiled=False)
    return Eager(session.model, precision)


def backwards(session: "Session", width: int) -> Passes:
    """The passes of steps backwards. Not compiled they carry `width` targets at a time; compiled as many, or as many as
    pay on this kind of device."""
    precision, config = session.config.replays_in(session.device.type), session.config
    if config.compile == "on" or (config.compile == "auto" and is_compiled(session)):
        passes = _compiled(session, precision, config.targets_per_pass or min(width, WIDTH[session.device.type]))
        if passes is not None:
            return passes
    return uncompiled(session.model, precision, width)


def is_compiled(session: "Session") -> bool:
    """Whether the training's steps are compiled: as its manifest says; decided, and written there, before the first."""
    manifest = session.run.manifest()
    if manifest.compiled is not None:
        return manifest.compiled
    # One that began before there were compiled steps goes on without.
    compiled = session.manifest.training_digest is None and _wanted(session)
    session.journal.update(compiled=compiled)
    return compiled


def uncompiled(model: FunctionalModel, precision: str, chunk: int | None = None) -> Passes:
    """Passes one operation at a time, `chunk` targets a pass, of a model whose states may be of another precision."""
    dtype = _dtype(precision)
    if dtype == model.dtype:
        return Eager(model, precision, chunk)
    return Converted(Eager(model.to(model.theta0.device, dtype), precision, chunk), dtype)


def _dtype(precision: str) -> torch.dtype:
    return torch.float64 if precision == "float64" else torch.float32


def _wanted(session: "Session") -> bool:
    if session.config.compile != "auto":
        return session.config.compile == "on"
    seconds = _measured(session, len(session.config.targets))
    yes = pays(seconds, session.device.type)
    session.journal.note(
        f"One operation at a time, training and replay would take about {seconds:,.0f} s: "
        f"{'steps are compiled' if yes else 'too little for compiling to pay'}."
    )
    return yes


def _measured(session: "Session", targets: int) -> float:
    """Seconds that all steps take, and all target-steps, one operation at a time; from the second of two each."""
    state, inputs, device = session.initial, session.stream.at(0), session.device
    some = min(targets, WIDTH["cpu"])
    theta, *opt, buffers = (part.new_ones(some, part.numel()) for part in state.parts)
    adjoint, k = Adjoint(theta, tuple(opt), buffers), session.optimizer

    def timed(act) -> float:
        for _ in range(2):
            _wait(device)
            began = time.perf_counter()
            act()
            _wait(device)
        return time.perf_counter() - began

    forward = timed(lambda: step(uncompiled(session.model, session.config.precision), k, state, inputs))
    passes = uncompiled(session.model, session.config.replays_in(device.type), some)
    back = timed(lambda: step_back(passes, k, state, inputs, adjoint)) / some
    return session.steps * forward + session.counted * targets * back


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _compiled(session: "Session", precision: str, width: int | None) -> Passes | None:
    """Compiled forwards (`width` None), or backwards; None where that cannot be, which the log then says."""
    journal, dtype = session.journal, _dtype(precision)
    same = dtype == session.dtype
    model = session.model if same else session.model.to(session.device, dtype)
    example = session.initial, session.stream.at(0)
    meter = journal.phase("compile", 1 if width is None else 3)
    began = time.monotonic()
    for note in keep_in(session.run.root):
        journal.note(note)
    passes = Compiled(
        model,
        precision,
        example if same else converted(*example, dtype),
        lambda done, parts: meter.report(done),
    )
    try:
        if width is None:
            passes.compile_forwards()
        else:
            _compile_backwards(passes, width, session.optimizer.needs_grad, journal.note)
    except CompileError as error:
        journal.note(f"Steps are not compiled. {error.what}")
        return None
    which = "Steps" if width is None else "Steps backwards"
    journal.note(f"{which} were compiled in {time.monotonic() - began:.1f} s.")
    return passes if same else Converted(passes, dtype)


def _compile_backwards(passes: Compiled, width: int, needs_grad: bool, note) -> None:
    """As many targets a pass as the memory has room for, from `width` downwards: found by running it."""
    while True:
        try:
            return passes.compile_backwards(width, needs_grad)
        except torch.OutOfMemoryError:
            if width == 1:
                raise
        torch.cuda.empty_cache()
        note(f"Memory ran out with {width} targets a pass; {width // 2} are tried.")
        width //= 2

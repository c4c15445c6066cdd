"""«Will this recipe be trustworthy?»: the metasmoothness of a training's first half, before anything is run.

    from pathlib import Path
    from engine.jobs import probe

    outputs = Path("outputs")
    cost = probe.cost(config)                      # Cost(trainings=4, steps=360, seconds=21.3): say it before
    report = probe.known(outputs, config)          # what was measured before, or None
    report = report or probe.measure(outputs, config)
    report.verdict.level, report.verdict.reason    # one of engine.analysis.trust.LEVELS, and a sentence with the number

In the app the process's one worker measures, and the page looks again:

    probing = JobQueue.of(outputs).probe(config)   # at once; the same one where it is queued already
    probing.state                                  # "queued", "working", "done", "cancelled" or "failed"
    probing.step, probing.steps, probing.seconds_left, probing.report, probing.error
    probing.cancel()

Four trainings go along a line of example weights, 1 − h v, 1, 1 + h v and 1 + 2 h v, v normal and h as in
`engine.core.retraining`, through the first `FRACTION` of the steps, which the peak of the learning rate is in. Each
step along the line moves the parameters; metasmoothness (arXiv 2503.13751, definition 2) asks whether the next one
moves them on in the same direction, twice. Near 1 the scores' derivative foretells what a change does.

Where weights count from a step s on (`RunConfig.window`), the steps before it are trained once, with weights of 1, and
the four go on from there through the first `FRACTION` of the steps that count.

The measurement belongs to a training, not to a run: it is kept as outputs/.probes/<training digest>.json, with -<s>
behind the digest where there is a window, whole or not at all. It sees chaos, and not everything: a training that is
smooth, and fits its images closely, has scores that foretell less (docs/trust.md). So it says what is worth running; a
validation says what to rely on. No torch until it measures.
"""

import dataclasses
import datetime
import math
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import engine
from engine import files
from engine.analysis.trust import LEVELS
from engine.config import RunConfig, check, window_start
from engine.core.schedule import plan_for
from engine.datasets import registry as dataset_registry
from engine.datasets.base import Dataset
from engine.errors import CancelledError, DivergedError, IntegrityError, ReplayError
from engine.jobs.cancel import Cancel, process_ends

if TYPE_CHECKING:
    import torch

    from engine.core.state import State
    from engine.core.stream import Stream
    from engine.models.functional import FunctionalModel

FOLDER = ".probes"  # of the outputs folder

LINE = (-1.0, 0.0, 1.0, 2.0)  # nudges of the weights, one a training

FRACTION = 0.5  # of the steps; half of a one-cycle holds its peak

# Over 87 recipes (docs/trust.md): from GOOD on, 66 of 71 had an LDS of 0.9 or more; below POOR all had 0.53 at most.
GOOD, POOR = 0.9, 0.5

TIMED = 3  # steps, for the cost; the first ones, which allocate, are not among them

CANCELLED = "The probe was cancelled.", "Nothing of it is kept; start it again."

OnProgress = Callable[[int, int, float | None], None]
"""Called with (steps done, steps in all, seconds left)."""


@dataclass(frozen=True)
class Cost:
    """What a probe takes: `steps` over all trainings, and seconds."""

    trainings: int
    steps: int
    seconds: float


class Verdict(NamedTuple):
    """`level` of `engine.analysis.trust.LEVELS`, and the reason in a sentence or two."""

    level: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What was measured. `metasmoothness` of either step along the line, from −1 to 1; none where training diverged, or
    where the weights changed nothing."""

    training_digest: str
    metasmoothness: tuple[float, ...]
    steps: int  # of each training, that count
    of: int  # steps of the whole training
    seconds: float
    device: str
    version: str
    created: str  # ISO 8601
    diverged: str = ""  # what was said of it
    start: int = 0  # the step, from 0, from which on weights count

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.metasmoothness) if self.metasmoothness else None

    @property
    def verdict(self) -> Verdict:
        if self.diverged:
            return Verdict(LEVELS[2], f"{self.diverged} Lower the peak learning rate.")
        over = f"over the first {self.steps:,} of {self.of:,} steps"
        if self.start:
            over = f"over steps {self.start + 1:,} to {self.start + self.steps:,} of {self.of:,}, where weights count"
        if self.mean is None:
            return Verdict(LEVELS[1], f"Other weights of the images changed nothing {over}: there is nothing to judge.")
        said = f"The metasmoothness is {self.mean:.2f} {over}"
        if self.mean >= GOOD:
            return Verdict(
                LEVELS[0],
                f"{said}: of 71 recipes as smooth as this, 66 agreed with retraining (LDS 0.9 or more). The others "
                "fitted their images closely, which shows later: validate the run to be sure.",
            )
        if self.mean >= POOR:
            return Verdict(
                LEVELS[1],
                f"{said}, not quite smooth: recipes like this had an LDS of 0.41 to 0.92. A lower peak learning rate, "
                "larger batches or lower logits help.",
            )
        return Verdict(
            LEVELS[2],
            f"{said}: training is chaotic, and its scores would foretell little. Lower the peak learning rate first.",
        )

    def to_json(self) -> dict:
        return {"kind": "probe", **dataclasses.asdict(self)}


# -- before


def steps_of(config: RunConfig, training: int) -> tuple[int, int, int]:
    """Steps before weights count, which are trained once; steps of each training of the probe from there on; and steps
    of the whole training, of so many training images."""
    whole = len(plan_for(config.recipe, training))
    start = window_start(config, whole)
    return start, max(1, round(FRACTION * (whole - start))), whole


def cost(config: RunConfig, train_seconds: float | None = None) -> Cost:
    """What measuring takes. `train_seconds` of the whole training, as an estimate measures them; without it a few steps
    are timed now (needs torch, and a second). Raises `ConfigError`, `DataError`, `ModelError`."""
    dataset = dataset_registry.load(config.dataset)
    start, probed, whole = steps_of(config, dataset.sizes.n_train)
    a_step = _seconds_a_step(config, dataset) if train_seconds is None else train_seconds / whole
    steps = start + len(LINE) * probed
    return Cost(len(LINE), steps, a_step * steps)


def known(root: Path, config: RunConfig) -> Report | None:
    """What was measured of this training; None where nothing was. Raises `IntegrityError` for a damaged file."""
    dataset = dataset_registry.load(config.dataset)
    digest, start = config.training_digest(dataset.fingerprint), steps_of(config, dataset.sizes.n_train)[0]
    path = path_of(root, digest, start)
    if not path.exists():
        return None
    remedy = f"Delete {path}, and measure again."
    content = files.read_json(path, remedy)
    names = {each.name for each in dataclasses.fields(Report)}
    content = {"start": 0, **content} if isinstance(content, dict) else content  # before there were windows
    if not isinstance(content, dict) or content.keys() != names | {"kind"} or content["kind"] != "probe":
        raise IntegrityError(f"{path} is no probe.", remedy)
    values = {name: content[name] for name in names}
    smoothness = values["metasmoothness"]
    numbers = [values[name] for name in ("steps", "of", "seconds", "start")] + (
        smoothness if type(smoothness) is list else [""]
    )
    foreign = (values["training_digest"], values["start"]) != (digest, start)
    if foreign or not all(type(number) in (int, float) for number in numbers):
        raise IntegrityError(f"{path} is damaged, or belongs to another training.", remedy)
    texts = {name: str(values[name]) for name in ("device", "version", "created", "diverged")}
    return Report(**{**values, **texts, "metasmoothness": tuple(smoothness)})


def path_of(root: Path, training_digest: str, start: int = 0) -> Path:
    return root / FOLDER / f"{training_digest}{f'-{start}' if start else ''}.json"


# -- measuring


def measure(
    root: Path,
    config: RunConfig,
    cancel: threading.Event | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Measures, whatever is known, and keeps the report below `root`.

    `cancel` ends it at the next step with `CancelledError`; nothing is left then. Raises `ConfigError` for what cannot
    be run, `DataError`, `ModelError`, `StorageError`.
    """
    import torch

    from engine import device as devices
    from engine.core.retraining import NUDGE, direction

    files.check_writable(root)
    dataset = dataset_registry.reload(config.dataset)
    check(config, *dataset.sizes)
    device = devices.choose(config.device)
    began, digest = time.monotonic(), config.training_digest(dataset.fingerprint)
    start, probed, whole = steps_of(config, dataset.sizes.n_train)
    watch = _Watch(start + len(LINE) * probed, cancel or threading.Event(), on_progress)
    diverged, smoothness = "", ()
    with devices.exact_arithmetic():
        model, stream = _learning(config, dataset, device)
        v = NUDGE * direction(stream.data.n, 0)
        try:
            first = _trained(model, stream, torch.ones_like(v), None, 0, start, watch)
            states = [_trained(model, stream, 1 + factor * v, first, start, start + probed, watch) for factor in LINE]
            smoothness = _smoothness(states)
        except DivergedError as error:
            diverged = error.what
    report = Report(
        digest,
        smoothness,
        probed,
        whole,
        round(time.monotonic() - began, 2),
        devices.describe(device) + ("" if device.type == "cuda" else f", {torch.get_num_threads()} threads"),
        engine.__version__,
        datetime.datetime.now().astimezone().isoformat("T", "seconds"),
        diverged,
        start,
    )
    watch.check()
    folder = root / FOLDER
    files.make_folder(folder)
    files.sweep(folder)
    files.write_json(path_of(root, digest, start), report.to_json())
    return report


def _learning(config: RunConfig, dataset: Dataset, device: "torch.device | str") -> "tuple[FunctionalModel, Stream]":
    """Model and stream as a run has them (`engine.jobs.session`)."""
    import torch

    from engine.core.stream import Stream, examples
    from engine.core.trunk import split
    from engine.models import registry as model_registry

    model = model_registry.build(config, dataset, device)
    train = examples(dataset, "train", torch.device(device), getattr(torch, config.state_precision))
    trunk = split(model, train, config.recipe) if config.frozen else None
    if trunk is not None:
        model, train = trunk.rest, trunk.features(train)
    return model, Stream(train, config.recipe)


def _trained(
    model: "FunctionalModel",
    stream: "Stream",
    weights_N: "torch.Tensor",
    state: "State | None",
    start: int,
    stop: int,
    watch: "_Watch",
) -> "State":
    """The state before step `stop` of a training that has these example weights, float64 [N], from `state`, that before
    step `start`, on; the initial one where None."""
    import torch

    from engine.core.training import advance, initial_state, optimizer_for

    weighted = stream.weighted(weights_N.to(stream.data.device, model.theta0.dtype))
    if state is None:
        state = initial_state(model, optimizer_for(model, stream.recipe))
    state = advance(model, weighted, state, start, stop, before_step=watch)
    if not torch.isfinite(state.theta).all():
        raise DivergedError(f"Training left the finite numbers within {stop:,} steps.", "Lower the peak learning rate.")
    return state


def _smoothness(states: "list[State]") -> tuple[float, ...]:
    """Of each three states in a row along the line; none where the first nudge moved nothing."""
    from engine.core.retraining import metasmoothness

    values = [metasmoothness(*three) for three in zip(states, states[1:], states[2:], strict=False)]
    return () if any(map(math.isnan, values)) else tuple(values)


class _Watch:
    """Called before each step: ends the probe where it shall end, and says how far it is."""

    def __init__(self, steps: int, cancel: threading.Event, on_progress: OnProgress | None):
        self.steps, self.done, self.cancel, self.on_progress = steps, 0, cancel, on_progress
        self.began = time.monotonic()

    def check(self) -> None:
        if self.cancel.is_set() or process_ends():
            raise CancelledError(*CANCELLED)

    def __call__(self, t: int) -> None:
        self.check()
        if self.on_progress is not None:
            taken = time.monotonic() - self.began
            left = taken / self.done * (self.steps - self.done) if self.done else None
            self.on_progress(self.done, self.steps, left)
        self.done += 1


def _seconds_a_step(config: RunConfig, dataset: Dataset) -> float:
    """The median of `TIMED` steps."""
    import torch

    from engine import device as devices
    from engine.core.step import step
    from engine.core.training import initial_state, optimizer_for

    device = devices.choose(config.device)
    with devices.exact_arithmetic():
        model, stream = _learning(config, dataset, device)
        optimizer = optimizer_for(model, stream.recipe)
        state, seconds = initial_state(model, optimizer), []
        for t in range(TIMED + 2):
            began = time.perf_counter()
            state = step(model, optimizer, state, stream.at(t % stream.steps))[0]
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


# -- in the background


@dataclass(eq=False)
class Probing:
    """A probe in the worker's hands, as a page looks at it: nothing here waits, and nothing but `cancel` changes it."""

    root: Path
    config: RunConfig
    state: str = "queued"  # working, done, cancelled, failed
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    report: Report | None = None  # once it is done
    error: ReplayError | None = None  # where it failed, or was cancelled
    asked_to_stop: Cancel = field(default_factory=Cancel)

    @property
    def ends(self) -> bool:
        """Whether there is nothing more to come."""
        return self.state not in ("queued", "working")

    def cancel(self) -> None:
        """Asks it to stop before its next step; one that is queued never begins. Nothing of it is kept."""
        self.asked_to_stop.set()
        if self.state == "queued":
            self._end_cancelled()

    def work(self) -> None:
        """Measures; whatever happens is told by `state`, `report` and `error`. For the worker alone."""
        if self.asked_to_stop.is_set():
            self._end_cancelled()
            return
        self.state = "working"
        try:
            self.report = measure(self.root, self.config, self.asked_to_stop, self._progress)
            self.state = "done"
        except CancelledError as error:
            self.error, self.state = error, "cancelled"
        except ReplayError as error:
            self.error, self.state = error, "failed"
        except BaseException as error:
            self.fail(f"{type(error).__name__}: {error}")
            raise

    def _end_cancelled(self) -> None:
        self.error = CancelledError(*CANCELLED)
        self.state = "cancelled"

    def fail(self, what: str) -> None:
        self.error = ReplayError(what, "This was not foreseen. The server's log has the traceback.")
        self.state = "failed"

    def _progress(self, done: int, of: int, seconds_left: float | None) -> None:
        self.step, self.steps, self.seconds_left = done, of, seconds_left

"""From a run's events to what *Live* draws: the last word on each meter, and the series. No torch."""

from dataclasses import dataclass, field

from engine.runs import events as log

DRAWN = 600  # points of a series that are worth drawing


@dataclass
class Progress:
    """A run as its events tell it. Times in seconds, sizes in bytes, `rate` in steps a second."""

    phase: str = "queued"  # queued, prepare, compile, train, evaluate, replay, rebuild, retrain, gradients, done
    step: int = 0
    steps: int = 0
    rate: float | None = None
    seconds_left: float | None = None  # of this phase
    job: str = ""  # the kind of the job that was begun last; its fields
    fields: dict = field(default_factory=dict)
    phases: list[dict] = field(default_factory=list)  # that it goes through: `phase`, and its `cost` in training steps
    step_seconds: float | None = None  # of a training step: as measured before, then as in this job
    fraction: float = 0.0  # of this phase
    losses: list[float] = field(default_factory=list)  # one a training step
    rates: list[float] = field(default_factory=list)  # learning rate of each
    meters: dict[str, float | None] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # (time, bytes)
    accuracies: list[tuple[int, float]] = field(default_factory=list)  # (steps done, share of test images), by epoch
    images: int = 0  # test images that the last of them is of
    error: dict | None = None  # what, remedy
    paused: dict | None = None  # while it waits for space: needed, disk_free
    ranks: list[dict] = field(default_factory=list)  # of each process that shares the work, as `engine.runs.events` has
    damage: list[str] = field(default_factory=list)  # what is wrong with the log, each thing once

    _begun: tuple[float, int] | None = None  # when the phase in hand began, and with how many steps done
    _fractions: dict[str, float] = field(default_factory=dict)  # of the phases that were begun

    @property
    def seconds_in_all(self) -> float | None:
        """Left of the job in hand, over all of its phases. None where nothing was measured yet, or where its kind does
        not foretell them (`Job.ahead`)."""
        if not self.phases:
            return None
        names = [each["phase"] for each in self.phases]
        last = max((i for i, name in enumerate(names) if name in self._fractions), default=-1)
        left = self.seconds_left if self.phase not in names else 0.0
        for i, each in enumerate(self.phases):
            if each["phase"] == self.phase and self.seconds_left is not None:
                seconds = self.seconds_left
            elif i < last:
                seconds = 0.0
            elif self.step_seconds is None:
                return None
            else:
                seconds = each["cost"] * self.step_seconds * (1 - self._fractions.get(each["phase"], 0.0))
            left = (left or 0.0) + seconds
        return left

    def points(self, meter: str) -> tuple[list[float], list[float]]:
        """Minutes since the first look, and bytes; thinned to what can be seen."""
        series = self.series.get(meter, [])
        every = len(series) // DRAWN + 1
        kept = series[::-1][::every][::-1]  # the newest always
        return [(then - series[0][0]) / 60 for then, _ in kept], [value for _, value in kept]


def follow(progress: Progress, events: list[dict]) -> Progress:
    """Takes more events in, in their order. A `started` begins anew, keeping the curves; a training
    that is resumed after `done` steps drops what was drawn of the steps that are run again."""
    for event in events:
        kind = event["kind"]
        if kind == "queued":  # what a job before it came to is over
            progress.phase, progress.step, progress.steps, progress.fraction = "queued", 0, 0, 0.0
            progress.rate = progress.seconds_left = progress.error = None
            progress.job, progress.fields, progress.phases = event.get("job", ""), {}, []
        elif kind == "started":
            progress.error = progress.paused = None
            progress.ranks = []
            progress.series = {}  # another process, or another day: its meters begin anew
            progress.phase, progress.step, progress.steps, progress.fraction = "prepare", 0, 0, 0.0
            progress.rate = progress.seconds_left = None
            progress.job, progress.fields = event.get("job", ""), event.get("fields", {})
            progress.phases, progress.step_seconds = event.get("phases", []), event.get("step_seconds")
            progress._fractions = {}
        elif kind == "phase":
            done = event.get("done", 0)
            progress.phase, progress.step, progress.steps = event["phase"], done, event["steps"]
            progress.rate = progress.seconds_left = None
            progress.fraction = done / event["steps"] if event["steps"] else 0.0
            if event["phase"] == "train":
                progress.losses, progress.rates = progress.losses[:done], progress.rates[:done]
                progress.accuracies = [each for each in progress.accuracies if each[0] <= done]
            progress._begun = (event.get("time", 0.0), done)
            progress._fractions[event["phase"]] = progress.fraction
        elif kind == "progress":
            _advance(progress, event)
        elif kind == "accuracy":
            progress.accuracies.append((event["step"], event["accuracy"]))
            progress.images = event["images"]
        elif kind == "ranks":
            progress.ranks = event["ranks"]
        elif kind == "unreadable":
            if event["what"] not in progress.damage:
                progress.damage.append(event["what"])
        elif kind == "paused":
            progress.paused = {"needed": event["needed"], "disk_free": event["disk_free"]}
        elif kind == "continued":
            progress.paused = None
        elif kind == "finished":
            progress.phase, progress.fraction, progress.seconds_left = "done", 1.0, None
            progress.ranks = []
        elif kind in log.TERMINAL:
            progress.seconds_left = progress.paused = None
            progress.error = {"what": event.get("what", ""), "remedy": event.get("remedy", "")}
    return progress


def _advance(progress: Progress, event: dict) -> None:
    progress.phase, progress.step, progress.steps = event["phase"], event["step"], event["steps"]
    progress.fraction = progress.step / progress.steps if progress.steps else 0.0
    progress.rate = event.get("rate")
    if progress.rate:
        progress.seconds_left = (progress.steps - progress.step) / progress.rate
    progress._fractions[progress.phase] = progress.fraction
    _measure(progress, event["time"])
    progress.losses.extend(event.get("losses", []))
    progress.rates.extend(event.get("rates", []))
    for meter in log.METERS:
        if event.get(meter) is not None:
            progress.meters[meter] = event[meter]
            progress.series.setdefault(meter, []).append((event["time"], event[meter]))


def _measure(progress: Progress, now: float) -> None:
    """Takes the seconds of a training step from the phase in hand: what is to come gets the same share of the cores."""
    cost = next((each["cost"] for each in progress.phases if each["phase"] == progress.phase), 0)
    if not cost or progress._begun is None or not progress.steps:
        return
    began, before = progress._begun
    if progress.step > before and now > began:
        progress.step_seconds = (now - began) / (progress.step - before) * progress.steps / cost

"""What a run is called: the name that a person gave it, else what it is: «Sample, seed 1 · 84.2 % · 16:52».

All of this is text, to be drawn by `ui.text`.
"""

import datetime
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from engine import model_names
from engine.datasets.names import DatasetName
from engine.errors import ConfigError
from engine.runs.run import Summary
from ui import formats
from ui.text import line

DATA = {
    "fashion-mnist-sample": "Sample",
    "fashion-mnist-sample-noisy": "Noisy sample",
    "fashion-mnist": "Fashion-MNIST",
}
USUAL_MODEL = "small-cnn"  # goes without saying where the data are one of `DATA`


def of(run: Summary) -> str:
    return run.name or made_of(run)


def made_of(run: Summary) -> str:
    """The name of a run that nobody named; of one that cannot be read, its id."""
    if run.remark or not run.dataset:
        return run.id
    if method := model_names.method_of(run.model):
        return " · ".join([f"{method} scores", data(run.dataset), when(run.created)])
    what = [data(run.dataset)]
    if run.model and (run.dataset not in DATA or run.model != USUAL_MODEL):
        what.append(run.model)
    if run.seed is not None:
        what.append(f"seed {run.seed}")
    if run.window:
        what.append(run.window)
    accuracy = [formats.percent(run.test_accuracy)] if run.test_accuracy is not None else []
    return " · ".join([", ".join(what), *accuracy, when(run.created)])


def model(name: str) -> str:
    """A model's name; of imported scores, whose they are."""
    method = model_names.method_of(name)
    return f"scores of {method}" if method else name


def data(dataset: str) -> str:
    """A data set in a word or two: of one's own, the last part of where it is."""
    try:
        name = DatasetName.parse(dataset)
    except ConfigError:
        return dataset
    return PurePath(name.place).name or name.place if name.kind else DATA.get(dataset, dataset)


def when(created: str, now: datetime.datetime | None = None) -> str:
    """The time of day; on another day with the date, in another year with that."""
    try:
        then = datetime.datetime.fromisoformat(created)
    except ValueError:
        return "—"
    now = now or datetime.datetime.now(then.tzinfo)
    if then.date() == now.date():
        return f"{then:%H:%M}"
    return f"{then.day} {then:%b} {then:%H:%M}" if then.year == now.year else f"{then.day} {then:%b %Y %H:%M}"


def labels(runs: Iterable[Summary]) -> dict[str, str]:
    """By id, what a list offers to choose from. Where several runs have one name, it is followed by their ids:
    Streamlit tells choices by what they show."""
    names = {run.id: line(of(run)) for run in runs}
    while several := {name for name, count in Counter(names.values()).items() if count > 1}:
        names = {run_id: f"{name} · {run_id}" if name in several else name for run_id, name in names.items()}
    return names

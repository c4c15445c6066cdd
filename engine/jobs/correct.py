"""Training again with corrections: the configuration of a run beside the one that was corrected. No torch."""

from engine.config import RunConfig
from engine.datasets import corrected
from engine.datasets.base import Dataset
from engine.errors import ConfigError, ReplayError
from engine.runs import corrections, notes
from engine.runs.manifest import Manifest
from engine.runs.run import Run, Summary
from engine.targets import Target, TrainImage


def dataset_of(run: Run, dataset: Dataset) -> str:
    """The name of the run's data set with its corrections, which is made where it is not there yet. Raises
    `ConfigError` where nothing is corrected."""
    decided = corrections.read(run, len(dataset.train_labels), len(dataset.classes))
    if not len(decided):
        raise ConfigError(
            f"Run {run.id} has no corrections yet: no label is another one, and no image is left out.",
            "Decide on its suspects, on the page Triage, or read a labels.csv.",
        )
    return corrected.make(dataset, decided.labels, decided.excluded)


def config_of(run: Run, record: Manifest, dataset: Dataset) -> RunConfig:
    """The run's own configuration on its corrected data set. What asks about a training image that was left out, or is
    another one by now, is not asked again.

    Raises `ConfigError` for a run whose model is not here, as that of one that was saved from Python.
    """
    if record.from_python or not record.config.model:
        raise ConfigError(
            f"Run {run.id} cannot be trained again here: its model is not here.",
            "Train in Python on the labels that labels.csv has, and save that.",
        )
    name = dataset_of(run, dataset)
    excluded = corrections.read(run).excluded
    place = {int(origin): i for i, origin in enumerate(corrected.origins(len(dataset.train_labels), excluded))}
    targets = []
    for text in record.config.targets:
        target = Target.parse(text)
        if isinstance(target, TrainImage):
            if target.index in place:
                targets.append(f"train:{place[target.index]}")
        else:
            targets.append(text)
    return record.config.replace(dataset=name, targets=tuple(targets) or ("test:all",))


def name_of(run: Run) -> str:
    """Of the new run, where the one that was corrected has a name."""
    name = notes.name_of(run)
    return f"{name[: notes.LONGEST_NAME - 11]}, corrected" if name else ""


def runs_of(record: Manifest, others: list[Summary]) -> list[Summary]:
    """The runs that were trained on corrections of this one's data, in the order of `others`."""
    recipes = {other.id: _recipe(other.dataset) for other in others if other.dataset.startswith(f"{corrected.KIND}:")}
    mine = record.data_fingerprint
    return [other for other in others if (recipe := recipes.get(other.id)) is not None and recipe.of == mine]


def runs_before(record: Manifest, others: list[Summary]) -> list[Summary]:
    """Of a run on corrected data, those on the data as they were before; none of any other run."""
    recipe = _recipe(record.config.dataset) if record.config.dataset.startswith(f"{corrected.KIND}:") else None
    return [other for other in others if recipe is not None and other.data_fingerprint == recipe.of]


def _recipe(dataset: str) -> corrected.Recipe | None:
    try:
        return corrected.read(dataset)
    except ReplayError:  # whoever opens that run is told
        return None

"""The command `corrections`: what a person decided on a run's labels, as a file, a folder, a data set or a run."""

from collections.abc import Iterator
from pathlib import Path

from engine import files
from engine.analysis import labels_file
from engine.analysis.wording import count
from engine.config import RunConfig
from engine.datasets import corrected_folder
from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs import correct
from engine.runs import corrections
from engine.runs.corrections import Corrections
from engine.runs.run import Run

SHOWN = 20  # corrections that are printed


def dataset_of(run: Run) -> Dataset:
    """Raises `DataError` where the data are not those that the run was made with: its numbers are not theirs."""
    record = run.manifest()
    dataset = datasets.load(record.config.dataset)
    remedy = "Restore it; or correct the labels of a run on the data as they are now."
    datasets.require_same(dataset, record.config.dataset, record.data_fingerprint, f"run {run.id}", remedy)
    return dataset


def shown(run: Run) -> Iterator[str]:
    """The corrections as lines."""
    dataset = dataset_of(run)
    decided = _of(run, dataset)
    relabelled, left_out = count(len(decided.labels), "other labels"), count(len(decided.excluded), "images")
    yield f"run {run.id}: {relabelled}, {left_out} left out"
    table = labels_file.table(dataset, decided)
    if len(table):
        yield table.head(SHOWN).to_string(index=False)
    if table[SHOWN:].size:
        yield f"and {len(table) - SHOWN:,} more: --csv FILE writes all of them"


def write(run: Run, path: Path) -> str:
    """Writes labels.csv, over one that is there already."""
    files.check_writable(path)
    dataset = dataset_of(run)
    decided = _of(run, dataset)
    try:
        path.write_text(labels_file.text(dataset, decided), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--csv {path} cannot be written ({error.strerror or error}).",
            "Name a file in a folder that is there and that you may write.",
        ) from error
    return f"{path}: {count(len(decided), 'corrections')}"


def take(run: Run, path: Path, dry_run: bool) -> str:
    """Takes what a labels.csv decides; images that it does not name stay as they were decided."""
    dataset = dataset_of(run)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--read {path} cannot be read ({error.strerror or error}).", "Name a CSV file.") from error
    decisions = labels_file.read(content, dataset, str(path))
    if not dry_run:
        corrections.decide(run, decisions, len(dataset.train_labels), len(dataset.classes))
    return f"{path}: {count(len(decisions), 'images')} {'would be ' if dry_run else ''}decided on"


def copy(run: Run, to: Path, dry_run: bool) -> Iterator[str]:
    """Copies the folder with the corrections, or says what it would do."""
    dataset = dataset_of(run)
    plan = corrected_folder.for_copy(dataset, *_parts(run, dataset))
    to = corrected_folder.check_place(plan.root, to)
    if dry_run:
        yield from (change.line() for change in plan.changes)
        copied = sum(change.to is not None for change in plan.changes)
        yield f"would copy {count(copied, 'files')} to {to}; {len(plan.corrected):,} of all are relabelled or left out"
        return
    yield f"copied {count(corrected_folder.copy(plan, to), 'files')} to {to}"


def move(run: Run, dry_run: bool) -> Iterator[str]:
    """Moves the files of the folder itself, or says what it would do."""
    dataset = dataset_of(run)
    plan = corrected_folder.for_moving(dataset, *_parts(run, dataset))
    yield from (change.line() for change in plan.changes)
    if dry_run:
        yield (
            f"would move {count(len(plan.changes), 'files')} in {plan.root}. Runs on this folder, this one too, could "
            "then be neither shown nor replayed: --copy-to DIR leaves it as it is."
        )
        return
    yield f"moved {count(len(plan.changes), 'files')} in {plan.root}; the list is {corrected_folder.move(plan)}"


def dataset_name(run: Run) -> str:
    return correct.dataset_of(run, dataset_of(run))


def config(run: Run) -> RunConfig:
    return correct.config_of(run, run.manifest(), dataset_of(run))


def _of(run: Run, dataset: Dataset) -> Corrections:
    return corrections.read(run, len(dataset.train_labels), len(dataset.classes))


def _parts(run: Run, dataset: Dataset) -> tuple[dict[int, int], frozenset[int]]:
    """Labels and what is left out; raises `ConfigError` where nothing was decided."""
    decided = _of(run, dataset)
    if not len(decided):
        raise ConfigError(
            f"Run {run.id} has no corrections yet.", "Decide on its suspects (Triage), or --read a labels.csv."
        )
    return dict(decided.labels), decided.excluded

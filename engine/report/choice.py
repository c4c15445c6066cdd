"""What a report is asked for: checked before anything is made. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.report import pictures
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef
from engine.targets import read_targets

IMAGES, MOST_IMAGES = 10, 100  # of each side of a target: where nothing is said, and at most

# Bytes of a report beside its pictures, measured on runs of 8 and 50 targets (tests/test_report.py holds them to it).
ALONE, A_TARGET, A_TILE = 16_000, 7_000, 620

FOR_MAIL = 10e6  # bytes, above which servers often refuse a message


@dataclass(frozen=True)
class Choice:
    """`images` of each side of a target; `notes`: whether what people wrote on the run and its images, and their ticks,
    are in the report, which others than the run's readers may get."""

    images: int = IMAGES
    notes: bool = False

    def __post_init__(self):
        if isinstance(self.images, bool) or not isinstance(self.images, int) or not 1 <= self.images <= MOST_IMAGES:
            raise ConfigError(
                f"A report shows from 1 to {MOST_IMAGES} images of each side, not {self.images!r}.",
                f"Choose {IMAGES}.",
                {"images": f"must be from 1 to {MOST_IMAGES}"},
            )


def dataset_of(record: Manifest) -> Dataset:
    """The run's pictures. Raises `DataError` where they are not there, or are not those that the run was made with."""
    dataset = datasets.load(record.config.dataset)
    datasets.require_same(
        dataset,
        record.config.dataset,
        record.data_fingerprint,
        f"run {record.run_id}",
        "Restore its files, or start a new run.",
        ", so that other pictures would be shown than were scored",
    )
    return dataset


def targets_of(record: Manifest, dataset: Dataset, texts: Iterable[str] = ()) -> tuple[TargetRef, ...]:
    """The scored targets that texts name, in their order, each once; all of the run where none is named.

    A text is a key such as `test:3.loss`, or a target or range as the command line takes them (`test:0-9`,
    `class:coat`). That stands for all functions that it has scores of; with one behind, as `test:0-9.margin`, for it.
    Raises `ConfigError` for a run without scores, and for a target that has none.
    """
    refs = record.score_sets.targets()
    if not refs:
        remedy = f"Wait until it has finished, or resume it: python -m engine resume {record.run_id}"
        if record.trained:
            remedy = f"Score targets first: python -m engine attribute {record.run_id} --targets test:0-9"
        if record.from_python:
            remedy = "Save it with scores: trained.save(…, scores=engine.attribute(trained, …)) (docs/python.md)."
        raise ConfigError(
            f"Run {record.run_id} has no scores yet; it is {record.status}. There is nothing to report.", remedy
        )
    chosen: dict[str, TargetRef] = {}
    for text in texts:
        for ref in _named(record, dataset, refs, text):
            chosen[ref.key] = ref
    return tuple(chosen.values()) or tuple(refs)


def _named(record: Manifest, dataset: Dataset, refs: list[TargetRef], text: str) -> list[TargetRef]:
    if exact := [ref for ref in refs if ref.key == text]:
        return exact
    head, _, function = text.rpartition(".")
    if function not in {ref.function for ref in refs}:
        head, function = text, ""
    named: list[TargetRef] = []
    for target in read_targets(head, dataset):
        of_target = [ref for ref in refs if ref.target == target and function in ("", ref.function)]
        named += of_target or [record.score_sets.target(f"{target}.{function}" if function else str(target))]
    return named


def foretold_bytes(dataset: Dataset, targets: int, images: int) -> float:
    """Of a report with so many targets, about: pictures are taken to be as large as some training images are."""
    tiles = 2 * images * targets
    return ALONE + A_TARGET * targets + tiles * (A_TILE + pictures.mean_bytes(dataset))

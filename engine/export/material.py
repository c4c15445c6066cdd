"""What of a run is handed over, read once, and its images in pieces.

Every format tells the same of an image (`COLUMNS`, then one score a target), so that rows of two exports can be held
side by side. A million rows pass through in pieces of `ROWS`: scores and logits are memory maps, and nothing is whole
in memory but what each image is called.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import engine
from engine.analysis.logits import judged
from engine.datasets import registry as datasets
from engine.datasets.base import SPLITS, Dataset
from engine.datasets.names import printable
from engine.errors import ConfigError, IntegrityError
from engine.runs import corrections as corrected
from engine.runs import notes as noted
from engine.runs.corrections import Corrections
from engine.runs.manifest import Manifest
from engine.runs.notes import Notes
from engine.runs.run import Run
from engine.runs.scores import TargetRef
from engine.targets import read_targets, target_function

ROWS = 1 << 15  # images of a piece

ALL = "all"  # of the splits

COLUMNS = {
    "index": "number of the image in its split, from 0: what targets, notes and commands call it",
    "split": "train or test",
    "file": "the image's source file, as the data set names it; missing where there are no files",
    "label": "the class that the image was trained, or tested, with",
    "suggested_label": "the class that the model predicts, where it is another one than the label",
    "prediction": "the class that the model predicts",
    "confidence": "of the prediction, as the model says, from 0 to 1",
    "probability": "of the label, as the model says, from 0 to 1",
    "loss": "−log of that probability, in nats",
    "tags": "of what people decided: ticked, excluded, relabelled; for programs that know tags alone",
    "note": "what a person wrote of the image",
    "ticked": "whether it is ticked to be left out",
    "excluded": "whether the corrections take it out of the data set",
    "corrected_label": "the class that the corrections give it; missing where they leave its label",
}
"""What a table says of an image, before its scores; the last four of training images alone."""


@dataclass(frozen=True)
class Material:
    """A run's images of `splits` with all that is known of them, and their scores for `targets`, as of one moment."""

    run: Run
    record: Manifest
    dataset: Dataset
    splits: tuple[str, ...]
    targets: tuple[TargetRef, ...]
    notes: Notes
    corrections: Corrections

    @classmethod
    def of(cls, run: Run, targets: Sequence[str] = (), split: str = ALL, dataset: Dataset | None = None) -> "Material":
        """`targets` are texts of targets that have scores (`test:3`, `class:coat`, `test:0-9`) or keys of them
        (`test:3.margin`); none stands for all. `dataset` is the run's, where it is at hand.

        Raises `ConfigError` for a split or a target that is not there, `DataError` where the data set has changed since
        the run was made, `IntegrityError` for damaged files.
        """
        if split not in (ALL, *SPLITS):
            raise ConfigError(f"There is no split «{printable(split)[:40]}».", f"Choose {ALL}, {' or '.join(SPLITS)}.")
        record = run.manifest()
        dataset = datasets.load(record.config.dataset) if dataset is None else dataset
        remedy = "Restore it: scores belong to the images that they were computed for."
        datasets.require_same(dataset, record.config.dataset, record.data_fingerprint, f"run {run.id}", remedy)
        n = dataset.sizes.n_train
        return cls(
            run,
            record,
            dataset,
            SPLITS if split == ALL else (split,),
            chosen(record, dataset, targets),
            noted.read(run, n),
            corrected.read(run, n, len(dataset.classes)),
        )

    @property
    def rows(self) -> int:
        return sum(len(self.dataset.labels(split)) for split in self.splits)

    def pieces(self) -> "Iterator[Piece]":
        """All images, training images first, in their order."""
        for split in self.splits:
            n = len(self.dataset.labels(split))
            for start in range(0, n, ROWS):
                yield Piece(self, split, start, min(n, start + ROWS))

    def logits(self, split: str) -> np.ndarray | None:
        """float32 [n, C] of the trained model; None where the run keeps none, as one that only has scores."""
        if f"model/{split}_logits.npy" not in self.record.files:
            return None
        logits = self.record.train_logits() if split == "train" else self.record.test_logits()
        if logits.shape != (len(self.dataset.labels(split)), len(self.dataset.classes)):
            raise IntegrityError(
                f"The logits of run {self.run.id} do not fit the data set {self.dataset.name}.",
                "Delete the run and start it again.",
            )
        return logits

    @cached_property
    def scores(self) -> list[np.ndarray]:
        """float32 [N] of each target, over the training images: views of the score sets' files."""
        rows = self.record.score_sets.rows(self.targets)
        n = self.dataset.sizes.n_train
        for ref, row in zip(self.targets, rows, strict=True):
            if row.shape != (n,):
                raise IntegrityError(
                    f"The score set {ref.score_set} of run {self.run.id} has {row.shape[0]:,} columns, and its data "
                    f"set {n:,} training images.",
                    f"Delete the scores of run {self.run.id} and attribute the targets again.",
                )
        return rows

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """int64 [n] by split, with the corrections."""
        train = np.array(self.dataset.train_labels)
        for index, label in self.corrections.labels.items():
            train[index] = label
        return {"train": train, "test": self.dataset.test_labels}

    def names(self, split: str) -> Sequence[str] | None:
        """Source files of a split's images; None where they come from none."""
        return self.dataset.train_names if split == "train" else self.dataset.test_names

    def about(self) -> dict[str, Any]:
        """Where it comes from, as JSON: what a table says of itself. No path of this machine is in it."""
        functions = {ref.key: target_function(ref.function) for ref in self.targets}
        used = [
            name for ref in self.targets for name in (f"scores/{ref.score_set}.npy", f"scores/{ref.score_set}.json")
        ]
        used += [f"model/{split}_logits.npy" for split in self.splits]
        return {
            "written_by": f"Replay Explorer {engine.__version__}",
            "run": self.run.id,
            "created": self.record.created,
            "data_set": self.dataset.title,
            "data_fingerprint": self.dataset.fingerprint,
            "classes": list(self.dataset.classes),
            "training_digest": self.record.training_digest,
            "window": self.record.window_phrase or "effect of the whole training",
            "versions": dict(self.record.versions),
            "sha256": {name: self.record.files[name] for name in dict.fromkeys(used) if name in self.record.files},
            "columns": COLUMNS,
            "targets": {
                ref.key: {
                    "title": ref.title(self.dataset),
                    "unit": functions[ref.key].unit,
                    "meaning": functions[ref.key].meaning(self.dataset.classes),
                }
                for ref in self.targets
            },
        }


def column_of(ref: TargetRef) -> str:
    """The column that holds the scores of a target."""
    return f"score:{ref.key}"


def chosen(record: Manifest, dataset: Dataset, texts: Sequence[str]) -> tuple[TargetRef, ...]:
    """The targets that the texts name, in the order of the run's; all where there are none."""
    refs = {ref.key: ref for ref in record.score_sets.targets()}
    if not texts:
        return tuple(refs.values())
    names_of = {key: str(ref.target) for key, ref in refs.items()}
    wanted: set[str] = set()
    for text in texts:
        if text in refs:
            wanted.add(text)
            continue
        names = {str(target) for target in read_targets([text], dataset)}
        keys = {key for key, name in names_of.items() if name in names}
        if missing := names - {names_of[key] for key in keys}:
            raise ConfigError(
                f"Run {record.run_id} has no scores for {', '.join(sorted(missing)[:5])}.",
                f"It has {', '.join(list(refs)[:20]) or 'none'}; attribute them first.",
            )
        wanted |= keys
    return tuple(ref for key, ref in refs.items() if key in wanted)


@dataclass(frozen=True)
class Piece:
    """The images `start` to `stop` of one split."""

    material: Material
    split: str
    start: int
    stop: int

    def columns(self) -> dict[str, Any]:
        """Each column's values in the order of `COLUMNS`, then of the targets: arrays or lists [n]; None for a column
        that is missing in all of it. A text that is missing is None."""
        material, of = self.material, slice(self.start, self.stop)
        names = np.array([*material.dataset.classes, None], object)
        labels, files = material.dataset.labels(self.split)[of], material.names(self.split)
        columns: dict[str, Any] = dict.fromkeys(COLUMNS)
        columns |= {
            "index": np.arange(self.start, self.stop),
            "split": [self.split] * len(labels),
            "file": None if files is None else [str(files[i]) for i in range(self.start, self.stop)],
            "label": names[labels].tolist(),
        }
        logits = material.logits(self.split)
        if logits is not None:
            given, predicted, best = judged(logits[of], labels)
            columns |= {
                "suggested_label": names[np.where(predicted == labels, -1, predicted)].tolist(),
                "prediction": names[predicted].tolist(),
                "confidence": np.exp(best),
                "probability": np.exp(given),
                "loss": -given,
            }
        if self.split != "train":
            return columns | {column_of(ref): None for ref in material.targets}
        columns |= self._decided(names)
        return columns | {column_of(r): row[of] for r, row in zip(material.targets, material.scores, strict=True)}

    def _decided(self, names: np.ndarray) -> dict[str, Any]:
        """What people said of the training images."""
        notes, corrections = self.material.notes, self.material.corrections
        indices, ticked = range(self.start, self.stop), set(notes.ticked)
        decided = {"ticked": ticked, "excluded": corrections.excluded, "relabelled": corrections.labels.keys()}
        return {
            "tags": [[tag for tag, images in decided.items() if i in images] for i in indices],
            "note": [notes.of(i) or None for i in indices],
            "ticked": [i in ticked for i in indices],
            "excluded": [i in corrections.excluded for i in indices],
            "corrected_label": [names[corrections.labels.get(i, -1)] for i in indices],
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """One object an image, of values that JSON holds: what is missing, or no finite number, is None."""
        columns = {name: _plain(values) for name, values in self.columns().items()}
        n = self.stop - self.start
        full = {name: [None] * n if values is None else values for name, values in columns.items()}
        for row in zip(*full.values(), strict=True):
            yield dict(zip(full, row, strict=True))


def _plain(values: Any) -> list | None:
    """As Python's own values; numbers that are not finite as None."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind != "f":
        return values.tolist()
    # The shortest text of a float32 is that of no float64: 0.1 stays 0.1.
    rounded = values.astype(str).astype(float) if values.dtype == np.float32 else values
    return [value if math.isfinite(value) else None for value in rounded.tolist()]

"""The job that computes the penultimate features of all images (`engine.core.features`).

    features/train.npy       float32 [N, D]     of the training images, as they stand
    features/test.npy        float32 [M, D]     of the test images
    features/features.json   what they are, in words, and D
    features/pca-features-…  all images on the plane of the training images' principal components
                             (`engine.analysis.maps`)

One pass forwards over all images, a few at a time: what is in memory is a block. `engine.analysis.features` reads them.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from engine import files
from engine.analysis import features as kept
from engine.analysis import maps
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs.job import Job, Phase, Result, require_trained
from engine.runs.manifest import Manifest
from engine.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from engine.core.state import State
    from engine.core.stream import Examples
    from engine.jobs.session import Session

A_PASS = 0.4  # training steps that a pass forwards over a step's images takes, and what is summed of it


@dataclass(frozen=True)
class Features(Job):
    """Of all training and test images, with the run's final weights, in evaluation mode, without augmentation."""

    kind: ClassVar[str] = "features"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "features", "done")

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        return self

    def doing(self) -> str:
        return "Computing the features of all images"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return (Phase("features", steps(run.manifest(), dataset)),)

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import reopen

        final, journal, began = reopen(session).final, session.journal, time.monotonic()
        journal.update(status_said="validating")
        files.make_folder(session.run.path / kept.FOLDER)
        meter = journal.phase("features", session.stream.data.n + session.test.n)
        written, numbers = {}, 0
        for name, data, done in (
            (kept.TRAIN, session.stream.data, 0),
            (kept.TEST, session.test, session.stream.data.n),
        ):

            def before(at: int, done: int = done) -> None:
                meter.report(done + at)
                session.check_cancelled(done + at)

            numbers, written[name] = _write(session, name, final, data, before)
        meter.report(meter.steps)
        session.check_data()
        words = in_words(numbers)
        path = session.run.path / kept.ABOUT
        written[kept.ABOUT] = journal.save(1 << 12, lambda: files.write_json(path, {"of": words, "numbers": numbers}))
        written |= _draw(session, words, written)
        journal.add_files(written)
        seconds = time.monotonic() - began
        journal.timing("features_seconds", seconds)
        journal.note(f"Features of {meter.steps:,} images, {numbers:,} numbers each, in {seconds:.1f} s.")
        return Result()


def in_words(numbers: int) -> str:
    """What features of so many numbers an image are, as they are kept."""
    from engine.core.features import MOST, SKETCH

    sketch = f", in a sketch of {SKETCH:,}" if numbers > MOST else ""
    return f"penultimate features of the model, {numbers:,} numbers an image{sketch}"


def _write(
    session: "Session", name: str, final: "State", data: "Examples", before: Callable[[int], None]
) -> tuple[int, str]:
    """One split: how many numbers an image has before they are made fewer, and the file's SHA-256."""
    from engine.core.features import penultimate, reduced

    path = session.run.path / name
    (one,) = penultimate(session.model, final, data.rows(np.arange(min(1, data.n))))

    def blocks() -> "Iterator[np.ndarray]":
        for block in penultimate(session.model, final, data, before):
            yield _plain(reduced(block))

    shape = (data.n, reduced(one).shape[1])
    sha = session.journal.save(4 * shape[0] * shape[1], lambda: files.write_npy_rows(path, shape, np.float32, blocks()))
    return one.shape[1], sha


def _plain(block: "Tensor") -> np.ndarray:
    return block.float().cpu().numpy()


def _draw(session: "Session", words: str, made: dict[str, str]) -> dict[str, str]:
    """The training images' principal components, with all images on their plane: SHA-256 by file. None where there is
    no plane, which is said: few images, or all alike."""
    train, test = (files.read_npy(session.run.path / name, None, kept.REMEDY) for name in (kept.TRAIN, kept.TEST))
    record = dataclasses.replace(session.run.manifest(), files=made)
    try:
        drawn = maps.draw(maps.Rows(train, test, words))
    except ConfigError as error:
        session.journal.note(f"There is no map of these features: {error.what}")
        return {}
    digest = maps.digest_of(record, session.dataset, "features")
    return maps.write(session.run.path, "pca-features", session.journal.save, drawn, digest)


def steps(record: Manifest, dataset: Dataset) -> int:
    """What it takes, in training steps."""
    images = dataset.sizes.n_train + dataset.sizes.n_test
    return max(1, round(A_PASS * images / record.config.recipe.batch_size))


def seconds(record: Manifest, dataset: Dataset) -> float | None:
    """What it takes, by the time that the run's training took; None where that is not known."""
    trained = record.timings.get("train_seconds")
    if not trained or not record.steps:
        return None
    return trained / record.steps * steps(record, dataset)

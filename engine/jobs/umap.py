"""The job that draws a map with UMAP, and keeps it in the run's folder (`engine.analysis.maps`).

Neighbours by `NEIGHBOURS` of each image, on the first `COMPONENTS` principal components where a source has more
numbers, as is usual: the same picture in a fraction of the time. One seed and one thread, so that the same rows are
drawn the same way each time. The test images are put into the plane of the training images.

Do not read sizes of groups or distances between them off it: UMAP keeps neighbours, and nothing else. It is an extra
(umap-learn, BSD-3), and is not imported before the job begins.
"""

import importlib.util
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from engine import files
from engine.analysis import maps, projection
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs.job import Job, Phase, Result, require_trained
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.jobs.session import Session

NEIGHBOURS = 15
COMPONENTS = 50
SECONDS_AN_IMAGE = 1.5e-3  # on two cores
INSTALL = "Install it with pip install umap-learn (the extra «umap»), and start the app again; PCA needs nothing."


@dataclass(frozen=True)
class Umap(Job):
    """Of one source of `maps.SOURCES`."""

    kind: ClassVar[str] = "umap"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "map", "done")

    source: str = "features"

    def check(self, run: Run, dataset: Dataset) -> Self:
        if self.source not in maps.SOURCES:
            raise ConfigError(f"A map has no source «{self.source}».", f"Choose one of {', '.join(maps.SOURCES)}.")
        require_trained(run)
        if not installed():
            raise ConfigError("UMAP is not installed here.", INSTALL)
        rows = maps.rows_of(run.manifest(), dataset, self.source)
        if len(rows.train) <= projection.FEWEST:
            raise ConfigError(
                f"UMAP needs more than {projection.FEWEST} images; here are {len(rows.train)}.", "Draw them by PCA."
            )
        return self

    def doing(self) -> str:
        return f"Drawing a map with UMAP, by {self.source}"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return (Phase("map", 1),)

    def do(self, session: "Session") -> Result:
        journal, record, began = session.journal, session.run.manifest(), time.monotonic()
        journal.update(status_said="validating")
        files.make_folder(session.run.path / maps.FOLDER)
        meter = journal.phase("map", 2)
        rows = maps.rows_of(record, session.dataset, self.source)
        drawn = draw(rows, lambda done: (meter.report(done), session.check_cancelled(done)))
        meter.report(2)
        digest = maps.digest_of(record, session.dataset, self.source)
        name = f"umap-{self.source}"
        journal.add_files(maps.write(session.run.path, name, journal.save, drawn, digest))
        seconds = time.monotonic() - began
        journal.timing("umap_seconds", seconds)
        journal.note(f"Map of {len(drawn.train):,} images with UMAP, by {self.source}, in {seconds:.1f} s.")
        return Result()


def installed() -> bool:
    return importlib.util.find_spec("umap") is not None


def draw(rows: maps.Rows, before=lambda done: None) -> maps.Map:
    """`before` is told before each of the two parts, training and test images, how many are done."""
    from umap import UMAP  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]

    before(0)
    train, test = rows.train, rows.test
    if train.shape[1] > COMPONENTS:
        plane = projection.principal(train, axes=COMPONENTS)
        train, test = plane.project(train), None if test is None else plane.project(test)
    reducer = UMAP(n_neighbors=min(NEIGHBOURS, len(train) - 1), random_state=0, n_jobs=1)
    at = np.asarray(reducer.fit_transform(np.asarray(train)), np.float32)
    before(1)
    at_test = None if test is None else np.asarray(reducer.transform(np.asarray(test)), np.float32)
    return maps.Map(at, at_test, rows.of, "umap")

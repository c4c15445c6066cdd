"""The job that measures how strongly each test image answers to the trained model's parameters.

    model/test_gradient_norms.npy     float32 [N_test], ‖dℓ/dθ‖ of each test image's own loss ℓ at the end of training,
                                      in nats per unit of θ (`engine.core.targets.gradient_norms`)

Known before any replay: of an image whose norm is near 0 there is little to explain.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from engine import files
from engine.datasets.base import Dataset
from engine.jobs.job import Job, Phase, Result, require_trained
from engine.runs.manifest import GRADIENT_NORMS, Manifest
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.jobs.session import Session

AS_MANY = 1.5  # training steps that the gradients of as many examples as a step has take, measured on two cores


@dataclass(frozen=True)
class GradientNorms(Job):
    """Of all test images, each by itself."""

    kind: ClassVar[str] = "gradient-norms"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "gradients", "done")

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        return self

    def doing(self) -> str:
        return "Measuring the gradient norms of all test images"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return (Phase("gradients", steps(run.manifest().config.recipe.batch_size, dataset.sizes.n_test)),)

    def do(self, session: "Session") -> Result:
        from engine.core import targets
        from engine.jobs.reopen import reopen

        final, journal, n = reopen(session).final, session.journal, session.test.n
        journal.update(status_said="validating")
        began, meter = time.monotonic(), journal.phase("gradients", n)

        def before(done: int) -> None:
            meter.report(done)
            session.check_cancelled(done)

        norms = targets.gradient_norms(session.model, final, session.test, "loss", before).float().cpu().numpy()
        meter.report(n)
        session.check_data()
        path = session.run.path / GRADIENT_NORMS
        journal.add_files({GRADIENT_NORMS: journal.save(norms.nbytes, lambda: files.write_npy(path, norms))})
        seconds = time.monotonic() - began
        journal.timing("gradient_norm_seconds", seconds)
        journal.note(
            f"Gradient norms of {n:,} test images in {seconds:.1f} s, from {norms.min():.3g} to {norms.max():.3g}."
        )
        return Result()


def steps(batch_size: int, images: int) -> float:
    """What it takes, in training steps."""
    return AS_MANY * images / batch_size


def seconds(record: Manifest, images: int) -> float | None:
    """What it takes, by the time that the run's training took; None where that is not known."""
    trained = record.timings.get("train_seconds")
    if not trained or not record.steps:
        return None
    return trained / record.steps * steps(record.config.recipe.batch_size, images)

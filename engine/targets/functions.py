"""Target functions φ: what is measured of a target. No torch.

A function is one row here and, under the same name, its twin for torch in `engine.core.targets`, which the
derivatives are taken of. `register` adds a row; the two tables are compared by tests/test_targets.py.

    loss     −log p(label)                                            nats
    margin   logit of the label − log Σ_{others} exp(logit)           logits

Both follow from the margin m of an image, for p = 1 / (1 + exp(−m)); `slope` says how fast, and with it what a
predicted change of one function does to the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.errors import ConfigError


@dataclass(frozen=True)
class TargetFunction:
    """One target function.

    `name`           as in configurations, files and links; small letters, digits and dashes
    `short_unit`     of a value, such as nats
    `harmful_sign`   +1 where a rise of the value is what one does not want (a loss), −1 where a fall is (a margin)
    `sentence`       what it is, for the form
    `from_logits`    logits [S, C] and labels int64 [S] to values float64 [S]
    `slope`          d value / d margin of one image, from its margin; None where the value does not follow from it
    """

    name: str
    short_unit: str
    harmful_sign: int
    sentence: str
    from_logits: Callable[[np.ndarray, np.ndarray], np.ndarray]
    slope: Callable[[float], float] | None = None

    @property
    def unit(self) -> str:
        """Of a score."""
        return f"{self.short_unit} per unit of example weight"

    @property
    def meaning(self) -> str:
        """The sign and the unit of a score, in one line."""
        up, down = ("harmful", "helpful") if self.harmful_sign > 0 else ("helpful", "harmful")
        return (
            f"A score is the derivative of the target's {self.name} ({self.short_unit}) with respect to the training "
            f"image's weight. Positive: training on it raised the {self.name} ({up}); negative: "
            f"lowered it ({down}). Leaving it out changes the {self.name} by about minus the score."
        )


def losses(logits_SC: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """−log p of the labels, float64 [S]."""
    logits_SC = np.asarray(logits_SC, np.float64)
    highest = logits_SC.max(1, keepdims=True)
    shifted = logits_SC - highest
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(shifted)), labels_S]


def margins(logits_SC: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """Each label's logit minus log-sum-exp of the others, float64 [S]: exact at any size, where going through the
    probability loses its digits from a margin of 28 on."""
    logits_SC = np.asarray(logits_SC, np.float64)
    rows = np.arange(len(logits_SC))
    others = logits_SC.copy()
    others[rows, labels_S] = -np.inf
    highest = others.max(1)
    return logits_SC[rows, labels_S] - highest - np.log(np.exp(others - highest[:, None]).sum(1))


def _wrong(margin: float) -> float:
    """1 − p of an image of this margin."""
    return float(np.exp(-np.logaddexp(0.0, margin)))


FUNCTIONS: dict[str, TargetFunction] = {}


def register(function: TargetFunction) -> TargetFunction:
    """Adds a row. Its twin for torch must be added under the same name (`engine.core.targets`)."""
    if FUNCTIONS.setdefault(function.name, function) is not function:
        raise ConfigError(f"There are two target functions «{function.name}».", "Give one of them another name.")
    return function


def target_function(name: str) -> TargetFunction:
    """The row of a name; `ConfigError` for one that is not in the table."""
    if name not in FUNCTIONS:
        raise ConfigError(f"There is no target function {name!r}.", f"Choose one of {', '.join(FUNCTIONS)}.")
    return FUNCTIONS[name]


register(
    TargetFunction(
        name="loss",
        short_unit="nats",
        harmful_sign=1,
        sentence="Cross-entropy loss of the target, in nats.",
        from_logits=losses,
        slope=lambda margin: -_wrong(margin),
    )
)

register(
    TargetFunction(
        name="margin",
        short_unit="logits",
        harmful_sign=-1,
        sentence="Logit of the true label minus the log-sum-exp of the others, in logits.",
        from_logits=margins,
        slope=lambda margin: 1.0,
    )
)

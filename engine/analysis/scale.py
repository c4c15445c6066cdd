"""Scores in words: «helps 10.3», in one unit for a whole list, such as thousandths of a nat.

    scale = Scale.of(scores, "loss")
    scale.unit             "thousandths of a nat"
    scale.words(-0.0103)   "helps 10.3"        the loss would rise without the image
    scale.number(-0.0103)  "−10.3"             signed, for cells of tables
    scale.effect(-0.0103)  (1.0, "helps")      the bar of a tile
    scale.exact(-0.0103)   "−0.0103 nats"      every digit that there is, for the enlarged image

A power of a thousand for all of a list, and as many decimals: two numbers of it compare at a glance. Which sign helps
is the target function's to say (`harmful_sign`): a loss that falls, a margin that rises. A function of classes that
were chosen, such as `difference:6>4`, knows no better and no worse, and says «raises» and «lowers».
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engine.targets import TargetFunction, target_function

NONE = "no effect"  # of a score that is 0
PARTS = {-1: "thousandths", -2: "millionths", -3: "billionths", -4: "trillionths"}
MULTIPLES = {1: "thousands", 2: "millions"}
SMALLEST = -100  # thousands: 10⁻³⁰⁰, beyond which a power of ten is no normal float any more
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MOST_DECIMALS = 9  # of a value whose change is told


@dataclass(frozen=True)
class Scale:
    """How the scores of a list are written: as multiples of 1000^`thousands` of the function's unit."""

    function: TargetFunction
    thousands: int
    decimals: int
    largest: float  # |score| of the list

    @classmethod
    def of(cls, values: Iterable[float], function: str) -> "Scale":
        """The power that writes the largest of `values` between 1 and 1,000; the unit itself where that is 0.1 or more,
        or where all are 0. Values that are no numbers count for nothing."""
        # An array as it is: one that maps a file would be read one number at a time.
        listed = values if isinstance(values, np.ndarray) else list(values)
        sizes = np.abs(np.asarray(listed, np.float64).ravel())
        largest = float(sizes[np.isfinite(sizes)].max(initial=0.0))
        thousands = max(SMALLEST, math.floor(math.log10(largest) / 3)) if largest else 0
        if largest / 1000.0**thousands >= (99.95 if thousands == -1 else 999.95):  # as it would be written
            thousands += 1
        first = largest / 1000.0**thousands
        return cls(
            target_function(function), thousands, 3 if 0 < first < 0.9995 else 2 if first < 9.995 else 1, largest
        )

    @property
    def one(self) -> float:
        """The score that is written as 1."""
        return 1000.0**self.thousands

    @property
    def unit(self) -> str:
        """What the numbers count: «nats», «thousandths of a nat», «10⁻¹⁵ nats»."""
        units = self.function.short_unit
        one = units.removesuffix("s")
        if self.thousands in PARTS:
            return f"{PARTS[self.thousands]} of {'an' if one[:1].lower() in 'aeiou' else 'a'} {one}"
        if self.thousands in MULTIPLES:
            return f"{MULTIPLES[self.thousands]} of {units}"
        return units if not self.thousands else f"10{str(3 * self.thousands).translate(SUPERSCRIPT)} {units}"

    @property
    def verbs(self) -> tuple[str, str]:
        """What training on an image of positive score did to the target, and of negative score."""
        return verbs(self.function.name)

    def words(self, score: float) -> str:
        """«helps 10.3»; «helps < 0.1» where the digit that would show is not written."""
        if not score or math.isnan(score):
            return "—" if score else NONE
        return f"{self.verbs[int(score < 0)]} {self.size(score)}"

    def with_unit(self, score: float) -> str:
        """«helps 10.3 thousandths of a nat»."""
        return f"{self.words(score)} {self.unit}" if score else NONE

    def number(self, score: float) -> str:
        """«+10.3», with the score's own sign: below zero where training on the image lowered the function."""
        written = self.size(score)
        sign = "" if not score or math.isnan(score) else "−" if score < 0 else "+"
        return written.replace("< ", f"< {sign}" if score > 0 else "> −") if "<" in written else sign + written

    def plus_minus(self, change: float, standard_error: float | None) -> str:
        """«−10.3 ± 1.2»: a predicted change and its standard error; the change alone where that is not known."""
        return self.number(change) + ("" if standard_error is None else f" ± {self.size(standard_error)}")

    def effect(self, score: float) -> tuple[float, str]:
        """`gallery.Tile.effect`: its share of the list's largest, above zero where it helps, and the bar's colour."""
        good = -self.function.harmful_sign * score
        share = good / self.largest if self.largest and math.isfinite(good) else 0.0
        return max(-1.0, min(1.0, share)), "harms" if good < 0 else "helps"

    def exact(self, score: float) -> str:
        """Every digit that the score has, in the function's own unit."""
        return f"{exact(score)} {self.function.short_unit}"

    def range(self, low: float | None, high: float | None) -> str:
        """«from −10.3 to +8.1 thousandths of a nat»; one end may be missing."""
        ends = [f"from {self.number(low)}"] if low is not None else []
        ends += [f"to {self.number(high)}"] if high is not None else []
        return f"{' '.join(ends)} {self.unit}" if ends else ""

    def size(self, score: float) -> str:
        """«10.3», without a sign."""
        if math.isnan(score):
            return "—"
        size = abs(float(score)) / 1000.0**self.thousands
        written = f"{size:,.{self.decimals}f}" if math.isfinite(size) else "∞"
        return f"< {10.0**-self.decimals:.{self.decimals}f}" if score and float(written or 1) == 0 else written


def verbs(function: str) -> tuple[str, str]:
    """What a positive score says that training on the image did to the target, and a negative one."""
    asked = target_function(function)
    if asked.classes:
        return "raises", "lowers"
    return ("harms", "helps") if asked.harmful_sign > 0 else ("helps", "harms")


def exact(value: float) -> str:
    """The shortest decimal that is this very number (a float32 as it was stored), without an exponent of E; a power of
    ten where it would begin with more than eight zeros."""
    if not value or not math.isfinite(value):
        return "0" if value == 0 else "—" if math.isnan(value) else "−∞" if value < 0 else "∞"
    sign, size = "−" if value < 0 else "", abs(value)
    power = math.floor(math.log10(size))
    if -9 < power < 15:
        return sign + np.format_float_positional(size, trim="-")
    mantissa, _, exponent = np.format_float_scientific(size, trim="-").partition("e")
    return f"{sign}{mantissa} · 10{str(int(exponent)).translate(SUPERSCRIPT)}"


def without_it(what: str, now: float, then: float, several: bool = False) -> str:
    """«Without it the loss would rise from 0.064 to about 0.075.»: with so many decimals that the change shows.

    `several`: the target is more than one image, and its value their mean.
    """
    what = f"mean {what}" if several else what
    if now == then:
        return f"Without it the {what} would stay at {_decimal(now, 3)}."
    if _decimals(now, then) > MOST_DECIMALS:
        return f"Without it the {what} would hardly change from {_decimal(now, 3)}."
    return f"Without it the {what} would {'rise' if then > now else 'fall'} {from_to(now, then)}."


def from_to(now: float, then: float) -> str:
    """«from 0.064 to about 0.075», with so many decimals that the change shows, as far as that is sensible."""
    decimals = min(_decimals(now, then), MOST_DECIMALS)
    return f"from {_decimal(now, decimals)} to about {_decimal(then, decimals)}"


def _decimals(now: float, then: float) -> int:
    """That show two digits of the change; three at least."""
    change = abs(then - now)
    return max(3, 1 - math.floor(math.log10(change))) if change else 3


def _decimal(value: float, decimals: int) -> str:
    written = f"{value:.{decimals}f}"
    return (written.lstrip("-") if not float(written) else written).replace("-", "−")

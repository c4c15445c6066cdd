"""Augmentation as it is written: what may be done to a training image, in which order and how strongly. No torch.

    flip,crop:4,cutout:8,rotate:10,jitter:0.2

A text is parsed once, where it enters, into `Augmentation` values, which are applied from left to right. A kind is one
row here and, under the same name, its twin for torch in `engine.core.augment`; `register` adds a row to each table,
which tests/test_augment.py compares. docs/augmentation.md has what each does to a pixel.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import ConfigError

EXAMPLE = "flip,crop:4,cutout:8,rotate:10,jitter:0.2"

LONGEST = 200  # characters of a text, which stands in files, links and tables

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


@dataclass(frozen=True)
class Amount:
    """How strong an augmentation may be, both ends included, what is usual, and the unit."""

    low: float
    high: float
    usual: float
    unit: str
    whole: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind of augmentation.

    `name`      as in configurations and files; small letters, digits and dashes
    `sentence`  what it does, for the form and the command line
    `amount`    the number behind the name; None where there is none, as of flip
    `unfit`     why images of (channels, height, width) cannot be augmented so by an amount, as the end of a sentence;
                None where they can
    """

    name: str
    sentence: str
    amount: Amount | None = None
    unfit: Callable[[float, tuple[int, int, int]], str | None] = lambda amount, shape: None

    @property
    def form(self) -> str:
        """How it is written, with its usual amount."""
        return self.name if self.amount is None else f"{self.name}:{_shortest(self.amount.usual)}"


@dataclass(frozen=True)
class Augmentation:
    """One augmentation of a text: `crop:4`. The amount is in the unit of its kind, 0 where that has none."""

    name: str
    amount: float = 0

    def __str__(self) -> str:
        return self.name if KINDS[self.name].amount is None else f"{self.name}:{_shortest(self.amount)}"


KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Adds a row. Its twin for torch must be added under the same name (`engine.core.augment.register`)."""
    if not NAME.fullmatch(kind.name):
        raise ConfigError(f"{kind.name!r:.80} is no name of an augmentation.", "Use small letters, digits and dashes.")
    if KINDS.setdefault(kind.name, kind) is not kind:
        raise ConfigError(f"There are two augmentations «{kind.name}».", "Give one of them another name.")
    return kind


def parse(text: str) -> tuple[Augmentation, ...]:
    """The augmentations that a text lists, in order; none where it is empty. Raises `ConfigError`."""
    problem = problem_of(text)
    if problem is not None:
        raise ConfigError(f"recipe.augment {problem}.", f"Write it like {EXAMPLE}.", {"recipe.augment": problem})
    return tuple(map(_parsed, _parts(text)))


def canonical(text: object) -> object:
    """The one text of what a text says, so that equal trainings have equal digests; what cannot be read stays."""
    return text if not isinstance(text, str) or problem_of(text) else ",".join(map(str, parse(text)))


def problem_of(text: object) -> str | None:
    """What is wrong with a text, as the end of a sentence; None where it can be parsed."""
    if not isinstance(text, str):
        return f"must be a text such as {EXAMPLE}, not {text!r:.80}"
    if len(text) > LONGEST:
        return f"must have {LONGEST} characters at most, not {len(text):,}"
    names = []
    for part in _parts(text):
        name, colon, amount = part.partition(":")
        if name not in KINDS:
            return f"names {name!r:.40}, which is no augmentation; choose from {', '.join(KINDS)}"
        if name in names:
            return f"names {name} twice"
        names.append(name)
        if problem := _problem_of_amount(KINDS[name], colon, amount):
            return problem
    return None


def problem_with(augmentations: tuple[Augmentation, ...], shape: tuple[int, ...]) -> str | None:
    """Why examples that are of `shape` each cannot be augmented so, as the end of a sentence; None where they can."""
    if augmentations and len(shape) != 3:
        return f"is for images [channels, height, width], and an example here has the shape {list(shape)}"
    for each in augmentations:
        channels, height, width = shape
        if problem := KINDS[each.name].unfit(each.amount, (channels, height, width)):
            return f"has «{each}», which {problem}"
    return None


def _parts(text: str) -> list[str]:
    """Empty for the empty text and for "none" alone; an empty part between commas stays, to be refused."""
    parts = [part.strip() for part in text.split(",")]
    return [] if parts in ([""], ["none"]) else parts


def _parsed(part: str) -> Augmentation:
    name, _, amount = part.partition(":")
    allowed = KINDS[name].amount
    if allowed is None:
        return Augmentation(name)
    return Augmentation(name, int(float(amount)) if allowed.whole else float(amount))


def _problem_of_amount(kind: Kind, colon: str, amount: str) -> str | None:
    if kind.amount is None:
        return (
            f"has {kind.name}{colon}{amount!s:.40}, and {kind.name} has no amount; write {kind.name}" if colon else None
        )
    allowed = kind.amount
    limits = f"from {_shortest(allowed.low)} to {_shortest(allowed.high)} {allowed.unit}"
    if not NUMBER.fullmatch(amount) or (allowed.whole and not float(amount).is_integer()):
        number = "a whole number" if allowed.whole else "a number"
        return f"must have {number} behind {kind.name}, {limits}, such as {kind.form}"
    if not allowed.low <= float(amount) <= allowed.high:
        return f"must have an amount of {kind.name} {limits}, not {amount}"
    return None


def _shortest(number: float) -> str:
    """The shortest text that reads as the same number."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def _beyond_the_side(amount: float, shape: tuple[int, int, int]) -> str | None:
    side = min(shape[1:])
    if amount < side:
        return None
    return f"leaves nothing of some images of {shape[1]} × {shape[2]} pixels; take fewer pixels than {side}"


def _no_colour(amount: float, shape: tuple[int, int, int]) -> str | None:
    if shape[0] == 3:
        return None
    return f"needs images of three channels, red, green and blue, not of {shape[0]}"


_PIXELS = Amount(1, 512, 4, "pixels", whole=True)
_FACTOR = Amount(0.001, 1.0, 0.2, "(the factor is 1 plus or minus it)")

register(Kind("flip", "Mirrors half of the images, left to right."))
register(Kind("crop", "Moves an image by up to so many pixels, along and across.", _PIXELS, _beyond_the_side))
register(Kind("cutout", "Covers a square with a side of so many pixels.", _PIXELS, _beyond_the_side))
register(Kind("rotate", "Turns an image by up to so many degrees.", Amount(0.1, 180.0, 10.0, "degrees")))
register(Kind("brightness", "Multiplies the pixels by a factor.", _FACTOR))
register(Kind("contrast", "Multiplies the distance of the pixels from the image's mean by a factor.", _FACTOR))
register(Kind("saturation", "Multiplies the distance of colours from grey by a factor.", _FACTOR, _no_colour))
register(Kind("jitter", "Brightness, contrast and, of three channels, saturation, by a factor each.", _FACTOR))

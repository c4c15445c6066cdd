"""What the fields of a run's JSON files may hold. A file that agrees with its checksum may still be of another hand.

Each function returns the value, or raises `TypeError` or `ValueError` for another kind of value; `check` goes through a
whole file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LARGEST = 2**63 - 1  # of a number of bytes, steps or seconds: more could be read, and neither shown nor counted with


def of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.60} is no {kind.__name__}")
    return value


def text(value: Any) -> str:
    return of(str, value)


def flag(value: Any) -> bool:
    return of(bool, value)


def whole(value: Any) -> int:
    if not 0 <= of(int, value) <= LARGEST:
        raise ValueError(f"{value!r:.60} is not from 0 to {LARGEST}")
    return value


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        raise TypeError(f"{value!r:.60} is no number")
    return value


def finite(value: Any) -> float:
    """Of any size that a float has: the norm of a chaotic training's adjoint may be 1e200."""
    if type(value) is not float or not math.isfinite(value):
        return number(value)
    return value


def sha256(value: Any) -> str:
    """In hexadecimal."""
    if len(bytes.fromhex(text(value))) != 32:
        raise ValueError(f"{value!r:.60} is no SHA-256")
    return value


def optional(reader: Callable) -> Callable:
    return lambda value: None if value is None else reader(value)


def by_name(reader: Callable) -> Callable:
    return lambda value: {text(name): reader(each) for name, each in of(dict, value).items()}


def by_index(reader: Callable) -> Callable:
    """A mapping whose names are whole numbers."""
    return lambda value: {whole(int(text(name)[:20])): reader(each) for name, each in of(dict, value).items()}


def record(cls: type, **readers: Callable) -> Callable:
    return lambda value: cls(**{name: readers[name](each) for name, each in of(dict, value).items()})


@dataclass(frozen=True)
class Absent:
    """A field that older versions did not write."""

    shape: Any


def check(value: Any, shape: Any) -> None:
    """`shape`: a function of this module, a list of one shape, or a mapping of names to shapes; other names may stand
    beside them. Raises `TypeError`, `ValueError` or `KeyError` where the value is of another."""
    if isinstance(shape, dict):
        for name, each in shape.items():
            if isinstance(each, Absent):
                if name in of(dict, value):
                    check(value[name], each.shape)
            else:
                check(of(dict, value)[name], each)
    elif isinstance(shape, list):
        for each in of(list, value):
            check(each, shape[0])
    else:
        shape(value)

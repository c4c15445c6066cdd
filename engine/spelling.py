"""Names of arguments that are not known, with the one that was meant. No torch."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import ParamSpec, TypeVar

from engine.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

ALIKE = 0.6  # of difflib's ratio: «optimiser» and «optimizer» have 0.89

SHOWN = 60  # characters of a name in a message


def nearest(name: str, known: Collection[str]) -> str | None:
    """The one of `known` that is spelled most like `name`; None where none is much like it."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=ALIKE)), None)


def refusal(what: str, unknown: Collection[str], known: Collection[str], hints: Mapping[str, str]) -> ConfigError:
    """The error of a call of `what` with arguments that it has not. `hints` say, for names that others use for
    something that is here under another name, where it is: a sentence."""
    problems, remedies = {}, []
    for name in unknown:
        problems[name] = "is not known"
        if name in hints:
            remedies.append(hints[name])
        elif meant := nearest(name, known):
            remedies.append(f"{name[:SHOWN]}: did you mean {meant}?")
    named = ", ".join(f"`{name[:SHOWN]}`" for name in unknown)
    return ConfigError(
        f"{what} has no argument {named}.",
        " ".join(remedies) or f"It has {', '.join(known)}.",
        problems,
    )


def names_unknown(hints: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: a call with an argument that the function has not raises `refusal`, and nothing is begun."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = tuple(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if unknown := [name for name in kwargs if name not in known]:
                raise refusal(function.__name__, unknown, known, hints)
            return function(*args, **kwargs)

        return checked

    return decorate

"""Optimizers by name."""

from collections.abc import Callable

from torch import Tensor

from engine.config import Recipe
from engine.core.optim.base import Optimizer
from engine.core.optim.sgd import sgd
from engine.errors import ConfigError

# Makes the optimizer of a recipe; the tensor [P] is 1 where weight decay applies.
Builder = Callable[[Recipe, Tensor], Optimizer]

_builders: dict[str, Builder] = {"sgd": sgd}


def names() -> tuple[str, ...]:
    return tuple(_builders)


def register(name: str, builder: Builder) -> None:
    """Makes an optimizer known by a name of its own. Raises `ConfigError` where the name is taken."""
    if _builders.setdefault(name, builder) is not builder:
        raise ConfigError(f"There is an optimizer «{name}» already.", "Choose another name.")


def build(name: str, recipe: Recipe, decay_mask_P: Tensor) -> Optimizer:
    """Raises `ConfigError` where there is no optimizer of this name."""
    if name not in _builders:
        raise ConfigError(f"There is no optimizer «{name}».", f"Choose one of {', '.join(_builders)}.")
    return _builders[name](recipe, decay_mask_P)

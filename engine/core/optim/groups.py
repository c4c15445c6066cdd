"""Parameter groups by name: a factor on the learning rate, and a weight decay of their own.

    η of parameter p = η f_p        δ of parameter p = that of its group, else the recipe's

Both are vectors [P], so that every optimizer that computes element by element takes them: the step hands it a rate [P]
in place of a number. A parameter belongs to the first group whose pattern its name matches (`fnmatch`, such as `head.*`
or `*.bias`); one that matches none has f = 1 and the recipe's decay.
"""

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from engine.config import Recipe
from engine.core.optim.base import Optimizer
from engine.core.state import Opt
from engine.core.stream import StepInputs
from engine.errors import ConfigError
from engine.models.functional import FunctionalModel


@dataclass(frozen=True)
class ScaledRates:
    """`inner` with the learning rate of each parameter times its factor. An `engine.core.optim.base.Optimizer`."""

    inner: Optimizer
    factor_P: Tensor  # f, [P]
    slots: tuple[str, ...] = field(init=False)
    replay_needs: tuple[int, ...] = field(init=False)
    needs_grad: bool = field(init=False)

    def __post_init__(self) -> None:
        for name in ("slots", "replay_needs", "needs_grad"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def init(self, theta: Tensor) -> Opt:
        return self.inner.init(theta)

    def update(self, theta: Tensor, opt: Opt, grad: Tensor, inputs: StepInputs) -> tuple[Tensor, Opt]:
        return self.inner.update(theta, opt, grad, self._scaled(inputs))

    def pullback(
        self, theta: Tensor, opt: Opt, grad: Tensor | None, inputs: StepInputs, adj_theta: Tensor, adj_opt: Opt
    ) -> tuple[Tensor, Opt, Tensor]:
        return self.inner.pullback(theta, opt, grad, self._scaled(inputs), adj_theta, adj_opt)

    def _scaled(self, inputs: StepInputs) -> StepInputs:
        return replace(inputs, lr=inputs.lr * self.factor_P)


def decay_and_factors(model: FunctionalModel, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """δ [P] and f [P]. Raises `ConfigError` for a group that no parameter belongs to, as a name that is misspelt."""
    decay_P = recipe.weight_decay * model.decay_mask(recipe.decay_norm_bias)
    factor_P = torch.ones_like(decay_P)
    if not recipe.groups:
        return decay_P, factor_P
    # Views of the two vectors by name: what is filled in is filled in there.
    decays, factors = (model.named(part, model.buffers0)[0] for part in (decay_P, factor_P))
    names = list(decays)
    members = {name: _group_of(name, recipe) for name in names}
    for i, (pattern, factor, decay) in enumerate(recipe.groups):
        own = [name for name in names if members[name] == i]
        if not own:
            raise ConfigError(
                f"No parameter of the model belongs to the group «{pattern}».",
                f"A parameter belongs to the first group that its name matches; the names are {_few(names)}.",
                {"recipe.groups": f"«{pattern}» matches no parameter that an earlier group does not match"},
            )
        for name in own:
            factors[name].fill_(factor)
            if decay is not None:
                decays[name].fill_(decay)
    return decay_P, factor_P


def _group_of(name: str, recipe: Recipe) -> int | None:
    matches = (i for i, (pattern, *_) in enumerate(recipe.groups) if fnmatchcase(name, pattern))
    return next(matches, None)


def _few(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if names[12:] else "")

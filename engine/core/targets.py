"""Target functions φ of the final state, their values and their adjoints.

A target is a set S of test images and a function, averaged over S, in evaluation mode:

    loss     −log p(label)                                            nats
    margin   logit of the label − log Σ_{others} exp(logit)           logits

`targets` are index sets into the test split, int64 [|S|] each (`engine.targets.Target.resolve`).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from engine.core.state import Adjoint, State
from engine.core.stream import Examples
from engine.errors import ConfigError
from engine.models.functional import FunctionalModel

CHUNK = 1000  # test images a forward pass


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    own = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).logsumexp(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"loss": losses, "margin": margins}
"""Logits [S, C] and labels [S] to values [S]: the twins, by name, of the rows of `engine.targets.functions`."""


def register(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Adds the twin of a row; it must be made of operations that torch can differentiate."""
    if FUNCTIONS.setdefault(name, function) is not function:
        raise ConfigError(f"There are two target functions «{name}».", "Give one of them another name.")


@torch.no_grad()
def logits(model: FunctionalModel, state: State, data: Examples) -> Tensor:
    """[N, C] in evaluation mode."""
    indices = torch.arange(data.n).split(CHUNK)
    return torch.cat([model(state.theta, state.buffers, data.batch(i)[0], training=False)[0] for i in indices])


def values(model: FunctionalModel, state: State, data: Examples, targets: list, function: str) -> Tensor:
    """φ of each target, [K]."""
    phi_N = FUNCTIONS[function](logits(model, state, data), data.labels)
    return torch.stack([phi_N[torch.as_tensor(s, device=phi_N.device)].mean() for s in targets])


def adjoints(model: FunctionalModel, state: State, data: Examples, targets: list, function: str) -> Adjoint:
    """dφ/ds at the final state, one row a target."""

    def part(theta, buffers, batch, size):
        out, _ = model(theta, buffers, batch[0], training=False)
        return FUNCTIONS[function](out, batch[1]).sum() / size

    rows = []
    for target in targets:
        index = torch.as_tensor(target)
        pieces = [
            grad(part, argnums=(0, 1))(state.theta, state.buffers, data.batch(i), len(index))
            for i in index.split(CHUNK)
        ]
        rows.append([sum(piece) for piece in zip(*pieces, strict=True)])
    theta, buffers = (torch.stack(column) for column in zip(*rows, strict=True))
    return Adjoint(theta, tuple(torch.zeros_like(theta) for _ in state.opt), buffers)

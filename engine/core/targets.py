"""Target functions φ of the final state, their values and their adjoints.

A target is a set S of images and a function, averaged over S, in evaluation mode. The functions, their units and
signs stand in `engine.targets.functions`; here are their twins for torch, which the derivatives are taken of.

`targets` are index sets into the examples `data`, int64 [|S|] each (`engine.targets.Target.resolve`).
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from engine.core.state import Adjoint, State
from engine.core.stream import Examples
from engine.errors import ConfigError, ModelError
from engine.models.functional import FunctionalModel
from engine.targets import target_function

CHUNK = 1000  # test images a forward pass

GRADIENTS = 1 << 28  # bytes of the gradients that are held at a time

WIDEST = 64  # gradients side by side: more are no faster each


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    own = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).logsumexp(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def logits_of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


def logit(logits: Tensor, a: int) -> Tensor:
    return logits[:, a]


def difference(logits: Tensor, a: int, b: int) -> Tensor:
    return logits[:, a] - logits[:, b]


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": losses,
    "margin": margins,
    "logit": logits_of_labels,
}
"""Logits [S, C] and labels [S] to values [S]: the twins, by name, of the rows of `engine.targets.functions`."""

FAMILIES: dict[str, Callable[..., Tensor]] = {"logit": logit, "difference": difference}
"""Logits [S, C] and the numbers of some classes to values [S]: the twins of the families there."""


def register(name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Adds the twin of a row; it must be made of operations that torch can differentiate."""
    if FUNCTIONS.setdefault(name, function) is not function:
        raise ConfigError(f"There are two target functions «{name}».", "Give one of them another name.")


def register_family(name: str, function: Callable[..., Tensor]) -> None:
    """Adds the twin of a family, likewise."""
    if FAMILIES.setdefault(name, function) is not function:
        raise ConfigError(f"There are two functions of classes «{name}».", "Give one of them another name.")


def function_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Logits [S, C] and labels [S] to values [S], of a text such as `logit:3`; `ConfigError` for any other."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    classes = target_function(name).classes
    family = FAMILIES[name.partition(":")[0]]
    return lambda logits, labels: family(logits, *classes)


@torch.no_grad()
def logits(
    model: FunctionalModel, state: State, data: Examples, on_progress: Callable[[int], None] = lambda done: None
) -> Tensor:
    """[N, C] in evaluation mode. `on_progress` is told how many examples are done."""
    rows = []
    for i in torch.arange(data.n).split(CHUNK):
        rows.append(model(state.theta, state.buffers, data.batch(i)[0], training=False)[0])
        on_progress(int(i[-1]) + 1)
    return torch.cat(rows)


@torch.no_grad()
def logits_of_each(model: FunctionalModel, state: State, data: Examples, indices: Iterable[int]) -> Tensor:
    """[S, C] in evaluation mode, of a few examples. One a pass: sums in passes of other sizes round otherwise, and
    these logits are compared with those of another day, when others are asked about beside them."""
    rows = [model(state.theta, state.buffers, data.batch(torch.tensor([i]))[0], training=False)[0] for i in indices]
    return torch.cat(rows) if rows else state.theta.new_empty(0, 0)


def values(
    model: FunctionalModel,
    state: State,
    data: Examples,
    targets: list,
    function: str,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """φ of each target, [K]. `on_progress` is told how many examples are done."""
    phi_N = function_of(function)(logits(model, state, data, on_progress), data.labels)
    return torch.stack([phi_N[torch.as_tensor(s, device=phi_N.device)].mean() for s in targets])


def adjoints(model: FunctionalModel, state: State, data: Examples, targets: list, function: str) -> Adjoint:
    """dφ/ds at the final state, one row a target."""
    phi = function_of(function)

    def part(theta, buffers, batch, size):
        out, _ = model(theta, buffers, batch[0], training=False)
        return phi(out, batch[1]).sum() / size

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


def gradient_norms(
    model: FunctionalModel,
    state: State,
    data: Examples,
    function: str,
    before: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """‖dφ/dθ‖ of each example by itself at the final state, in evaluation mode: [N], units of φ per unit of θ.

    To first order a change Δθ of the trained parameters moves φ by ⟨dφ/dθ, Δθ⟩, at most this norm times ‖Δθ‖: whatever
    is left out of training, an example whose norm is near 0 hardly answers. Side by side where the model's operations
    have a batching rule, else one by one. `before` is told before each pass how many examples are done.
    """
    phi = function_of(function)

    def value(theta: Tensor, inputs: Tensor, label: Tensor) -> Tensor:
        out, _ = model(theta, state.buffers, inputs[None], training=False)
        return phi(out, label[None])[0]

    def norms(inputs: Tensor, labels: Tensor) -> Tensor:
        return vmap(grad(value), in_dims=(None, 0, 0))(state.theta, inputs, labels).norm(dim=1)

    def one_by_one(inputs: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([grad(value)(state.theta, x, y).norm() for x, y in zip(inputs, labels, strict=True)])

    size = GRADIENTS // max(1, state.theta.numel() * state.theta.element_size())
    pieces, of_chunk = [], norms
    for index in torch.arange(data.n).split(max(1, min(WIDEST, size))):
        before(int(index[0]))
        batch = data.batch(index)
        if of_chunk is norms and not pieces:
            try:
                pieces.append(norms(*batch))
                continue
            except (ModelError, RuntimeError):  # an operation without a batching rule; a true fault comes again
                of_chunk = one_by_one
        pieces.append(of_chunk(*batch))
    return torch.cat(pieces)

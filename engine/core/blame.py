"""Which module a wrong derivative begins in: each is asked for its own, on the inputs that it had in a pass.

With p the parameters, buffers and inputs of one call of a module, and s(p) = ⟨u, y + y²⟩ of its
outputs and buffers' y, with random u (squares, so that the tangents of y count too):

    ⟨∇s, δ⟩    against  (s(p + hδ) − s(p − hδ)) / 2h
    ⟨ε, Hδ⟩    against  ⟨ε, ∇s(p + hδ) − ∇s(p − hδ)⟩ / 2h

From the model inwards, as long as a module within one that is wrong is wrong by itself. Only after the check has
failed: it names a place, and decides nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from engine.models.functional import FunctionalModel

WIDTHS = (1e-5, 1e-6)  # of the central differences; a kink seldom spoils both

TOLERANCE = 1e-5  # of the larger of the two

LEAST = 1e-3  # below which a difference is rounding: a linear module has no second derivative

Call = tuple[tuple, dict]  # what a module was called with

Values = dict[str, Tensor]


def place(model: FunctionalModel, theta_P: Tensor, buffers_Q: Tensor, inputs: Tensor) -> str:
    """Where in the float64 `model` the derivative of a training pass goes wrong, as the end of a sentence."""
    try:
        calls = _first_calls(model, theta_P, buffers_Q, inputs)
        parameters, buffers = model.named(theta_P, buffers_Q)
        values = {**model.constants, **parameters, **buffers}
        path, part = "", model.module
        while (inner := _wrong_part(model, path, part, calls, values, inputs)) is not None:
            path, part = inner
    except Exception:  # of the model's own code, asked in a way that it was not made for: the check's sentence stands
        return ""
    finally:
        model.put_back()
    return f"; it begins in «{path}» ({type(part).__name__})" if path else "; it begins in the model's own forward"


def _first_calls(model: FunctionalModel, theta_P: Tensor, buffers_Q: Tensor, inputs: Tensor) -> dict[nn.Module, Call]:
    calls: dict[nn.Module, Call] = {}

    def note(part: nn.Module, args: tuple, kwargs: dict) -> None:
        leaves, form = tree_flatten((args, kwargs))
        copies = [t.detach().clone() if isinstance(t, Tensor) else t for t in leaves]
        calls.setdefault(part, tree_unflatten(copies, form))

    hooks = [part.register_forward_pre_hook(note, with_kwargs=True) for part in model.module.modules()]
    try:
        with torch.no_grad():
            model.open_pass(theta_P, buffers_Q, inputs, training=True)
    finally:
        for hook in hooks:
            hook.remove()
        model.put_back()
    return calls


def _wrong_part(
    model: FunctionalModel, path: str, part: nn.Module, calls: dict[nn.Module, Call], values: Values, inputs: Tensor
) -> tuple[str, nn.Module] | None:
    """The first of the modules within `part` that is wrong by itself."""
    for name, child in part.named_children():
        inner = f"{path}.{name}" if path else name
        if child in calls:
            if _is_wrong(model, inner, child, calls[child], values, inputs):
                return inner, child
        elif (deeper := _wrong_part(model, inner, child, calls, values, inputs)) is not None:  # a list of modules
            return deeper
    return None


def _is_wrong(model: FunctionalModel, path: str, part: nn.Module, call: Call, values: Values, inputs: Tensor) -> bool:
    own = {k.removeprefix(f"{path}."): t for k, t in values.items() if k.startswith(f"{path}.")}
    leaves, form = tree_flatten(call)
    given = {str(i): t for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.is_floating_point()}
    point = {**{f"own {k}": t for k, t in own.items() if t.is_floating_point()}, **given}
    draw = torch.Generator().manual_seed(0)
    weights: list[Tensor] = []

    def s(p: Values) -> Tensor:
        tensors = {k: p.get(f"own {k}", t).clone() for k, t in own.items()}
        args, kwargs = tree_unflatten([p.get(str(i), t) for i, t in enumerate(leaves)], form)
        model.begin_noise(inputs)
        out = functional_call(part, tensors, args, kwargs)
        results = [t for t in [*tree_leaves(out), *tensors.values()] if isinstance(t, Tensor) and t.is_floating_point()]
        if not weights:
            weights.extend(_normal(t, draw) for t in results)
        return torch.stack([(w * (t + t * t)).sum() for w, t in zip(weights, results, strict=True)]).sum()

    s(point)
    delta = {k: _normal(t, draw) * t.square().mean().sqrt() if t.numel() else t for k, t in point.items()}
    epsilon = {k: _normal(t, draw) for k, t in point.items()}

    def along(p: Values) -> Tensor:
        return _product(epsilon, grad(s)(p))

    first = _product(grad(s)(point), delta)
    second = _product(epsilon, jvp(grad(s), (point,), (delta,))[1])
    return _differs(s, point, delta, first) or _differs(along, point, delta, second)


def _differs(function: Callable[[Values], Tensor], point: Values, delta: Values, derivative: Tensor) -> bool:
    def at(width: float) -> Tensor:
        return function({k: t + width * delta[k] for k, t in point.items()})

    errors = []
    for width in WIDTHS:
        difference = (at(width) - at(-width)) / (2 * width)
        scale = torch.stack([difference, derivative]).abs().max().clamp(min=LEAST)
        errors.append(float((difference - derivative).abs() / scale))
    return not min(errors) <= TOLERANCE


def _product(a: Values, b: Values) -> Tensor:
    return torch.stack([(a[k] * b[k]).sum() for k in a]).sum()


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)

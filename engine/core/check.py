"""Finds models that cannot be replayed exactly, before any time is spent on training.

Three questions, on a few real examples:

1. **Is a pass a function of what a step sees?** (parameters, buffers, inputs.) See `engine.core.passes`.
2. **Is a step backwards the transpose of the step?** In float64, for g and b' as functions of θ, b and w,

       ⟨λ, (g, b')(s + hδ) − (g, b')(s − hδ)⟩ / 2h   against   ⟨step_back(λ), δ⟩

   Each block of the derivative is compared by its own scale, with λ and δ scaled tensor by tensor, so
   that a small wrong term is not hidden by a large right one. Away from the initial weights, where a
   branch that begins at zero would hide too. The optimizer's pullback is compared by itself, likewise.
3. **Do the very calls of a replay run?** The adjoints of every target function, the estimate of memory,
   and a step backwards in chunks, in the precision of the training.

A model passes where a tape of correct derivatives passes: kernels that update statistics out of
autograd's sight, `detach`, `no_grad` and randomness in training are all found, whatever they
are called. What cannot be found: state behind what a few passes reach, such as a counter in a file.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from engine.core import blame, targets
from engine.core.loss import ExampleLoss, loss_for
from engine.core.memory import bytes_per_target, chunk_that_fits
from engine.core.optim.base import Optimizer
from engine.core.passes import check_passes, check_reach
from engine.core.state import Adjoint, Opt, State
from engine.core.step import step, step_back
from engine.core.stream import Examples, StepInputs, Stream
from engine.core.training import initial_state, optimizer_for
from engine.errors import ModelError
from engine.models.functional import FunctionalModel

EXAMPLES = 8  # few, since they are used in float64; BatchNorm needs two or more

TOLERANCE = 1e-5  # of a block's own scale: central differences in float64 are good to about 1e-9

WIDTHS = (1e-6, 1e-5, 1e-7)  # of the central difference, until one agrees; a kink (ReLU, max-pooling) seldom spoils all

WIDTH = 1e-6  # of the central difference of an optimizer's update

ROUNDINGS = 4  # of an update's result, by which a difference may be off: a few operations are behind each

FLOOR = 1e-4  # tensors whose derivative is smaller than this part of the largest count less: it is rounding

AWAY = 0.3  # how far from the initial weights, in their own sizes

RATE = 0.1

CASTS = {torch.float32: Tensor.float, torch.float16: Tensor.half, torch.bfloat16: Tensor.bfloat16}


def check_model(model: FunctionalModel, stream: Stream) -> None:
    """Raises `ModelError`, which names the module where it can, unless the model can be trained on the
    stream and replayed exactly."""
    few = torch.arange(min(EXAMPLES, stream.data.n), device=stream.data.device)
    batch = stream.batch(few, epoch=0)
    with model.errors():
        check_reach(model, batch[0])
    exact = model.to(model.theta0.device, torch.float64)
    exact_batch = batch[0].double(), batch[1]
    with exact.errors(), _InDouble(model.dtype):
        _check_logits(exact, exact_batch, int(stream.data.labels.max()) + 1)
        check_passes(exact, exact_batch[0])
        _check_derivative(exact, exact_batch, loss_for(stream.recipe, stream.data.labels, torch.float64))
    _check_pullback(optimizer_for(exact, stream.recipe), exact.theta0)
    with model.errors():
        _check_calls(model, stream, Examples(*batch, stream.data.dtype))


class _InDouble(TorchFunctionMode):
    """What a pass asks for in the precision `low` of a training, float64 gives: a layer that computes in float32
    whatever its inputs are is right in a training in float32, and would round away the differences here."""

    def __init__(self, low: torch.dtype):
        super().__init__()
        self.low = low

    def __torch_function__(self, func: Any, types, args: Any = (), kwargs=None):
        if self.low == torch.float64:
            return func(*args, **(kwargs or {}))
        if func is CASTS.get(self.low):
            func = Tensor.double
        args = tuple(torch.float64 if a is self.low else a for a in args)
        out: Any = func(*args, **{k: torch.float64 if v is self.low else v for k, v in (kwargs or {}).items()})
        return out.double() if isinstance(out, Tensor) and out.dtype == self.low else out


def _check_logits(model: FunctionalModel, batch: tuple[Tensor, Tensor], classes: int) -> None:
    for training in (True, False):
        logits, _ = model(model.theta0, model.buffers0, batch[0], training)
        if logits.shape[1] < classes:
            raise ModelError(
                f"The model gives {tuple(logits.shape)} for {len(batch[1])} inputs.",
                f"It must give logits of shape [{len(batch[1])}, C], with C at least "
                f"{classes}, the number of classes that the labels name.",
            )
        if logits.dtype != model.dtype:
            raise ModelError(
                f"The model's logits are {logits.dtype} where its inputs are {model.dtype}.",
                "Let it end in the dtype of its inputs: .to(x.dtype).",
            )
        if not logits.isfinite().all():
            raise ModelError(
                "The model's logits are not finite numbers at its initial weights, though its inputs are.",
                "Look for a division by zero or an overflow: a standardisation of a constant image, a log of 0.",
            )


# -- 2. the transpose of the step


@dataclass(frozen=True)
class _Gradient:
    """An optimizer whose step is the gradient itself: (θ, ())' = g. So that a derivative of g is not
    hidden behind that of θ."""

    slots = ()
    replay_needs = ()
    needs_grad = False

    def init(self, theta: Tensor) -> Opt:
        return ()

    def update(self, theta: Tensor, opt: Opt, grad: Tensor, inputs: StepInputs) -> tuple[Tensor, Opt]:
        return grad, ()

    def pullback(
        self, theta: Tensor, opt: Opt, grad: Tensor | None, inputs: StepInputs, adj_theta: Tensor, adj_opt: Opt
    ) -> tuple[Tensor, Opt, Tensor]:
        return torch.zeros_like(adj_theta), (), adj_theta


Direction = tuple[Tensor, Tensor, Tensor]  # of θ [P], b [Q] and w [B]


class _Step:
    """A step as the function (θ, b, w) → (g, b') near one point, its differences and its transpose."""

    def __init__(self, model: FunctionalModel, batch: tuple[Tensor, Tensor], loss: ExampleLoss, origin: Direction):
        self.model, self.batch, self.loss, self.origin, self.optimizer = model, batch, loss, origin, _Gradient()

    def __call__(self, theta: Tensor, buffers: Tensor, w_B: Tensor) -> tuple[Tensor, Tensor]:
        after, _ = step(self.model, self.optimizer, State(theta, (), buffers), self._inputs(w_B))
        return after.theta, after.buffers

    def difference(self, delta: Direction, width: float) -> tuple[Tensor, Tensor]:
        ends = [self(*(o + s * width * d for o, d in zip(self.origin, delta, strict=True))) for s in (1, -1)]
        return (ends[0][0] - ends[1][0]) / (2 * width), (ends[0][1] - ends[1][1]) / (2 * width)

    def back(self, adj_g: Tensor, adj_b: Tensor) -> Direction:
        """Of two adjoints, that of g alone and that of b' alone: [2, P], [2, Q], [2, B]."""
        theta, buffers, weights = self.origin
        adjoint = Adjoint(
            torch.stack([adj_g, torch.zeros_like(adj_g)]), (), torch.stack([torch.zeros_like(adj_b), adj_b])
        )
        before, scores = step_back(
            self.model, self.optimizer, State(theta, (), buffers), self._inputs(weights), adjoint
        )
        return before.theta, before.buffers, scores

    def _inputs(self, w_B: Tensor) -> StepInputs:
        return StepInputs(0, torch.arange(len(w_B)), self.batch, w_B, RATE, 0, self.loss)


def _check_derivative(model: FunctionalModel, batch: tuple[Tensor, Tensor], loss: ExampleLoss) -> None:
    draw = _Draw(model.theta0.device)
    theta, buffers = model.named(model.theta0, model.buffers0)
    theta = {k: t + AWAY * _size(t) * draw(t) for k, t in theta.items()}
    # Between nine and eleven tenths of itself: variances stay positive, and a mean of 0 stays one.
    buffers = {k: b * (1 + AWAY / 3 * draw(b).clamp(-1, 1)) for k, b in buffers.items()}
    weights = torch.ones(len(batch[1]), dtype=torch.float64, device=batch[1].device)
    origin = _flat(theta, model.theta0), _flat(buffers, model.buffers0), weights
    of_step = _Step(model, batch, loss, origin)
    sizes = [part.abs().max() if part.numel() else 0.0 for part in of_step(*origin)]
    if not sizes[0]:
        raise ModelError(
            "The loss does not depend on any parameter of the model: its gradient is zero.",
            "Look for a detach() or no_grad(), and for a forward that calls another module than this one.",
        )
    no_theta, no_buffers, no_weights = map(torch.zeros_like, origin)

    # Directions that move every tensor by its own size, and then so that each has about the same effect.
    natural = {k: draw(t) * _size(t) for k, t in theta.items()}
    along_theta = _flat(natural, no_theta), no_buffers, no_weights
    effect = _compare(of_step, along_theta, "parameters", sizes, draw)
    even = _flat(_evened(natural, model.named(effect, no_buffers)[0]), no_theta), no_buffers, no_weights
    _compare(of_step, even, "parameters", sizes, draw)
    if buffers:
        along = _flat({k: draw(b) * _size(b) for k, b in buffers.items()}, no_buffers)
        _compare(of_step, (no_theta, along, no_weights), "buffers", sizes, draw)
    _compare(of_step, (no_theta, no_buffers, draw(weights)), "example weights", sizes, draw)


def _compare(of_step: _Step, delta: Direction, column: str, sizes: list, draw: "_Draw") -> Tensor:
    """One block of columns of the derivative: of g and of b', along `delta`. Gives the adjoint of θ, [P]."""
    model = of_step.model
    difference = of_step.difference(delta, WIDTHS[0])
    parts = model.named(*difference)
    rows = [_scaled(part, size, draw, empty) for part, size, empty in zip(parts, sizes, delta, strict=False)]
    back = of_step.back(rows[0], rows[1])
    predicted = _products(back, delta)

    def error_of(difference: tuple[Tensor, Tensor]) -> Tensor:
        actual = torch.stack([(row * part).sum() for row, part in zip(rows, difference, strict=True)])
        return (predicted - actual).abs()

    errors = error_of(difference)
    for width in WIDTHS[1:]:
        if (errors < TOLERANCE).all():
            break
        errors = torch.minimum(errors, error_of(of_step.difference(delta, width)))
    for i, error in enumerate(errors.tolist()):
        if not error < TOLERANCE:
            worst = _worst(of_step, delta, parts, sizes, i, draw)
            worst += blame.place(model, *of_step.origin[:2], of_step.batch[0])
            if math.isnan(error):
                raise ModelError(
                    f"The derivative of the model's step is not a number (nan){worst}.",
                    "Look for a root at 0, and for a torch.where of which the branch not taken has none: clamp before.",
                )
            raise ModelError(
                f"The model's step does not agree with its derivative: that of the {('gradient', 'buffers')[i]} with "
                f"respect to the {column} has a relative error of {error:.1e}{worst}.",
                "Something in its training pass is out of the gradient's sight: a functional "
                "batch_norm with running statistics, detach() or no_grad(), or a buffer updated by "
                "hand. Use nn.BatchNorm2d modules, or take it out.",
            )
    return back[0][0]


def _products(back: Direction, delta: Direction) -> Tensor:
    """⟨step_back(λ), δ⟩ of both adjoints, [2]."""
    return torch.stack([(part * d).sum(1) for part, d in zip(back, delta, strict=True)]).sum(0)


def _worst(of_step: _Step, delta: Direction, parts: tuple, sizes: list, i: int, draw: "_Draw") -> str:
    """The tensor whose derivative is wrong most, by its own scale: its name is its module's and its own."""
    worst, name = TOLERANCE, ""
    for key in parts[i]:
        rows = [torch.zeros_like(d) for d in delta[:2]]
        flat = _scaled(parts[i], sizes[i], draw, rows[i], only=key)
        rows[i] = flat
        predicted = _products(of_step.back(rows[0], rows[1]), delta)[i]
        actual = (flat * torch.cat([t.reshape(-1) for t in parts[i].values()])).sum()
        error = float((predicted - actual).abs())
        if error > worst:
            worst, name = error, key
    return f", most of all in «{name}»" if name else ""


class _Draw:
    """Normal numbers of a generator of its own, the same on every device."""

    def __init__(self, device: torch.device):
        self.device, self.generator = device, torch.Generator().manual_seed(0)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64).to(self.device)


def _size(tensor: Tensor) -> Tensor:
    """Its typical magnitude; a tenth where all is 0, as biases are at first."""
    if not tensor.numel() or not tensor.is_floating_point():
        return tensor.new_zeros(())
    size = tensor.square().mean().sqrt()
    return torch.where(size > 0, size, torch.full_like(size, 0.1))


def _flat(tensors: dict[str, Tensor], empty: Tensor) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors.values()]) if tensors else empty


def _scaled(
    parts: dict[str, Tensor], size: Tensor | float, draw: _Draw, empty: Tensor, only: str | None = None
) -> Tensor:
    """A random adjoint by which each tensor's derivative counts as much as any other's; or one's alone."""
    if not parts:
        return empty
    norms = {k: t.norm() for k, t in parts.items()}
    least = FLOOR * max(max(float(n) for n in norms.values()), float(size))
    scaled = {k: draw(t) / norms[k].clamp(min=least or 1.0) for k, t in parts.items()}
    return torch.cat([(t if only in (None, k) else torch.zeros_like(t)).reshape(-1) for k, t in scaled.items()])


def _evened(delta: dict[str, Tensor], effect: dict[str, Tensor]) -> dict[str, Tensor]:
    """Directions scaled down where their effect is large, at most a hundredfold, until each tensor's is
    about the same."""
    sizes = {k: float(d.norm() * effect[k].norm()) / math.sqrt(max(1, d.numel())) for k, d in delta.items()}
    least = max(min(sizes.values()), 0.01 * max(sizes.values()))
    return {k: d * min(1.0, least / sizes[k]) if sizes[k] else d for k, d in delta.items()}


def _check_pullback(optimizer: Optimizer, theta0: Tensor) -> None:
    """Against central differences of the update, each part by its own scale, and no closer than these are rounded."""
    draw = _Draw(theta0.device)
    inputs = StepInputs(3, torch.arange(0), (theta0, theta0), theta0, RATE, 0)
    theta, grad = theta0 + 0.1 * draw(theta0), draw(theta0)
    # Well above 0, where the roots of squares that an optimizer remembers bend little over a difference's width.
    opt = tuple(part + 0.5 + draw(part).abs() for part in optimizer.init(theta0))
    origin = (theta, *opt, grad)
    outputs = 1 + len(opt)
    rows = [tuple(draw(theta)[None] * (i == j) for j in range(outputs)) for i in range(outputs)]
    for adj_theta, *adj_opt in rows:
        g = grad if optimizer.needs_grad else None
        before, before_opt, v = optimizer.pullback(theta, opt, g, inputs, adj_theta, tuple(adj_opt))
        for i, part in enumerate((before, *before_opt, v)):
            delta = draw(theta)
            ends = []
            for sign in (1, -1):
                moved = [o + sign * WIDTH * delta * (i == j) for j, o in enumerate(origin)]
                after, after_opt = optimizer.update(moved[0], tuple(moved[1:-1]), moved[-1], inputs)
                pairs = zip((adj_theta, *adj_opt), (after, *after_opt), strict=True)
                ends.append(torch.stack([a[0] * b for a, b in pairs]))
            actual, predicted = float(((ends[0] - ends[1]) / (2 * WIDTH)).sum()), float((part[0] * delta).sum())
            rounding = ROUNDINGS * torch.finfo(theta.dtype).eps / WIDTH * float(ends[0].norm())
            if abs(actual - predicted) > TOLERANCE * max(abs(actual), abs(predicted), FLOOR) + rounding:
                raise ModelError(
                    f"The optimizer's pullback is not its update's derivative: {predicted:g} instead of {actual:g}.",
                    "Compare it with finite differences; see engine/core/optim/base.py.",
                )


# -- 3. the calls of a replay


def _check_calls(model: FunctionalModel, stream: Stream, few: Examples) -> None:
    """What `attribute` will run, in the training's own precision."""
    optimizer = optimizer_for(model, stream.recipe)
    state = initial_state(model, optimizer)
    sets = [torch.arange(1), torch.arange(few.n)]
    chunk_that_fits(bytes_per_target(model, stream.batch_shape), len(sets), state.theta.device)
    for function in targets.FUNCTIONS:
        targets.values(model, state, few, sets, function)
        adjoint = targets.adjoints(model, state, few, sets, function)
    index = torch.arange(few.n, device=few.device)
    weights = torch.ones(few.n, dtype=few.dtype, device=few.device)
    inputs = StepInputs(0, index, few.batch(index), weights, RATE, 0, stream.at(0).loss)
    for chunk in (1, len(sets)):
        step_back(model, optimizer, state, inputs, adjoint, chunk)

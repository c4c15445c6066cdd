"""Finds models that cannot be replayed exactly, before any time is spent on training.

The step is run backwards on the user's own model, in float64 and on a few real examples, and
compared with central differences of the step itself along a random direction:

    ⟨λ', step(s + hδ) − step(s − hδ)⟩ / 2h   against   ⟨step_back(λ'), δ⟩

A model passes where a tape of correct derivatives passes: kernels that update statistics out of
autograd's sight, `detach`, `no_grad` and randomness in training are all found, whatever they
are called.
"""

import contextlib

import torch

from engine.config import Recipe
from engine.core.state import Adjoint, State
from engine.core.step import step, step_back
from engine.core.stream import StepInputs, Stream
from engine.core.training import initial_state, optimizer_for
from engine.errors import ModelError, ReplayError
from engine.models.functional import FunctionalModel

EXAMPLES = 8  # few, since they are used in float64; BatchNorm needs two or more

TOLERANCE = 1e-4  # kinks (ReLU, max-pooling) that lie within ±h make a right model miss by less

WIDTHS = (1e-5, 1e-6)  # of the central difference; a kink seldom spoils both

RATE = 0.1


def check_model(model: FunctionalModel, stream: Stream) -> None:
    """Raises `ModelError` where logits are malformed, random, or derivatives are not exact."""
    data, recipe = stream.data, stream.recipe
    count = min(EXAMPLES, data.n)
    try:
        with _float64(model) as exact:
            inputs, labels = data.batch(torch.arange(count))
            batch = inputs.double(), labels
            _check_logits(exact, batch, int(data.labels.max()) + 1)
            errors = [_relative_error(exact, batch, recipe, width) for width in WIDTHS]
    except ReplayError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"The model cannot be replayed: {_first_line(error)}",
            "Its training pass must be made of operations that torch can "
            "differentiate twice, without randomness such as dropout, and keep to "
            "the dtype and device of its inputs.",
        ) from error
    if not min(errors) < TOLERANCE:
        raise ModelError(
            f"The model's step does not agree with its derivative (relative error {min(errors):.1e}).",
            "Something in its training pass is out of the gradient's sight: a functional "
            "batch_norm with running statistics, detach() or no_grad(), or a buffer updated by "
            "hand. Use nn.BatchNorm2d modules, or take it out.",
        )


@contextlib.contextmanager
def _float64(model: FunctionalModel):
    exact = model.to(model.theta0.device, torch.float64)
    with torch.random.fork_rng(devices=[]):
        yield exact


def _check_logits(model: FunctionalModel, batch, classes: int) -> None:
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        outputs.append(model(model.theta0, model.buffers0, batch[0], training=True))
    logits = outputs[0][0]
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if len(shape) != 2 or shape[0] != len(batch[1]) or shape[1] < classes:
        raise ModelError(
            f"The model gives {shape} for {len(batch[1])} inputs.",
            f"It must give logits of shape [{len(batch[1])}, C], with C at least "
            f"{classes}, the number of classes that the labels name.",
        )
    if not all(torch.equal(a, b) for a, b in zip(*outputs, strict=True)):
        raise ModelError(
            "The model's training pass is random: two passes differ.",
            "Remove dropout and other noise; a replayed step must be the same step.",
        )


def _relative_error(model: FunctionalModel, batch, recipe: Recipe, width: float) -> float:
    optimizer = optimizer_for(model, recipe)
    generator = torch.Generator().manual_seed(0)

    def draw(like):
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)

    start = initial_state(model, optimizer)
    end = Adjoint(draw(start.theta)[None], tuple(draw(part)[None] for part in start.opt), draw(start.buffers)[None])
    weights = torch.ones(len(batch[1]), dtype=torch.float64, device=batch[1].device)
    delta = [draw(part) * part.abs().mean().clamp(min=1e-2) if part.numel() else part for part in start.parts]
    delta_w = draw(weights)

    def inputs(w_B):
        return StepInputs(0, torch.arange(len(w_B)), batch, w_B, RATE, 0)

    def moved(sign):
        theta, *opt, buffers = (s + sign * width * d for s, d in zip(start.parts, delta, strict=True))
        state = State(theta, tuple(opt), buffers)
        after, _ = step(model, optimizer, state, inputs(weights + sign * width * delta_w))
        return [(a * s).sum() for a, s in zip(end.parts, after.parts, strict=True)]

    differences = torch.stack([(p - m) / (2 * width) for p, m in zip(moved(1), moved(-1), strict=True)])
    before, score = step_back(model, optimizer, start, inputs(weights), end)
    products = [(a * d).sum() for a, d in zip(before.parts, delta, strict=True)]
    predicted = torch.stack([*products, (score * delta_w).sum()]).sum()
    scale = torch.stack([*differences.abs(), *(p.abs() for p in products)]).max()
    return ((differences.sum() - predicted).abs() / scale).item()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""Training again with other example weights, many at once: what the scores are checked against.

The same `step`, loss, batches, batch size and initial state as the run, with w_i = 0 for an example
that is left out. Side by side, `vmap` carries M weight vectors through one pass:

    (θ [M, P], m [M, P], b [M, Q])  ←  vmap(step)(θ, m, b; batch, w [M, B])

One at a time it is the run's own training, bit for bit. Side by side the sums are of other shapes:
equal to about 1e-5, until a training that is not smooth pulls them apart.

From a step s on (`engine.core.replay`), a retraining begins with the run's own state before step s, and has the other
weights from there: bit for bit the training whose weights change at that step.

Metasmoothness (arXiv 2503.13751, definition 2) asks whether the trained parameters A(w) answer a second
nudge of the weights as they did the first:

    Δ1 = A(w + h v) − A(w)      Δ2 = A(w + 2 h v) − A(w + h v)
    S  = Σ_p |Δ1_p| sign(Δ1_p) sign(Δ2_p) / Σ_p |Δ1_p|                     from −1 to 1

Near 1 a derivative predicts what a change does; near 0 it is noise. v is normal, h = 0.1, as
far from w = 1 as leaving out 1 % of the examples: ‖h v‖ = √(0.01 N).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vmap

from engine.core.memory import bytes_per_target, chunk_that_fits
from engine.core.state import State
from engine.core.step import Passes, step
from engine.core.stream import StepInputs, Stream
from engine.core.training import initial_state, optimizer_for, train
from engine.errors import DivergedError
from engine.models.functional import FunctionalModel

NUDGE = 0.1


def side_by_side(model: FunctionalModel, stream: Stream) -> int:
    """Retrainings a pass: as many as fit on a GPU; one on a CPU, where its cores are busy with one
    (of the sample, eight side by side took as long as one after the other)."""
    if model.theta0.device.type == "cpu":
        return 1
    return chunk_that_fits(bytes_per_target(model, stream.batch_shape), stream.data.n, model.theta0.device)


def retrain(
    model: FunctionalModel,
    stream: Stream,
    weights_MN: Tensor,
    before_step: Callable[[int], None] | None = None,
    passes: Passes | None = None,
    begin: tuple[int, State] | None = None,
) -> list[State]:
    """Final states of M trainings carried side by side; `weights_MN` of the examples, each row one.

    `stream` says data and recipe; its own weights do not count. `begin`, a step and the state before it, is where they
    part from the run; the start of training where None. `passes` through the model; its own where None; those
    that are compiled carry one training at a time. Raises `DivergedError` where one of
    the trainings is not finite; its row is named.
    """
    if len(weights_MN) == 1:
        stream = stream.weighted(weights_MN[0])
        return [train(model, stream, before_step=before_step, resume=begin, passes=passes)]
    stream, optimizer = stream.weighted(weights_MN), optimizer_for(model, stream.recipe)
    start, first = begin or (0, initial_state(model, optimizer))
    states = _mapped(lambda part: part.expand(len(weights_MN), -1), first)
    for t in range(start, stream.steps):
        if before_step is not None:
            before_step(t)
        inputs = stream.at(t)

        def one(state: State, w_B: Tensor, inputs: StepInputs = inputs) -> State:
            return step(passes or model, optimizer, state, replace(inputs, w_B=w_B))[0]

        states = vmap(one)(states, inputs.w_B)
    rows = [_mapped(lambda part, m=m: part[m], states) for m in range(len(weights_MN))]
    for m, state in enumerate(rows):
        if not all(torch.isfinite(part).all() for part in state.parts):
            raise DivergedError(
                f"Retraining {m + 1} of {len(rows)} side by side diverged.",
                "Lower the peak learning rate, or leave out fewer images.",
            )
    return rows


def _mapped(function: Callable[[Tensor], Tensor], state: State) -> State:
    return State(function(state.theta), tuple(map(function, state.opt)), function(state.buffers))


def direction(n: int, seed: int) -> Tensor:
    """v, float64 [N] on the CPU: the same on every device."""
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metasmoothness(first: State, second: State, third: State) -> float:
    """S of the states at w, w + h v, w + 2 h v; NaN where the first nudge did nothing."""
    a, b = (second.theta - first.theta).double(), (third.theta - second.theta).double()
    return ((a.abs() * a.sign() * b.sign()).sum() / a.abs().sum()).item()

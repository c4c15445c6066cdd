"""Training backwards: from the adjoints at the end to the score of every training example.

    scores[k, i] = dφ_k/dw_i,   [K, N], in units of φ_k per unit of example weight

summed over the steps that saw example i (arXiv 2503.13751, algorithm 1; 2504.16430). Exact:
no term of the derivative is left out, and rounding is the only error.

From a step s on: weights that count from there, after a training before it that is fixed. The sum then ends at step s,
and so does the replay, which asks for no state before that one:

    scores[k, i] = dφ_k/dw_i,   w_i the weight of example i in the steps t ≥ s; 0 where no such step saw it
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.core.memory import bytes_per_target, chunk_that_fits
from engine.core.state import Adjoint, Trajectory
from engine.core.step import Eager, Passes, step_back
from engine.core.stream import Stream
from engine.core.training import optimizer_for
from engine.errors import DivergedError
from engine.models.functional import FunctionalModel

LOOKS = 64  # at whether the adjoint is still finite: each makes a GPU wait

# Called with (steps done, the adjoint before the last of them, the scores so far [K, N]).
OnProgress = Callable[[int, Adjoint, Tensor], None]


def replay(
    model: FunctionalModel,
    stream: Stream,
    trajectory: Trajectory,
    adjoint: Adjoint,
    targets_per_pass: int = 0,
    on_progress: OnProgress | None = None,
    before_step: Callable[[int], None] | None = None,
    resume: tuple[int, Tensor] | None = None,
    passes: Passes | None = None,
    on_fewer: Callable[[int], None] = lambda chunk: None,
    start: int = 0,
) -> Tensor:
    """Scores [K, N], in the adjoint's precision, from the adjoint at the final state.

    `stream` is that of the training. `targets_per_pass` targets are carried through a step at a time;
    0 takes as many as fit. `resume`, steps done and the scores [K, N] so far, goes on from there; the
    adjoint is then the one before those steps. `passes` through the model, with their own number of targets a pass; the
    model's where None. Where memory runs out, half as many are carried from then on, and `on_fewer` is told how many.
    `start`: weights count from this step on, from 0, and no state before it is asked for.

    Raises `DivergedError`, with the step's number, soon after an adjoint is not finite, and what the
    trajectory raises where a step can neither be read nor rebuilt.
    """
    steps, optimizer = stream.steps, optimizer_for(model, stream.recipe)
    done, scores = resume or (0, adjoint.theta.new_zeros(adjoint.theta.shape[0], stream.data.n))  # [K, N]
    chunk = targets_per_pass or chunk_that_fits(bytes_per_target(model, stream.batch_shape), len(scores), scores.device)
    every = max(1, steps // LOOKS)
    passes = passes or Eager(model, chunk=chunk)
    for t in reversed(range(start, steps - done)):
        if before_step is not None:
            before_step(t)
        inputs, state = stream.at(t), trajectory.get(t)
        while True:
            try:
                new, score_KB = step_back(passes, optimizer, state, inputs, adjoint)
                break
            except torch.OutOfMemoryError:
                fewer = passes.fewer()
                if fewer is None:
                    raise
                passes = fewer
            torch.cuda.empty_cache()
            on_fewer(passes.chunk or 1)
        adjoint = new
        scores[:, inputs.index_B] += score_KB
        if t % every == 0 or t == start:
            _check_finite(adjoint, scores, t, steps)
        if on_progress is not None:
            on_progress(steps - t, adjoint, scores)
    return scores


def _check_finite(adjoint: Adjoint, scores: Tensor, t: int, steps: int) -> None:
    if not torch.stack([part.isfinite().all() for part in (*adjoint.parts, scores)]).all():
        raise DivergedError(
            f"The adjoint grew beyond finite numbers while replaying, before step {t + 1} of {steps}.",
            "Training is too chaotic to explain: lower the peak learning rate or use a larger batch.",
            t,
        )

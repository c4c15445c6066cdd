"""Self-influence: what each training example did to its own loss.

    M[i, j] = dφ_i/dw_j        φ_i: the loss of example i after training, evaluated as any target's is
    self-influence of i = M[i, i],  in nats per unit of example weight; below 0 where training on i lowered its own loss

A replay with φ_i as its target gives the row M[i, :], of which one entry is kept. Exact, and dear: as many targets as
images. The entry needs the adjoint of *its own* target at every step that saw i, so that targets share no work beyond
the primal pass that they share anyway.

The estimate is cheaper by a factor g. Groups S of g examples, each with a random sign z_i = ±1, are one target each:

    φ_S = Σ_{i∈S} z_i φ_i       z_i dφ_S/dw_i = M[i, i] + Σ_{j∈S, j≠i} z_i z_j M[j, i]

Over the signs the last sum is zero on average, and its variance is Σ_{j∈S, j≠i} M[j, i]²: what example i does to the
others of its group. What i does to *another* group S', (dφ_S'/dw_i)², has just such a sum as its mean, and the same
replays give it for all the other groups: that is the standard error, image by image, and it costs nothing. (The random
signs are Hutchinson's, Commun. Stat. Simul. Comput. 19, 1990; groups of columns are probed together as in Tang and
Saad, 2012.) Do not use it to tell images apart whose self-influence is within a few standard errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from engine.core.memory import bytes_per_target, chunk_that_fits
from engine.core.replay import replay
from engine.core.state import Adjoint, State, Trajectory
from engine.core.stream import Examples, Stream
from engine.core.targets import CHUNK, losses
from engine.models.functional import FunctionalModel

SEED = 0  # of groups and signs: asked for twice, an estimate has the same bits


@dataclass(frozen=True, eq=False)
class Group:
    """Training examples that are replayed as one target: int64 [g], each with its sign, float64 [g]."""

    rows: np.ndarray
    signs: np.ndarray


def groups_of(images: np.ndarray, together: int) -> list[Group]:
    """The examples `images`, int64 [M], in groups of `together`, at random; alone, and in their order, where that is 1.
    The last group may be smaller."""
    rng = np.random.default_rng(SEED)
    if together == 1:
        return [Group(np.array([i]), np.ones(1)) for i in images]
    order, signs = rng.permutation(images), rng.choice((-1.0, 1.0), len(images))
    cuts = range(0, len(order), together)
    return [Group(order[i : i + together], signs[i : i + together]) for i in cuts]


def self_influence(
    model: FunctionalModel,
    stream: Stream,
    trajectory: Trajectory,
    final: State,
    groups: Sequence[Group],
    targets_per_pass: int = 0,
    **how: Any,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each group, its examples' scores M[i, i] and their standard errors, float32 [g] each; 0 where it is exact.

    Passes are filled up to `targets_per_pass` targets with copies of the last, so that a score has the same bits
    whatever it is asked for together with; 0 takes as many as fit. `how`: the other arguments of `core.replay.replay`,
    whose errors this raises, too.
    """
    adjoint, device = adjoints(model, final, stream.data, groups), final.theta.device
    each = bytes_per_target(model, stream.batch_shape)
    width = targets_per_pass or chunk_that_fits(each, len(groups), device)
    filled = torch.arange(len(groups) + -len(groups) % width, device=device).clamp(max=len(groups) - 1)
    theta, *opt, buffers = (part[filled] for part in adjoint.parts)
    scores = replay(model, stream, trajectory, Adjoint(theta, tuple(opt), buffers), width, **how)
    return own_scores(scores[: len(groups)].float().cpu().numpy(), groups)


def adjoints(model: FunctionalModel, state: State, data: Examples, groups: Sequence[Group]) -> Adjoint:
    """d(Σ z_i φ_i)/ds at the final state, one row a group."""

    def part(theta: Tensor, buffers: Tensor, batch: tuple[Tensor, Tensor], signs: Tensor) -> Tensor:
        out, _ = model(theta, buffers, batch[0], training=False)
        return (signs * losses(out, batch[1])).sum()

    rows = []
    for group in groups:
        signs = torch.as_tensor(group.signs).to(state.theta)
        pieces = [
            grad(part, argnums=(0, 1))(state.theta, state.buffers, data.batch(index), some)
            for index, some in zip(torch.as_tensor(group.rows).split(CHUNK), signs.split(CHUNK), strict=True)
        ]
        rows.append([sum(piece) for piece in zip(*pieces, strict=True)])
    theta, buffers = (torch.stack(column) for column in zip(*rows, strict=True))
    return Adjoint(theta, tuple(torch.zeros_like(theta) for _ in state.opt), buffers)


def own_scores(scores_KN: np.ndarray, groups: Sequence[Group]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of K groups' replays, float32 [K, N], what each example did to its own loss, and the standard error of that. A
    group that is alone takes for its error what the examples outside of it got."""
    found = []
    for k, group in enumerate(groups):
        g = len(group.rows)
        if len(groups) > 1:
            noise = np.square(np.delete(scores_KN[:, group.rows], k, 0), dtype=np.float64).mean(0)
        else:
            outside = np.delete(scores_KN[k], group.rows)
            noise = np.full(g, np.square(outside, dtype=np.float64).mean() if len(outside) else np.nan)
        error = np.sqrt((g - 1) / g * noise) if g > 1 else np.zeros(1)
        own = group.signs.astype(np.float32) * scores_KN[k, group.rows]
        found.append((own, error.astype(np.float32)))
    return found

"""Every optimizer against `torch.optim`, its pullback against finite differences, and a step backwards with each
kind of need: none (SGD), the optimizer's state, and the gradient."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from engine.config import Recipe
from engine.core.optim.sgd import sgd
from engine.core.replay import replay
from engine.core.state import Adjoint, State
from engine.core.step import step, step_back
from engine.core.stream import Examples, StepInputs, Stream
from engine.core.training import initial_state, optimizer_for, train
from engine.errors import DivergedError
from engine.models.functional import FunctionalModel
from engine.trajectory.digests import Digests
from engine.trajectory.modes import EveryState
from engine.trajectory.state_files import file_tensors, for_replay, named, state_of
from engine.trajectory.stores import MemoryStore
from tests.helpers import RECIPE, images, net

P, K = 7, 3


@dataclass(frozen=True)
class Adaptive:
    """An optimizer whose pullback reads its state and the gradient: v' = β v + g², θ' = θ − η g / √(v' + 1)."""

    beta: float = 0.9
    slots = ("square", "unread")
    replay_needs = (0,)
    needs_grad = True

    def init(self, theta: Tensor):
        return torch.zeros_like(theta), torch.zeros_like(theta)

    def update(self, theta, opt, grad, inputs):
        v = self.beta * opt[0] + grad**2
        return theta - inputs.lr * grad / (v + 1).sqrt(), (v, opt[1] + theta)

    def pullback(self, theta, opt, grad, inputs, adj_theta, adj_opt):
        v = self.beta * opt[0] + grad**2
        root = (v + 1).sqrt()
        adj_v = adj_opt[0] + adj_theta * inputs.lr * grad / (2 * root**3)
        adj_grad = -inputs.lr * adj_theta / root + 2 * grad * adj_v
        return adj_theta + adj_opt[1], (self.beta * adj_v, adj_opt[1]), adj_grad


def of(**changes):
    torch.manual_seed(0)
    return sgd(replace(RECIPE, **changes), torch.randint(0, 2, (P,)).double())


OPTIMIZERS = {
    "plain": of(momentum=0.0, nesterov=False),
    "momentum": of(nesterov=False, weight_decay=0.1),
    "Nesterov": of(weight_decay=0.1),
    "adaptive": Adaptive(),
}


def inputs_of(lr: float) -> StepInputs:
    return StepInputs(4, torch.arange(0), (torch.empty(0), torch.empty(0)), torch.empty(0), lr, 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_pullback_is_the_transpose_of_the_update(name):
    optimizer, inputs = OPTIMIZERS[name], inputs_of(0.3)
    theta, grad = torch.randn(P, dtype=torch.float64), torch.randn(P, dtype=torch.float64)
    opt = tuple(torch.rand(P, dtype=torch.float64) for _ in optimizer.slots)
    adj = torch.randn(1 + len(opt), K, P, dtype=torch.float64)
    before, before_opt, v = optimizer.pullback(
        theta, opt, grad if optimizer.needs_grad else None, inputs, adj[0], tuple(adj[1:])
    )

    def outputs(theta, grad, *opt):
        after, after_opt = optimizer.update(theta, opt, grad, inputs)
        return torch.stack([(row * part).sum(-1) for row, part in zip(adj, (after, *after_opt), strict=True)]).sum(0)

    expected = torch.autograd.functional.jacobian(outputs, (theta, grad, *opt))
    for ours, theirs in zip((before, v, *before_opt), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["plain", "momentum", "Nesterov"])
def test_sgd_is_torchs(name):
    optimizer = OPTIMIZERS[name]
    parameters = [torch.randn(1, dtype=torch.float64, requires_grad=True) for _ in range(P)]
    theirs = torch.optim.SGD(
        [{"params": [p], "weight_decay": float(d)} for p, d in zip(parameters, optimizer.decay_P, strict=True)],
        lr=0.2,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
    )
    theta = torch.cat([p.detach() for p in parameters])
    opt = optimizer.init(theta)
    for _ in range(4):
        grad = torch.randn(P, dtype=torch.float64)
        for p, g in zip(parameters, grad, strict=True):
            p.grad = g[None].clone()
        theirs.step()
        theta, opt = optimizer.update(theta, opt, grad, inputs_of(0.2))
    assert torch.allclose(theta, torch.cat([p.detach() for p in parameters]), rtol=1e-12)


@pytest.mark.parametrize("optimizer", [None, Adaptive()], ids=["SGD", "adaptive"])
def test_a_step_backwards_from_what_a_replay_keeps(optimizer):
    """Against automatic differentiation of the step, for optimizers that read their state and the gradient too."""
    data, labels = images()
    model = FunctionalModel(net(), dtype=torch.float64)
    optimizer = optimizer or optimizer_for(model, RECIPE)
    stream = Stream(Examples(data, labels, torch.float64), RECIPE)
    state, _ = step(model, optimizer, initial_state(model, optimizer), stream.at(0))
    inputs = replace(stream.at(1), lr=0.1)
    adj = [torch.randn(2, part.numel(), dtype=torch.float64) for part in state.parts]
    end = Adjoint(adj[0], tuple(adj[1:-1]), adj[-1])
    adjoint, scores = step_back(model, optimizer, for_replay(state, optimizer), inputs, end)

    def value(theta, buffers, w_B, *opt):
        after, _ = step(model, optimizer, State(theta, opt, buffers), replace(inputs, w_B=w_B))
        return sum((row @ part) for row, part in zip(adj, after.parts, strict=True))

    expected = torch.autograd.functional.jacobian(value, (state.theta, state.buffers, inputs.w_B, *state.opt))
    for ours, theirs in zip((adjoint.theta, adjoint.buffers, scores, *adjoint.opt), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_files_name_the_slots_and_hold_what_a_replay_reads():
    optimizer, parts = Adaptive(), [torch.full((2,), float(i)) for i in range(4)]
    state = State(parts[0], (parts[1], parts[2]), parts[3])
    assert list(named(state, optimizer)) == ["theta", "square", "unread", "buffers"]
    few = file_tensors(state, optimizer, full=False)
    assert list(few) == ["theta", "square", "buffers"]
    again = state_of(few, optimizer)
    assert torch.equal(again.opt[0], parts[1]) and again.opt[1].numel() == 0
    store = MemoryStore(optimizer)
    store.put(0, state)
    assert [part.numel() for part in store.get(0).parts] == [2, 2, 0, 2]


def test_a_replay_that_leaves_the_finite_numbers_stops_soon():
    data, labels = torch.randn(8, 3), torch.arange(8) % 2
    recipe = Recipe(epochs=320, batch_size=4, peak_lr=0.01, seed=0)
    model = FunctionalModel(nn.Linear(3, 2))
    stream, optimizer = Stream(Examples(data, labels, torch.float32), recipe), optimizer_for(model, recipe)
    trajectory = EveryState(
        MemoryStore(optimizer), initial_state(model, optimizer), None, Digests(optimizer, stream.steps, stream.steps)
    )
    state = train(model, stream, trajectory)
    end = Adjoint(torch.ones(1, 8), (torch.zeros(1, 8),), torch.zeros(1, 0))
    asked = []
    exact = trajectory.get

    def broken(t: int) -> State:
        asked.append(t)
        return exact(t) if len(asked) < 100 else exact(t)._replace(theta=state.theta * torch.inf)

    trajectory.get = broken
    assert stream.steps == 640
    with pytest.raises(DivergedError, match="of 640") as error:
        replay(model, stream, trajectory, end)
    assert 100 <= len(asked) <= 110 and error.value.step == asked[-1]

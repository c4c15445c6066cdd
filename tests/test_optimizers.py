"""Every optimizer with its options, in one table: against `torch.optim`, its pullback against automatic
differentiation, the same bits in every replay mode, retraining, and terms that are wrong. Finite differences of every
example weight stand in tests/test_exactness.py, their table in tools/exactness.py.

A step backwards with each kind of need is here too: none (SGD), the optimizer's state, and the gradient."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engine
from engine.config import Recipe
from engine.core import retraining
from engine.core.check import _check_pullback
from engine.core.optim.adam import adam, adamw
from engine.core.optim.clip import Clipped
from engine.core.optim.groups import ScaledRates, decay_and_factors
from engine.core.optim.sgd import sgd
from engine.core.replay import replay
from engine.core.schedule import learning_rate, plan_for
from engine.core.state import Adjoint, State
from engine.core.step import step, step_back
from engine.core.stream import Examples, StepInputs, Stream
from engine.core.training import initial_state, optimizer_for, train
from engine.errors import ConfigError, DivergedError, ModelError
from engine.models.functional import FunctionalModel
from engine.trajectory.digests import Digests
from engine.trajectory.modes import EveryState
from engine.trajectory.state_files import file_tensors, for_replay, named, state_of
from engine.trajectory.stores import MemoryStore
from tests.helpers import RECIPE, differences, images, net
from tests.mutants import mutant
from tools.exactness import problem

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


def of(build=sgd, **changes):
    torch.manual_seed(0)
    recipe = replace(RECIPE, **changes)
    return build(recipe, recipe.weight_decay * torch.randint(0, 2, (P,)).double())


SMOOTH = dict(weight_decay=0.1, eps_root=1e-2)
FACTORS = torch.linspace(0.0, 3.0, P, dtype=torch.float64)
OPTIMIZERS = {
    "plain": of(momentum=0.0, nesterov=False),
    "momentum": of(nesterov=False, weight_decay=0.1),
    "Nesterov": of(weight_decay=0.1),
    "adaptive": Adaptive(),
    "Adam": of(adam, weight_decay=0.1),
    "Adam, ε in the root": of(adam, **SMOOTH),
    "AdamW": of(adamw, weight_decay=0.1),
    "AdamW, ε in the root": of(adamw, **SMOOTH, eps=1e-3, beta1=0.7, beta2=0.95),
    "clipped SGD": Clipped(of(weight_decay=0.1), 0.5),
    "clipped Adam": Clipped(of(adam, **SMOOTH), 0.5),
    "clipped AdamW": Clipped(of(adamw, **SMOOTH), 0.5),
    "not clipped": Clipped(of(adamw, **SMOOTH), 50.0),
    "SGD in groups": ScaledRates(of(weight_decay=0.1), FACTORS),
    "AdamW in groups, clipped": Clipped(ScaledRates(of(adamw, **SMOOTH), FACTORS), 0.5),
}


def inputs_of(lr: float) -> StepInputs:
    return StepInputs(4, torch.arange(0), (torch.empty(0), torch.empty(0)), torch.empty(0), lr, 0)


def pullback_error(optimizer) -> float:
    """The largest difference of the pullback from automatic differentiation of the update."""
    torch.manual_seed(2)
    inputs = inputs_of(0.3)
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
    return max(float((a - b).abs().max()) for a, b in zip((before, v, *before_opt), expected, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_pullback_is_the_transpose_of_the_update(name):
    assert pullback_error(OPTIMIZERS[name]) <= 1e-12


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_check_before_a_training_takes_every_optimizer(name, monkeypatch):
    _check_pullback(OPTIMIZERS[name], torch.randn(P, dtype=torch.float64))
    exact = type(OPTIMIZERS[name]).pullback
    for wrong in range(3):

        def pullback(*args, wrong=wrong, exact=exact):
            theta, opt, v = exact(*args)
            off = [1e-3 * (wrong == i) for i in range(3)]
            return theta + off[0], tuple(part + off[1] for part in opt), v + off[2]

        monkeypatch.setattr(type(OPTIMIZERS[name]), "pullback", pullback)
        with pytest.raises(ModelError, match="pullback"):
            _check_pullback(OPTIMIZERS[name], torch.randn(P, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Adam, ε in the root", "clipped AdamW", "clipped SGD", "AdamW in groups, clipped"])
def test_the_check_is_not_misled_by_a_million_parameters(name):
    """Differences of sums over many parameters are rounded; and the norm is far above what is clipped."""
    few, many = OPTIMIZERS[name], 300_000
    inner = few.inner if isinstance(few, Clipped) else few
    scaled = inner.inner if isinstance(inner, ScaledRates) else inner
    large = replace(scaled, decay_P=0.1 * torch.ones(many, dtype=torch.float64))
    if isinstance(inner, ScaledRates):
        large = ScaledRates(large, torch.linspace(0.0, 3.0, many, dtype=torch.float64))
    for norm in (1e-3, 1.0, 1e6) if isinstance(few, Clipped) else (None,):
        optimizer = large if norm is None else Clipped(large, norm)
        _check_pullback(optimizer, torch.randn(many, dtype=torch.float64))


@pytest.mark.parametrize("build", [adam, adamw])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_every_gradient_was_zero_the_pullback_of_adam_is_its_derivative(build, dtype):
    """v = 0: a 0 / 0 in the derivative of the root, which counts as 0. Against differences within ε of 0."""
    optimizer = build(replace(RECIPE, weight_decay=0.0), torch.zeros(P, dtype=dtype))
    theta, zero, adj = torch.ones(P, dtype=dtype), torch.zeros(P, dtype=dtype), torch.ones(1, P, dtype=dtype)
    none = torch.zeros(1, P, dtype=dtype)
    for t in (0, 1, 7):
        inputs = replace(inputs_of(0.1), t=t)
        before, opt, v = optimizer.pullback(theta, (zero, zero), zero, inputs, adj, (none, none))
        assert all(part.isfinite().all() for part in (before, *opt, v)) and torch.equal(before, adj)
        h = 1e-14  # of the gradient: far within ε = 1e-8
        ends = [optimizer.update(0 * theta, (zero, zero), zero + sign * h, inputs)[0] for sign in (1, -1)]
        assert torch.allclose(v[0], (ends[0] - ends[1]) / (2 * h), rtol=1e-4) and v.abs().min() > 1e4
    # Gradients whose squares are as small as a float can be, or smaller.
    for g in (1e-30, 1e-22, 1e-19, 1e-12):
        parts = optimizer.pullback(theta, (zero, zero), zero + g, inputs_of(0.1), adj, (none, none))
        assert all(part.isfinite().all() for part in (parts[0], *parts[1], parts[2]))
    smooth = replace(optimizer, eps_root=1e-8)
    assert smooth.pullback(theta, (zero, zero), zero, inputs_of(0.1), adj, (none, none))[2].abs().max() < 1e4


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_pixels_that_are_always_black_harm_no_score(optimizer):
    """Their weights' gradients are exactly 0 in every step: v = 0 to the end. Scores by finite differences."""
    inputs, labels = images()
    inputs = torch.where(torch.arange(6) < 2, 0.0, inputs)
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    recipe = replace(RECIPE, optimizer=optimizer, eps=1e-3, peak_lr=0.02, weight_decay=0.0)
    trained = engine.train(model, inputs, labels, recipe, device="cpu")
    assert int((trained.state.opt[1] == 0).sum()) == 36, "two of six columns, to three classes"
    scores, h = engine.attribute(trained, inputs[:2], labels[:2]), 1e-5
    expected = differences(trained, len(labels), h, inputs[:2], labels[:2])
    assert np.allclose(scores, expected, rtol=1e-6, atol=1e-9)


def test_a_root_of_zero_that_is_not_looked_at_is_seen(tmp_path):
    wrong = mutant(ADAM_FILE, "torch.where(root > 0, m / k1", "torch.where(root >= 0, m / k1", tmp_path)
    zero, adj = torch.zeros(P).double(), torch.ones(1, P).double()
    for module, finite in ((wrong, False), (mutant(ADAM_FILE, "decoupled: bool", "decoupled: bool", tmp_path), True)):
        parts = module.adam(RECIPE, zero).pullback(zero, (zero, zero), zero, inputs_of(0.1), adj, (0 * adj, 0 * adj))
        assert bool(parts[2].isfinite().all()) is finite


def test_a_gradient_of_zero_is_not_clipped():
    for norm in (1.0, 1e-7):
        optimizer = Clipped(of(), norm)
        theta, zero = torch.ones(P, dtype=torch.float64), torch.zeros(P, dtype=torch.float64)
        after, _ = optimizer.update(theta, (zero,), zero, inputs_of(0.1))
        assert after.isfinite().all()
        parts = optimizer.pullback(theta, (zero,), zero, inputs_of(0.1), torch.ones(1, P).double(), (zero[None],))
        assert all(part.isfinite().all() for part in (parts[0], *parts[1], parts[2]))


# -- whole trainings


def table(**changes):
    return replace(RECIPE, peak_lr=0.02, epochs=17, **changes)  # 51 steps of 8 of 26 examples


ADAM = dict(weight_decay=0.1)
GROUPS = (("6.*", 3.0, 0.01), ("*.bias", 0.5, None), ("0.*", 0.0, None))
RECIPES = {
    "SGD": table(),
    "SGD, plain": table(momentum=0.0, nesterov=False, weight_decay=0.0),
    "Adam": table(optimizer="adam", **ADAM),
    "Adam, other memories": table(optimizer="adam", beta1=0.5, beta2=0.9, eps=1e-3, decay_norm_bias=True, **ADAM),
    "Adam without memory": table(optimizer="adam", beta1=0.0, beta2=0.0, eps=1e-2),
    "AdamW": table(optimizer="adamw", **ADAM),
    "AdamW, decay on all": table(optimizer="adamw", decay_norm_bias=True, eps=1e-4, **ADAM),
    "SGD, clipped": table(clip_norm=1.0),
    "AdamW, clipped": table(optimizer="adamw", clip_norm=1.0, **ADAM),
    "SGD, smoothed labels": table(label_smoothing=0.2),
    "AdamW, smoothed labels, class weights": table(
        optimizer="adamw", label_smoothing=0.1, class_weights=(0.5, 2.0, 1.0), **ADAM
    ),
    "SGD in groups": table(groups=GROUPS, weight_decay=0.1),
    "Adam in groups, clipped": table(optimizer="adam", groups=GROUPS, clip_norm=1.0, **ADAM),
    "AdamW in groups, balanced, linear legs": table(
        optimizer="adamw", groups=GROUPS, class_weights="balanced", anneal="linear", warmup_steps=5, **ADAM
    ),
}
TORCHS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def torchs_options(recipe: Recipe) -> dict:
    if recipe.optimizer == "sgd":
        return {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    return {"betas": (recipe.beta1, recipe.beta2), "eps": recipe.eps}


def group_of(name: str, parameter: Tensor, recipe: Recipe) -> tuple[float, float]:
    """Factor and decay, written once more."""
    usual = recipe.weight_decay if parameter.dim() > 1 or recipe.decay_norm_bias else 0.0
    for pattern, factor, decay in recipe.groups:
        head, tail = pattern.split("*")
        if name.startswith(head) and name.endswith(tail):
            return factor, usual if decay is None else decay
    return 1.0, usual


def trained_by_torch(recipe: Recipe, inputs: Tensor, labels: Tensor, steps: int) -> tuple[nn.Module, float]:
    """The module after `steps`, and the share of steps that were clipped. Rates are the engine's own."""
    model = net()
    settings = {name: group_of(name, p, recipe) for name, p in model.named_parameters()}
    groups = [{"params": [p], "weight_decay": settings[name][1]} for name, p in model.named_parameters()]
    theirs = TORCHS[recipe.optimizer](groups, lr=1.0, **torchs_options(recipe))
    plan, n = plan_for(recipe, len(labels)), labels.bincount().double()
    weights = {"none": None, "balanced": len(labels) / (3 * n)}.get(
        recipe.class_weights if isinstance(recipe.class_weights, str) else "", None
    )
    if isinstance(recipe.class_weights, tuple):
        weights = torch.tensor(recipe.class_weights).double()
    clipped = 0
    for t in range(steps):
        for group, (factor, _) in zip(theirs.param_groups, settings.values(), strict=True):
            group["lr"] = factor * learning_rate(recipe, t, len(plan))
        theirs.zero_grad()
        losses = F.cross_entropy(
            model(inputs[plan[t]]),
            labels[plan[t]],
            weights,
            reduction="none",
            label_smoothing=recipe.label_smoothing,
        )
        losses.mean().backward()
        if recipe.clip_norm:
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            clipped += bool(norm > recipe.clip_norm)
        theirs.step()
    return model, clipped / steps


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_fifty_steps_are_those_of_torch_optim(name):
    recipe, (inputs, labels) = RECIPES[name], images()
    trained = engine.train(net(), inputs, labels, recipe, device="cpu")
    steps = trained.stream.steps
    assert steps == 51
    model, clipped = trained_by_torch(recipe, inputs, labels, steps)
    assert not recipe.clip_norm or 0.1 < clipped < 1, "clips some steps and not others"
    moved = 0.0
    for key, value in trained.model_state.items():
        theirs, start = model.state_dict()[key], net().state_dict()[key]
        assert (value - theirs).norm() <= 1e-6 * theirs.norm() + 1e-12, key
        moved += float((value - start).norm())
    assert moved > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_modes_give_the_same_bits(name, tmp_path):
    recipe, (inputs, labels) = replace(RECIPES[name], epochs=3), images()

    def scores(**kwargs):
        trained = engine.train(net().float(), inputs.float(), labels, recipe, device="cpu", check=False, **kwargs)
        return engine.attribute(trained, inputs[:3].float(), labels[:3]), trained

    expected, trained = scores()
    assert np.isfinite(expected).all() and np.abs(expected).max() > 1e-5
    (tmp_path / "disk").mkdir(), (tmp_path / "some").mkdir()
    on_disk, kept = scores(trajectory_folder=tmp_path / "disk")
    others = [on_disk, scores(replay_mode="recompute", segment=4)[0]]
    others.append(scores(replay_mode="recompute", trajectory_folder=tmp_path / "some", segment=2)[0])
    assert all(np.array_equal(other, expected) for other in others)
    # What a step backwards reads is there, and no more.
    (first, *_) = sorted((tmp_path / "disk").iterdir())
    with safetensors.safe_open(first, "pt") as file:
        slots = {"exp_avg", "exp_avg_sq"} if recipe.optimizer != "sgd" else set()
        assert set(file.keys()) == {"theta", "buffers", *slots}
    assert torch.equal(kept.state.theta, trained.state.theta)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_retraining_with_weights_is_training_with_them(name):
    recipe, (inputs, labels) = replace(RECIPES[name], epochs=3), images()
    weights = torch.ones(len(labels), dtype=torch.float64)
    weights[[3, 8]] = torch.tensor([0.0, 1.7]).double()
    trained = engine.train(net(), inputs, labels, recipe, device="cpu", check=False)
    direct = engine.train(net(), inputs, labels, recipe, device="cpu", check=False, weights=weights).state
    again = engine.retrain(trained, weights)
    assert all(torch.equal(a, b) for a, b in zip(again.parts, direct.parts, strict=True))
    assert (again.theta - trained.state.theta).norm() > 1e-3
    both = retraining.retrain(trained.model, trained.stream, torch.stack([weights, torch.ones_like(weights)]))
    for state, alone in zip(both, (direct, trained.state), strict=True):
        assert torch.allclose(state.theta, alone.theta, rtol=1e-6, atol=1e-9)


def test_replay_of_adam_agrees_with_reverse_over_reverse():
    """The whole of training as one autograd graph, with ε beside the root. Of a network without BatchNorm: a bias
    before one has a gradient of 0, where autograd's root gives NaN."""
    model, (inputs, labels), _ = problem(False)
    recipe = replace(RECIPES["AdamW, clipped"], epochs=3)
    trained = engine.train(model, inputs, labels, recipe, device="cpu")
    weights = torch.ones(len(labels), dtype=torch.float64, requires_grad=True)
    stream, optimizer = trained.stream.weighted(weights), optimizer_for(trained.model, recipe)
    state = initial_state(trained.model, optimizer)
    theta, opt, buffers = state.theta.clone().requires_grad_(), state.opt, state.buffers
    for t in range(stream.steps):
        at = stream.at(t)
        logits, buffers = trained.model(theta, buffers, at.batch[0], True)
        losses = F.cross_entropy(logits, at.batch[1], reduction="none")
        (g,) = torch.autograd.grad((at.w_B * losses).sum() / recipe.batch_size, theta, create_graph=True)
        theta, opt = optimizer.update(theta, opt, g, at)
    logits, _ = trained.model(theta, buffers, inputs[:1], False)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, labels[:1]), weights)
    scores = engine.attribute(trained, inputs[:1], labels[:1])[0]
    assert np.linalg.norm(scores - expected.numpy()) <= 1e-6 * np.linalg.norm(expected.numpy())


NEEDS = {
    "SGD": RECIPE,
    "adaptive": None,
    "AdamW, clipped": replace(RECIPE, optimizer="adamw", eps_root=1e-4, clip_norm=0.5, weight_decay=0.1),
    "Adam in groups, smoothed": replace(
        RECIPE, optimizer="adam", eps_root=1e-4, groups=(("6.*", 3.0, 0.01),), label_smoothing=0.1, weight_decay=0.1
    ),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_step_backwards_from_what_a_replay_keeps(name):
    """Against automatic differentiation of the step, for optimizers that read their state and the gradient too."""
    data, labels = images()
    model, recipe = FunctionalModel(net(), dtype=torch.float64), NEEDS[name]
    optimizer = optimizer_for(model, recipe) if recipe else Adaptive()
    stream = Stream(Examples(data, labels, torch.float64), recipe or RECIPE)
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


@pytest.mark.slow
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


# -- groups by name


def test_groups_take_the_first_pattern_that_matches():
    model = FunctionalModel(net(), dtype=torch.float64)
    recipe = replace(
        RECIPE, weight_decay=0.1, groups=(("0.weight", 2.0, None), ("0.*", 3.0, 0.5), ("*.bias", 4.0, 0.0))
    )
    decay, factor = (model.named(part, model.buffers0)[0] for part in decay_and_factors(model, recipe))
    seen = {name: (factor[name].unique().tolist(), decay[name].unique().tolist()) for name in factor}
    assert seen["0.weight"] == ([2.0], [0.1]) and seen["0.bias"] == ([3.0], [0.5]) and seen["1.bias"] == ([4.0], [0.0])
    assert seen["1.weight"] == ([1.0], [0.0]) and seen["4.weight"] == ([1.0], [0.1])


@pytest.mark.parametrize("groups", [(("head.*", 2.0, None),), (("*", 1.0, None), ("0.*", 2.0, 0.0))])
def test_a_group_without_parameters_is_refused_by_name(groups):
    with pytest.raises(ConfigError, match=f"«{groups[-1][0].replace('*', '.*')}»") as caught:
        engine.train(net(), *images(), replace(RECIPE, groups=groups), device="cpu")
    assert "0.weight, 0.bias" in caught.value.remedy and "recipe.groups" in caught.value.problems


def test_a_factor_of_zero_leaves_the_parameters_where_they_are():
    recipe = replace(RECIPES["AdamW, clipped"], epochs=3, groups=(("6.*", 0.0, None),))
    trained = engine.train(net(), *images(), recipe, device="cpu")
    assert all(torch.equal(trained.model_state[k], net().state_dict()[k]) for k in ("6.weight", "6.bias"))
    assert not torch.equal(trained.model_state["0.weight"], net().state_dict()["0.weight"])


# -- terms that are wrong are seen


ADAM_FILE, CLIP_FILE, SGD_FILE = (f"engine/core/optim/{name}.py" for name in ("adam", "clip", "sgd"))
MUTATIONS = {
    "no bias correction": (ADAM_FILE, "return 1 - beta ** (t + 1)", "return 1.0"),
    "bias correction one step late": (ADAM_FILE, "beta ** (t + 1)", "beta ** (t + 2)"),
    "betas swapped": (
        ADAM_FILE,
        "return Adam(recipe.beta1, recipe.beta2, recipe.eps, recipe.eps_root, decay_P, decoupled=True)",
        "return Adam(recipe.beta2, recipe.beta1, recipe.eps, recipe.eps_root, decay_P, decoupled=True)",
    ),
    "AdamW's decay coupled": (ADAM_FILE, "decay_P, decoupled=True)", "decay_P, decoupled=False)"),
    "Adam's decay decoupled": (ADAM_FILE, "decay_P, decoupled=False)", "decay_P, decoupled=True)"),
    "decay without the rate": (
        ADAM_FILE,
        "theta = theta - inputs.lr * self.decay_P * theta",
        "theta = theta - self.decay_P * theta",
    ),
    "ε inside the root for ε beside it": (
        ADAM_FILE,
        "recipe.eps, recipe.eps_root, decay_P, decoupled=True",
        "recipe.eps_root, recipe.eps, decay_P, decoupled=True",
    ),
    "squares not squared": (ADAM_FILE, "(1 - self.beta2) * d**2\n", "(1 - self.beta2) * d.abs()\n"),
    "v's path to the gradient": (
        ADAM_FILE,
        "c = (1 - self.beta1) * a + 2 * (1 - self.beta2) * d * b",
        "c = (1 - self.beta1) * a",
    ),
    "v's path to θ'": (ADAM_FILE, "b = adj_v + inputs.lr * adj_theta * slope", "b = adj_v"),
    "the sign of v's path": (ADAM_FILE, "b = adj_v + inputs.lr", "b = adj_v - inputs.lr"),
    "the adjoint of v": (ADAM_FILE, "(self.beta1 * a, self.beta2 * b)", "(self.beta1 * a, 0 * b)"),
    "the adjoint of m": (ADAM_FILE, "(self.beta1 * a, self.beta2 * b)", "(0 * a, self.beta2 * b)"),
    "betas swapped backwards": (ADAM_FILE, "(self.beta1 * a, self.beta2 * b)", "(self.beta2 * a, self.beta1 * b)"),
    "v's bias correction backwards": (ADAM_FILE, "below**2 / root / (2 * k2)", "below**2 / root / 2"),
    "m's bias correction backwards": (ADAM_FILE, "adj_theta / (k1 * below)", "adj_theta / below"),
    "one power of the root": (ADAM_FILE, "m / k1 / below**2 / root", "m / k1 / below / root"),
    "coupled decay's path": (ADAM_FILE, "else adj_theta + self.decay_P * c", "else adj_theta"),
    "decoupled decay's path": (ADAM_FILE, "adj_theta - inputs.lr * self.decay_P * adj_theta if", "adj_theta if"),
    "the norm as a constant": (CLIP_FILE, "(factor < 1) & (n > 0), v - along, v)", "(factor < 1) & (n > 0), v, v)"),
    "the norm's path where it does not clip": (
        CLIP_FILE,
        "torch.where((factor < 1) & (n > 0), v - along, v)",
        "(v - along)",
    ),
    "no factor backwards": (CLIP_FILE, "before, factor * torch.where", "before, torch.where"),
    "without torch's 1e-6": (CLIP_FILE, "ADDED = 1e-6", "ADDED = 1e-2"),
    "always scaled": (CLIP_FILE, ".clamp(max=1.0)", ""),
    "the gradient unclipped backwards": (CLIP_FILE, "clipped = factor * grad if", "clipped = grad if"),
    "Nesterov's second look": (SGD_FILE, "v = a - inputs.lr * adj_theta if self.nesterov else a", "v = a"),
    "SGD's decay": (SGD_FILE, "return adj_theta + self.decay_P * v", "return adj_theta"),
}


def one_parameter_by_torch(recipe: Recipe, decay_P: Tensor, grads: list[Tensor], lr: float) -> Tensor:
    parameters = [torch.full((1,), 0.5 + i, dtype=torch.float64, requires_grad=True) for i in range(P)]
    groups = [{"params": [p], "weight_decay": float(d)} for p, d in zip(parameters, decay_P, strict=True)]
    theirs = TORCHS[recipe.optimizer](groups, lr=lr, **torchs_options(recipe))
    for grad in grads:
        for p, g in zip(parameters, grad, strict=True):
            p.grad = g[None].clone()
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        theirs.step()
    return torch.cat([p.detach() for p in parameters])


def worst_error(adam_module, clip_module, sgd_module) -> float:
    """Of the builders in three modules: their updates against torch's, their pullbacks against their updates."""
    torch.manual_seed(3)
    decay, grads = torch.rand(P).double(), [torch.randn(P, dtype=torch.float64) for _ in range(4)]
    errors = []
    for build, name in ((sgd_module.sgd, "sgd"), (adam_module.adam, "adam"), (adam_module.adamw, "adamw")):
        for clip_norm in (0.0, 1.5, 50.0):
            recipe = replace(RECIPE, optimizer=name, clip_norm=clip_norm, eps=1e-3)
            optimizer = build(recipe, decay)
            optimizer = clip_module.Clipped(optimizer, clip_norm) if clip_norm else optimizer
            theta = 0.5 + torch.arange(P, dtype=torch.float64)
            opt = optimizer.init(theta)
            for t, grad in enumerate(grads):
                theta, opt = optimizer.update(theta, opt, grad, replace(inputs_of(0.2), t=t))
            errors.append(float((theta - one_parameter_by_torch(recipe, decay, grads, 0.2)).abs().max()))
            errors.append(pullback_error(optimizer))
    return max(errors)


def modules_with(tmp_path, name: str | None = None) -> list:
    """The three files' modules, one of them with a mutation."""
    changes = dict.fromkeys((ADAM_FILE, CLIP_FILE, SGD_FILE), ("from torch import Tensor",) * 2)
    if name is not None:
        file, *change = MUTATIONS[name]
        changes[file] = tuple(change)
    return [mutant(file, right, wrong, tmp_path) for file, (right, wrong) in changes.items()]


def test_the_right_terms_pass(tmp_path):
    """The measure of the mutations below, on files of which nothing is changed."""
    assert worst_error(*modules_with(tmp_path)) <= 1e-12


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_term_is_seen(name, tmp_path):
    assert worst_error(*modules_with(tmp_path, name)) > 1e-4

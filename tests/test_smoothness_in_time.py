"""Smoothness in time: the norms of adjoints are those of autograd through the whole training, the curvature is the
dense Hessian's, limits are those of the optimizers' own steps, and no bit of the scores depends on any of it."""

import dataclasses
import math
import threading

import numpy as np
import pytest
import torch
from torch.func import functional_call

from engine.__main__ import main
from engine.analysis import stability, trust
from engine.config import Recipe
from engine.core import replay as core_replay
from engine.core import targets as phi
from engine.core.curvature import curvature_times_rate, largest_eigenvalue
from engine.core.optim.sgd import SGD
from engine.core.replay import replay
from engine.core.state import Adjoint, State
from engine.core.step import step, step_back
from engine.core.stream import Examples, StepInputs, Stream
from engine.core.training import advance, initial_state, optimizer_for
from engine.errors import CancelledError, ConfigError, DivergedError, IntegrityError
from engine.jobs import norms
from engine.jobs.curvature import Curvature
from engine.jobs.execute import execute
from engine.jobs.replay import Replay
from engine.models.functional import FunctionalModel
from engine.runs import run as runs
from tests.helpers import RECIPE, images, net
from tools import probe_against_lds

TARGETS = [np.array([0]), np.array([1, 2, 3])]
ADAM = dataclasses.replace(RECIPE, optimizer="adamw", peak_lr=0.02, eps_root=1e-3)


class Kept(dict):
    """A trajectory: the states before all steps."""

    get = dict.__getitem__


def trained(recipe: Recipe, dtype: torch.dtype = torch.float64) -> tuple[FunctionalModel, Stream, Kept, State]:
    model = FunctionalModel(net(), dtype=dtype)
    stream, states = Stream(Examples(*images(), dtype), recipe), Kept()
    first = initial_state(model, optimizer_for(model, recipe))
    return model, stream, states, advance(model, stream, first, 0, stream.steps, states.__setitem__)


# -- norms


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [RECIPE, ADAM], ids=["sgd", "adamw"])
def test_norms_are_those_of_autograd_through_the_training(recipe):
    model, stream, states, final = trained(recipe)
    optimizer, recorder = optimizer_for(model, recipe), norms.Recorder(set(range(stream.steps)))
    adjoint = phi.adjoints(model, final, stream.data, TARGETS, "loss")
    recorder.first(stream.steps, adjoint)
    replay(model, stream, states, adjoint, on_progress=lambda done, a, _: recorder.look(stream.steps - done, a))
    found = recorder.norms()
    assert list(found) == list(reversed(range(stream.steps + 1)))
    for t in (0, 4, stream.steps - 1):
        theta = states[t].theta.clone().requires_grad_()
        state = State(theta, states[t].opt, states[t].buffers)
        for u in range(t, stream.steps):
            state = step(model, optimizer, state, stream.at(u))[0]
        for k, target in enumerate(TARGETS):
            inputs, labels = stream.data.batch(target)
            value = phi.losses(model(state.theta, state.buffers, inputs, training=False)[0], labels).mean()
            (exact,) = torch.autograd.grad(value, theta, retain_graph=True)
            assert found[t][k] == pytest.approx(exact.norm().item(), rel=1e-3) and found[t][k] > 1e-3


@pytest.mark.slow
def test_scores_are_the_same_bits_whether_norms_are_recorded_or_not(quick, monkeypatch):
    def scored(looked) -> np.ndarray:
        monkeypatch.setattr(norms, "looked_at", lambda start, steps, targets: looked(steps))
        with quick.lock():
            name = execute(quick, Replay(("test:3", "test:5"))).scores
        return quick.scores().matrix(name)

    every, none = scored(lambda steps: set(range(steps))), scored(lambda steps: {0})
    assert np.array_equal(every, none) and every.any()
    looks = [sidecar["norm_steps"] for sidecar in quick.scores().sidecars()]
    assert looks == [[*reversed(range(11))], [*reversed(range(11))], [10, 0]], "every step of ten is looked at"


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 8])
def test_a_replay_that_was_killed_goes_on_to_the_same_norms(quick, monkeypatch, after):
    def described(name: str) -> list:
        (sidecar,) = (each for each in quick.scores().sidecars() if each["name"] == name)
        return [sidecar["norm_steps"], *(target["norms"] for target in sidecar["targets"])]

    job = Replay(("test:3", "test:5"))
    with quick.lock():
        whole = described(execute(quick, job).scores)
    cancel, look = threading.Event(), norms.Recorder.look

    def looks(self, t, adjoint):
        look(self, t, adjoint)
        if t == 10 - after:
            cancel.set()

    monkeypatch.setattr(norms.Recorder, "look", looks)
    with quick.lock(), pytest.raises(CancelledError):
        execute(quick, job, cancel)
    monkeypatch.setattr(norms.Recorder, "look", look)
    with quick.lock():
        resumed = described(execute(quick).scores)
    assert any("Resumes the replay after" in event.get("text", "") for event in quick.events()[0])
    assert resumed == whole


def test_long_sets_are_thinned_evenly_to_what_a_page_can_read():
    assert norms.looked_at(0, 144, 16) == set(range(144))
    assert norms.looked_at(0, 1000, 1000) == {round(1000 * i / 60) for i in range(60)}
    assert norms.looked_at(40, 44, 3) == {40, 41, 42, 43}, "of a window"
    assert len(norms.looked_at(0, 50_000, 10_000)) == norms.FEWEST and 0 in norms.looked_at(0, 50_000, 10_000)


def test_parts_of_two_versions_are_put_together_at_the_steps_that_both_looked_at():
    dense = {"norm_steps": [4, 3, 2, 1, 0], "targets": [{"name": "a", "norms": [1.0, 2.0, 3.0, 4.0, 5.0]}]}
    thin = {"norm_steps": [4, 2, 0], "targets": [{"name": "b", "norms": [6.0, 7.0, 8.0]}]}
    whole = norms.together([dense, thin])
    assert whole["norm_steps"] == [4, 2, 0]
    assert whole["targets"] == [{"name": "a", "norms": [1.0, 3.0, 5.0]}, {"name": "b", "norms": [6.0, 7.0, 8.0]}]


@pytest.mark.slow
def test_an_adjoint_that_is_no_longer_finite_is_named_where_it_began(monkeypatch):
    monkeypatch.setattr(core_replay, "LOOKS", 3)  # every eighth step, as of a long training: it is found out later
    model, stream, states, final = trained(dataclasses.replace(RECIPE, peak_lr=3.0, epochs=8), torch.float32)
    adjoint = phi.adjoints(model, final, stream.data, TARGETS, "margin")
    large = 1e23 / max(part.abs().max().item() for part in adjoint.parts)  # so that it has not far to go
    adjoint = Adjoint(adjoint.theta * large, adjoint.opt, adjoint.buffers * large)
    place, at, optimizer = stream.steps, adjoint, optimizer_for(model, stream.recipe)
    while at.theta.isfinite().all():
        place -= 1
        at = step_back(model, optimizer, states[place], stream.at(place), at)[0]
    assert 0 < place < stream.steps - 1, "the case is one in which it grows beyond float32 on its way"
    recorder = norms.Recorder(set(range(stream.steps)))
    recorder.first(stream.steps, adjoint)
    with pytest.raises(DivergedError) as error, norms.naming_the_place(recorder, stream.steps):
        replay(model, stream, states, adjoint, on_progress=lambda done, a, _: recorder.look(stream.steps - done, a))
    assert error.value.step == place and f"before step {place + 1} of {stream.steps}" in error.value.what


# -- curvature


def hessian(stream: Stream, state: State, model: FunctionalModel, t: int) -> torch.Tensor:
    """[P, P] of the mean loss of step t's batch, by differentiating twice through torch's own module and loss."""
    module, inputs = net().train(), stream.at(t)
    shapes = {name: part.shape for name, part in module.named_parameters()}
    order = list(model.named(state.theta, state.buffers)[0])

    def loss(theta: torch.Tensor) -> torch.Tensor:
        pieces = theta.split([math.prod(shapes[name]) for name in order])
        named = {name: piece.view(shapes[name]) for name, piece in zip(order, pieces, strict=True)}
        out = functional_call(module, named, (inputs.batch[0],))
        return (inputs.w_B * torch.nn.functional.cross_entropy(out, inputs.batch[1], reduction="none")).mean()

    return torch.autograd.functional.hessian(loss, state.theta)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        RECIPE,
        dataclasses.replace(RECIPE, weight_decay=0.3, clip_norm=0.1, groups=(("0.*", 5.0, None),)),
        ADAM,
    ],
    ids=["sgd", "decay, clipping, groups", "adamw"],
)
def test_curvature_is_that_of_the_dense_hessian(recipe):
    model, stream, states, _ = trained(recipe)
    weights = torch.linspace(0.5, 1.5, stream.data.n, dtype=torch.float64)
    stream, t = stream.weighted(weights), 5
    state, inputs = states[t], stream.at(t)
    # The rate of each parameter, by what the optimizer's own step does to a parameter whose gradient is nudged.
    optimizer = optimizer_for(model, dataclasses.replace(recipe, clip_norm=0.0, momentum=0.0, nesterov=False))
    gradient = torch.func.grad(lambda theta: loss_of(model, theta, state, inputs))(state.theta)
    factor = min(1.0, recipe.clip_norm / (gradient.norm().item() + 1e-6)) if recipe.clip_norm else 1.0
    if recipe.optimizer == "adamw":
        second = recipe.beta2 * state.opt[1] + (1 - recipe.beta2) * gradient**2
        root = (second / (1 - recipe.beta2 ** (t + 1)) + recipe.eps_root).sqrt() + recipe.eps
        rate, decay = inputs.lr / root / (1 - recipe.beta1 ** (t + 1)), torch.zeros_like(gradient)
    else:
        zero = torch.zeros_like(state.theta)
        rate = -optimizer.update(zero, (zero,), torch.ones_like(zero), inputs)[0] * factor
        decay = -(optimizer.update(torch.ones_like(zero), (zero,), zero, inputs)[0] - 1) * factor / rate
    dense = rate.sqrt()[:, None] * (hessian(stream, state, model, t) + decay.diag()) * rate.sqrt()
    exact = torch.linalg.eigvalsh(dense).max().item()
    assert curvature_times_rate(model, recipe, state, inputs, 80) == pytest.approx(exact, rel=1e-6) and exact > 0.01
    assert 0.8 * exact < curvature_times_rate(model, recipe, state, inputs, 8) <= exact * (1 + 1e-9)


def loss_of(model: FunctionalModel, theta: torch.Tensor, state: State, inputs: StepInputs) -> torch.Tensor:
    logits, _ = model(theta, state.buffers, inputs.batch[0], training=True, key=inputs.key, index_B=inputs.index_B)
    return (inputs.w_B * inputs.loss(logits, inputs.batch[1])).mean()


def test_the_largest_eigenvalue_is_not_the_largest_in_size():
    values = torch.tensor([-9.0, -2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    assert largest_eigenvalue(lambda v: values * v, torch.ones(5, dtype=torch.float64), 5) == pytest.approx(3.0)
    assert math.isnan(largest_eigenvalue(lambda v: v * math.nan, torch.ones(5), 5))


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)])
def test_the_limit_is_where_a_step_on_a_quadratic_begins_to_grow(momentum, nesterov):
    recipe = dataclasses.replace(RECIPE, momentum=momentum, nesterov=nesterov)
    optimizer, inputs = SGD(momentum, nesterov, torch.zeros(2)), dataclasses.replace(a_step(), lr=1.0)

    def radius(curvature: float) -> float:
        theta, m = torch.eye(2)  # columns of the step's linear map
        after, (slot,) = optimizer.update(theta, (m,), curvature * theta, inputs)
        return torch.linalg.eigvals(torch.stack([after, slot])).abs().max().item()

    limit = stability.limit(recipe)
    assert limit is not None and radius(0.99 * limit) < 1 < radius(1.01 * limit)


def test_the_limit_of_adam_is_that_of_its_frozen_step():
    limit = stability.limit(ADAM)

    def radius(curvature: float) -> float:
        b = ADAM.beta1  # m' = b m + (1 − b) λ θ,  θ' = θ − m'
        step = np.array([[1 - (1 - b) * curvature, -b], [(1 - b) * curvature, b]])
        return np.abs(np.linalg.eigvals(step)).max()

    assert limit == pytest.approx(38.0) and radius(0.99 * limit) < 1 < radius(1.01 * limit)
    assert stability.limit(dataclasses.replace(ADAM, optimizer="other")) is None


def a_step() -> StepInputs:
    return trained_stream().at(0)


def trained_stream() -> Stream:
    return Stream(Examples(*images(), torch.float64), RECIPE)


# -- the place


@pytest.mark.parametrize(
    "curves, start, grown",
    [
        ([[1.5, 1.2, 1.0, 1.0]], 0, [1.5, 1.2, 1.0, 1.0]),
        ([[9.0, 5.0, 1.9, 1.0]], 2, [9.0, 5.0, 1.9, 1.0]),
        ([[1.6, 0.1, 0.4, 1.0]], 0, [1.6, 0.1, 0.4, 1.0]),  # as of the sample: it shrinks, and grows at the start
        ([[1.0, 1.0, 1.0, 1.0], [1.0, 4.0, 1.0, 1.0]], 2, [1.0, 4.0, 1.0, 1.0]),
        ([[math.inf, 1.0, 1.0, 1.0]], 1, [math.inf, 1.0, 1.0, 1.0]),
        ([[math.nan, math.inf, 1.0, 1.0]], 2, [math.inf, math.inf, 1.0, 1.0]),
        ([[1.0, 0.0, 0.0, 0.0]], 0, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_place_is_where_growth_on_the_way_back_passes_the_limit(curves, start, grown):
    assert stability.growth(curves) == grown
    assert stability.steady_from([0, 10, 20, 30], curves) == (0, 10, 20, 30)[start]


def sidecar(*curves: list[float]) -> dict:
    """Of looks before steps 0, 30, 60 and 90 and after all, the last first."""
    return {"norm_steps": [100, 90, 60, 30, 0], "targets": [{"norms": curve[::-1]} for curve in curves]}


def test_the_sentence_names_the_steps_and_what_to_change():
    broken = stability.place(100, sidecar([40.0, 20.0, 1.5, 1.0, 1.0]), None)
    assert (broken.start, broken.window, broken.growth, broken.rate(0.05)) == (60, 60, 40.0, 0.017)
    assert broken.in_words() == (
        "Steps 1 to 60 of 100 are chaotic: what changes there grows × 40 at most on its way to the end. Let the "
        "weights count from step 61 on, or start at a third of the peak rate."
    )
    late = stability.place(100, sidecar([8.0, 4.0, 4.0, 4.0, 1.0]), None)
    assert (late.start, late.window) == (100, None) and "nearly all of the training: start at half" in late.in_words()
    steady = stability.place(100, sidecar([1.7, 1.0, 1.0, 1.0, 1.0]), None)
    assert steady.window is None and "steady from its first step on" in steady.in_words()
    calm, wild = (
        stability.place(100, {"norm_steps": [100, 80, 60], "targets": [{"norms": [1.0, 1.0, first]}]}, None)
        for first in (1.5, 9.0)
    )
    assert "steady from step 61, where weights begin to count, on" in calm.in_words() and calm.broken == 0
    assert "Steps 61 to 80 of 100 are chaotic" in wild.in_words() and (wild.window, wild.broken) == (80, 20)
    unknown = stability.place(100, {"targets": [{}]}, None)
    assert unknown.start is None and "replay again to see it" in unknown.in_words()


def test_curvature_beyond_the_limit_is_counted():
    report = {"steps": [0, 50, 99], "values": [1.0, 9.0, None], "limit": 3.8}
    place = stability.place(100, sidecar([3.0, 1.0, 1.0, 1.0, 1.0]), report)
    assert place.above == (50, 99) and place.ratio == pytest.approx(9 / 3.8) and place.part[0] == 3
    assert stability.place(100, None, {**report, "limit": None}).above == ()


# -- the job


@pytest.mark.slow
def test_the_job_measures_the_steps_of_the_very_training_and_the_command_prints_it(quick, capsys):
    assert main(["smoothness", quick.id, "--curvature", "3", "--outputs", str(quick.root)]) == 0
    (report,), damage = trust.sound(quick.manifest(), trust.CURVATURE)
    assert report["steps"] == [0, 4, 9] and not damage and report["limit"] == pytest.approx(3.8 / 2.8)
    assert all(value > 0 for value in report["values"])
    out = capsys.readouterr().out
    assert "training steps' work: about" in out and f"{report['values'][1]:.3f}" in out
    assert stability.of_run(quick.manifest()).in_words() in out
    with pytest.raises(ConfigError, match="from 1 to 1,000"):
        Curvature(0).check(quick, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_a_damaged_report_of_the_curvature_is_named(quick):
    with quick.lock():
        execute(quick, Curvature(2))
    path = quick.path / "validation" / "curvature.json"
    path.write_text(path.read_text().replace('"limit"', '"limits"'))
    reports, damage = trust.sound(runs.Run.open(quick.root, quick.id).manifest(), trust.CURVATURE)
    assert not reports and isinstance(damage[0], IntegrityError)


# -- the probe against the LDS


def test_the_table_of_the_grid_is_read_from_the_document():
    row = (
        "| 250 | 0.05 | 6 | 1.0 | batch | gelu | 0.5 | 0.005 | 0.3 | 2 | 0.841 | 1.5 | 0.99 | 0.991 (0.984 to 0.992) |"
    )
    head = "| batch | peak rate | epochs | width | norm | activation | logits × | weight decay | warm-up | seed "
    head += "| accuracy | growth | metasmoothness | LDS (95 % interval) |"
    (read,) = probe_against_lds.of_document(f"| a | b |\n|---|---|\n\n{head}\n|{'---|' * 14}\n{row}\n\n| c |")
    assert (read["lds"], read["batch_size"], read["scale"], read["seed"]) == (0.991, 250, 0.5, 2)
    config = probe_against_lds.configured(read)
    assert (config.recipe.weight_decay, config.model_options) == (0.005, "")  # the network's own factor on the logits
    assert probe_against_lds.configured({**read, "scale": 2.0}).model_options == "scale=2.0"
    smooth, chaotic = ({**read, "probe": p, "lds": p, "verdict": probe_against_lds.level(p)} for p in (0.95, 0.1))
    assert "Right: 2 of 2." in probe_against_lds.markdown([smooth, chaotic])
    assert "Right: 1 of 2." in probe_against_lds.markdown([smooth, {**chaotic, "lds": 0.7}])

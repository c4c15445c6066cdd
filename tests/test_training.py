"""Training against torch's own: optimizers, schedulers, BatchNorm; and models that are refused."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine
from engine.config import MODELS, Recipe
from engine.core.schedule import BatchPlan, learning_rate, plan_for, rates_were_others
from engine.core.state import Adjoint
from engine.core.step import step_back
from engine.core.training import optimizer_for
from engine.datasets import fashion_mnist
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError, DivergedError, ModelError
from engine.models.functional import FunctionalModel
from engine.trajectory.state_files import for_replay
from tests.helpers import RECIPE, images, net


@pytest.mark.parametrize(
    "changes",
    [
        dict(momentum=0.0, nesterov=False, weight_decay=0.0),
        dict(momentum=0.9, nesterov=False, weight_decay=5e-2),
        dict(momentum=0.9, nesterov=True, weight_decay=5e-2),
        dict(momentum=0.9, nesterov=True, weight_decay=5e-2, decay_norm_bias=True, schedule="cosine"),
        dict(schedule="constant"),
    ],
)
def test_training_equals_torch_optim_and_native_batch_norm(changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    inputs, labels = images()
    model = net()
    trained = engine.train(model, inputs, labels, recipe, device="cpu")

    decayed = [p for p in model.parameters() if p.dim() > 1 or recipe.decay_norm_bias]
    rest = [p for p in model.parameters() if p.dim() <= 1 and not recipe.decay_norm_bias]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest}],
        lr=1.0,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
    )
    plan = plan_for(recipe, len(labels))
    for t in range(len(plan)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, t, len(plan))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[plan[t]]), labels[plan[t]]).backward()
        optimizer.step()
    for name, value in trained.model_state.items():
        assert torch.allclose(value, model.state_dict()[name], rtol=1e-10, atol=1e-12), name
    model.load_state_dict(trained.model_state, strict=False)
    loss = F.cross_entropy(model.eval()(inputs), labels, reduction="none")
    assert np.allclose(engine.evaluate(trained, inputs, labels), loss.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize(
    "steps, warmup", [(12, 0.3), (96, 0.25), (50, 0.5), (6, 0.0), (5, 0.1), (1, 0.0), (1, 0.5), (3, 0.9), (40, 0.01)]
)
def test_one_cycle_is_torchs(steps, warmup):
    recipe = dataclasses.replace(RECIPE, schedule="one-cycle", warmup=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_lr, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )
    for t in range(steps):
        assert learning_rate(recipe, t, steps) == pytest.approx(torchs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        torchs.step()


def test_old_rates_are_known_to_be_others():
    """Runs that did not record their rates are not replayed with torch's, where these differ from theirs."""

    def old_rate(recipe: Recipe, t: int, steps: int) -> float:
        turn, last, peak = recipe.warmup * steps - 1, steps - 1, recipe.peak_lr
        if t <= turn and turn > 0:
            return learning_rate(recipe, t, steps)
        turn, end = max(turn, 0.0), peak / 25 / 1e4
        fraction = (t - turn) / (last - turn) if last > turn else 0.0
        return end + (peak - end) / 2 * (1 + np.cos(np.pi * fraction))

    for steps in (1, 2, 3, 4, 9, 40):
        for warmup in (0.0, 0.1, 0.25, 0.3, 0.5, 0.9):
            recipe = dataclasses.replace(RECIPE, schedule="one-cycle", warmup=warmup)
            same = all(old_rate(recipe, t, steps) == learning_rate(recipe, t, steps) for t in range(steps))
            assert rates_were_others(recipe, steps) == (not same), (steps, warmup)


def test_cosine_is_torchs_and_warm_up_is_linear():
    recipe = dataclasses.replace(RECIPE, schedule="cosine", warmup=0.0)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.peak_lr)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for t in range(20):
        assert learning_rate(recipe, t, 20) == pytest.approx(torchs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        torchs.step()
    recipe = dataclasses.replace(RECIPE, schedule="constant", warmup=0.4, peak_lr=1.0)
    assert [round(learning_rate(recipe, t, 10), 3) for t in range(10)] == [0.2, 0.4, 0.6, 0.8] + [1.0] * 6


def test_batch_plan_is_a_permutation_an_epoch_and_drops_the_last_batch():
    plan = BatchPlan(n=10, batch_size=4, epochs=3, seed=1)
    assert len(plan) == 6
    backwards = [plan[t].tolist() for t in reversed(range(6))][::-1]
    assert backwards == [plan[t].tolist() for t in range(6)]  # whatever is asked first
    for epoch in range(3):
        seen = backwards[2 * epoch] + backwards[2 * epoch + 1]
        assert len(set(seen)) == 8 and set(seen) <= set(range(10))
    assert backwards != [BatchPlan(10, 4, 3, seed=2)[t].tolist() for t in range(6)]
    with pytest.raises(IndexError):
        plan[6]


def test_retraining_with_all_weights_one_is_bitwise_the_training():
    inputs, labels = images()
    trained = engine.train(net(), inputs.float(), labels, RECIPE, device="cpu")
    again = engine.retrain(trained, torch.ones(len(labels)))
    assert all(torch.equal(a, b) for a, b in zip(trained.state.parts, again.parts, strict=True))


@pytest.mark.slow
def test_memory_and_disk_trajectories_give_bitwise_the_same_scores(tmp_path):
    inputs, labels = images()
    scores = []
    for folder in (None, tmp_path):
        trained = engine.train(net(), inputs.float(), labels, RECIPE, device="cpu", trajectory_folder=folder)
        scores.append(engine.attribute(trained, inputs[:3].float(), labels[:3]))
    assert np.abs(scores[0]).max() > 0 and np.array_equal(*scores)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 9
    state_bytes = 4 * (trained.model.parameters + trained.model.buffers)
    assert all(state_bytes < f.stat().st_size <= state_bytes + 512 for f in files)


# -- models that must not give wrong scores


class FunctionalNorm(nn.Module):
    """BatchNorm by the functional call: its statistics move out of autograd's sight."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 3), nn.Linear(48, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, x):
        x = F.batch_norm(self.conv(x), self.mean, self.var, training=self.training)
        return self.out(F.gelu(x).flatten(1))


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(36, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.out(torch.tanh(x) * torch.sigmoid(x.detach()))


class NoGradStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(36, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        x = self.first(x.flatten(1))
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return self.out(torch.tanh(x - self.mean))


class InPlaceStatistics(NoGradStatistics):
    """The same in autograd's sight: right, and therefore accepted."""

    def forward(self, x):
        x = self.first(x.flatten(1))
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
            return self.out(torch.tanh(x))
        return self.out(torch.tanh(x - self.mean))


@pytest.mark.parametrize(
    "model, said",
    [
        (FunctionalNorm(), "cannot be replayed|does not agree"),
        (Detached(), "does not agree with its derivative"),
        (NoGradStatistics(), "cannot be replayed|does not agree"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.RReLU(), nn.Linear(6, 3)), "random"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3)),
            "cumulatively",
        ),
        (
            nn.Sequential(
                nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)
            ),
            "track_running_stats",
        ),
        (
            nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(36, 3)),
            "InstanceNorm2d",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), "gives"),
        (nn.Flatten(), "no trainable parameter"),
    ],
)
def test_a_model_that_cannot_be_replayed_is_refused(model, said):
    inputs, labels = images()
    with pytest.raises(ModelError, match=said) as error:
        engine.train(model.double(), inputs, labels, RECIPE, device="cpu")
    assert error.value.remedy


@pytest.mark.parametrize(
    "model",
    [
        net(),
        InPlaceStatistics().double(),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)).double(),
        nn.Sequential(nn.Flatten(), nn.LayerNorm(36), nn.Linear(36, 3)).double(),
    ],
)
def test_a_model_that_can_be_replayed_is_accepted(model):
    inputs, labels = images()
    trained = engine.train(model, inputs, labels, RECIPE, device="cpu")
    assert np.abs(engine.attribute(trained, inputs[:1], labels[:1])).max() > 0


def test_the_users_model_is_not_changed_and_frozen_parameters_stay():
    model = net()
    model[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained = engine.train(model, *images(), RECIPE, device="cpu")
    assert isinstance(model[1], nn.BatchNorm2d)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "0.weight" not in trained.model_state


@pytest.mark.slow
def test_the_shipped_models_are_accepted_in_float32():
    for name in MODELS:
        if name.startswith("torchvision:"):  # eleven million parameters: see tests/test_models.py
            continue
        torch.manual_seed(0)
        inputs, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
        recipe = Recipe(epochs=1, batch_size=8)
        trained = engine.train(MODELS.get(name)(1, 28, 28, 10, factor=0.125), inputs, labels, recipe, device="cpu")
        assert np.abs(engine.attribute(trained, inputs[:2], labels[:2])).max() > 0, name


def test_a_diverging_rate_fails_at_its_step():
    recipe = dataclasses.replace(RECIPE, peak_lr=100.0, schedule="constant", warmup=0.0, epochs=40)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    inputs, labels = images()
    with pytest.raises(DivergedError, match=r"step \d+ of 120") as error:
        engine.train(model, inputs * 1e100, labels, recipe, device="cpu", check=False)
    assert error.value.step is not None and "learning rate" in error.value.remedy


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(labels=torch.zeros(26)), "int64"),
        (dict(labels=torch.full((26,), -1)), "negative"),
        (dict(inputs=torch.zeros(26, 1, 6, 6, dtype=torch.int64)), "must be floats"),
        (dict(weights=torch.ones(3)), "weights"),
        (dict(recipe=dataclasses.replace(RECIPE, batch_size=27)), "larger than the data set"),
        (dict(recipe=dataclasses.replace(RECIPE, peak_lr=-1.0)), "peak_lr"),
        (dict(device="cuda"), "GPU"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    if arguments.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    inputs, labels = images()
    given = {"inputs": inputs, "labels": labels, "recipe": RECIPE, "device": "cpu", **arguments}
    with pytest.raises(ConfigError, match=said):
        engine.train(net(), given.pop("inputs"), given.pop("labels"), given.pop("recipe"), **given)


@pytest.mark.parametrize(
    "arguments", [dict(function="accuracy"), dict(targets=[[3]]), dict(targets=[[]]), dict(targets=[])]
)
def test_wrong_targets_are_named(arguments):
    inputs, labels = images()
    trained = engine.train(net(), inputs, labels, RECIPE, device="cpu")
    with pytest.raises(ConfigError):
        engine.attribute(trained, inputs[:2], labels[:2], **arguments)


def test_the_embedded_data_set_is_what_it_says():
    sample = dataset_registry.load("fashion-mnist-sample")
    assert sample.train_images.shape == (6000, 28, 28, 1) and sample.test_images.shape == (1000, 28, 28, 1)
    assert np.bincount(sample.train_labels).tolist() == [600] * 10
    assert np.bincount(sample.test_labels).tolist() == [100] * 10
    assert fashion_mnist.SAMPLE.stat().st_size <= 5_000_000
    scaled = sample.train_images / 255
    assert np.allclose(sample.mean, scaled.mean((0, 1, 2))) and np.allclose(sample.std, scaled.std((0, 1, 2)))


def test_step_back_does_not_use_the_momentum():
    """What lets a trajectory leave it out."""
    inputs, labels = images()
    trained = engine.train(net(), inputs, labels, RECIPE, device="cpu")
    theta, momentum, buffers = (torch.randn(2, p.numel(), dtype=torch.float64) for p in trained.state.parts)
    end, optimizer = Adjoint(theta, (momentum,), buffers), optimizer_for(trained.model, RECIPE)
    results = [
        step_back(trained.model, optimizer, state, trained.stream.at(2), end)
        for state in (trained.state, for_replay(trained.state, optimizer))
    ]
    assert for_replay(trained.state, optimizer).opt[0].numel() == 0
    assert torch.equal(results[0][1], results[1][1]) and torch.equal(results[0][0].theta, results[1][0].theta)


def test_functional_model_agrees_with_the_module_in_both_modes():
    model, (inputs, _) = net(), images()
    functional = FunctionalModel(model, dtype=torch.float64)
    for training in (True, False):
        logits, buffers = functional(functional.theta0, functional.buffers0, inputs, training)
        expected = model.train(training)(inputs)
        assert torch.allclose(logits, expected, rtol=1e-12)
        after = torch.cat([b.reshape(-1) for b in model.buffers() if b.is_floating_point()])
        if training:
            assert torch.allclose(buffers, after, rtol=1e-12)
            model = net()

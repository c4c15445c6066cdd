"""The loss of an example: torch's; its sum is divided by the batch size, whatever the class weights are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import engine
from engine.core import loss as losses
from engine.core.step import step
from engine.core.stream import Examples, Stream
from engine.core.training import initial_state, optimizer_for
from engine.errors import ConfigError, ModelError
from engine.models.functional import FunctionalModel
from tests.helpers import RECIPE, images, net
from tests.mutants import mutant

LOSS, STEP = "engine/core/loss.py", "engine/core/step.py"
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.2},
    "weighted": {"class_weights": (0.5, 2.0, 1.0)},
    "both": {"class_weights": (0.5, 0.0, 1.5), "label_smoothing": 0.1},
    "balanced": {"class_weights": "balanced", "label_smoothing": 0.1},
}


def by_hand(recipe, logits, labels, all_labels) -> torch.Tensor:
    """The equation of the module, example by example."""
    c = torch.ones(logits.shape[1], dtype=torch.float64)
    if isinstance(recipe.class_weights, tuple):
        c = torch.tensor(recipe.class_weights, dtype=torch.float64)
    elif recipe.class_weights == "balanced":
        counts = {j: int((all_labels == j).sum()) for j in set(all_labels.tolist())}
        for j, count in counts.items():
            c[j] = len(all_labels) / (len(counts) * count)
    rows, s = [], recipe.label_smoothing
    for row, label in zip(logits, labels, strict=True):
        minus_log_p = row.exp().sum().log() - row
        rows.append((1 - s) * c[label] * minus_log_p[label] + s / len(c) * (c * minus_log_p).sum())
    return torch.stack(rows)


def error(name: str, module=losses) -> float:
    torch.manual_seed(4)
    recipe = replace(RECIPE, **OPTIONS[name])
    all_labels = torch.tensor([0, 0, 0, 0, 1, 2, 2, 0])
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1])
    ours = module.loss_for(recipe, all_labels, torch.float64)(logits, labels)
    return float((ours - by_hand(recipe, logits, labels, all_labels)).abs().max())


@pytest.mark.parametrize("name", OPTIONS)
def test_the_loss_is_its_equation(name):
    assert error(name) <= 1e-12


def test_plain_losses_are_bitwise_cross_entropy():
    logits, labels = torch.randn(64, 10), torch.randint(0, 10, (64,))
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert torch.equal(losses.loss_for(RECIPE, labels, torch.float32)(logits, labels), expected)


def test_balanced_weights_leave_the_scale_and_classes_without_examples():
    labels = torch.tensor([0, 0, 0, 3, 3, 1])  # none of class 2, and of classes 4 and 5 of the model
    weights = losses.loss_for(replace(RECIPE, class_weights="balanced"), labels, torch.float64).class_weights
    assert weights.tolist() == [6 / 9, 2.0, 1.0, 1.0] and float(weights[labels].mean()) == pytest.approx(1)
    logits = torch.randn(6, 6, dtype=torch.float64)
    loss = losses.ExampleLoss(0.1, weights)
    padded = F.cross_entropy(logits, labels, torch.cat([weights, torch.ones(2).double()]), reduction="none",
                             label_smoothing=0.1)  # fmt: skip
    assert torch.equal(loss(logits, labels), padded)


def step_error(step_function) -> float:
    """Of a step's loss, from one that divides by B; torch's mean divides by the sum of the class weights."""
    data, labels = images()
    recipe = replace(RECIPE, **OPTIONS["weighted"])
    model = FunctionalModel(net(), dtype=torch.float64)
    optimizer = optimizer_for(model, recipe)
    stream, weights = Stream(Examples(data, labels, torch.float64), recipe), torch.tensor(recipe.class_weights).double()
    state, inputs = initial_state(model, optimizer), stream.at(0)
    _, value = step_function(model, optimizer, state, inputs)
    logits, _ = model(state.theta, state.buffers, inputs.batch[0], training=True)
    rows = F.cross_entropy(logits, inputs.batch[1], weights, reduction="none")
    return abs(float(value) - float(rows.sum() / 8))


def test_a_step_divides_by_the_batch_size():
    assert step_error(step) <= 1e-12


@pytest.mark.slow
def test_a_score_is_of_an_examples_own_term():
    """Twice a class weight is twice the example weight of the examples of that class."""
    data, labels = images()
    heavy = replace(RECIPE, class_weights=(1.0, 2.0, 1.0))
    twice = torch.where(labels == 1, 2.0, 1.0).double()
    by_class = engine.train(net(), data, labels, heavy, device="cpu")
    by_example = engine.train(net(), data, labels, RECIPE, device="cpu", weights=twice)
    assert torch.allclose(by_class.state.theta, by_example.state.theta, rtol=1e-12, atol=1e-14)
    scores = engine.attribute(by_class, data[:2], labels[:2])
    assert np.allclose(scores, engine.attribute(by_example, data[:2], labels[:2]) * twice.numpy(), rtol=1e-5)


def test_left_out_examples_leave_the_class_weights():
    data, labels = images()
    trained = engine.train(net(), data, labels, replace(RECIPE, class_weights="balanced"), device="cpu")
    weights = torch.ones(len(labels))
    weights[:4] = 0
    other = trained.stream.weighted(weights)
    assert torch.equal(other.at(0).loss.class_weights, trained.stream.at(0).loss.class_weights)


@pytest.mark.parametrize("numbers", [(1.0, 2.0), (1.0, 2.0, 3.0, 4.0)])
def test_class_weights_of_another_number_of_classes_are_refused(numbers):
    with pytest.raises(ConfigError, match=f"has {len(numbers)} numbers, and the model 3 classes") as caught:
        engine.train(net(), *images(), replace(RECIPE, class_weights=numbers), device="cpu")
    assert "recipe.class_weights" in caught.value.problems


@pytest.mark.slow
def test_the_check_before_a_training_uses_the_recipes_loss(monkeypatch):
    """A loss that hides a part of itself from the gradient is seen there, though plain cross-entropy would pass."""
    exact = losses.ExampleLoss.__call__

    def hiding(self, logits, labels):
        return exact(self, logits, labels) + (self.smoothing * logits.detach() * logits).sum(1)

    monkeypatch.setattr(losses.ExampleLoss, "__call__", hiding)
    engine.train(net(), *images(), RECIPE, device="cpu")
    with pytest.raises(ModelError, match="derivative"):
        engine.train(net(), *images(), replace(RECIPE, label_smoothing=0.3), device="cpu")


MUTATIONS = {
    "no smoothing": ("label_smoothing=self.smoothing", "label_smoothing=0.0", "smoothed"),
    "no class weights": (
        "F.cross_entropy(logits, labels, weights,",
        "F.cross_entropy(logits, labels, None,",
        "weighted",
    ),
    "no smoothing where balanced": (
        "return ExampleLoss(recipe.label_smoothing, weights",
        "return ExampleLoss(0.0, weights",
        "both",
    ),
    "balanced by all classes that could be": ("(counts > 0).sum()", "(2 * len(counts))", "balanced"),
    "balanced the other way": (
        "len(labels) / ((counts > 0).sum() * counts.clamp(min=1))",
        "counts * (counts > 0).sum() / len(labels)",
        "balanced",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_term_is_seen(name, tmp_path):
    right, wrong, options = MUTATIONS[name]
    assert error(options, mutant(LOSS, right, wrong, tmp_path)) > 1e-3


def test_the_sum_of_the_class_weights_as_divisor_is_seen(tmp_path):
    right = "return (inputs.w_B * losses).sum() / inputs.w_B.shape[0], (losses, after)"
    wrong = "return (inputs.w_B * losses).sum() / inputs.loss.class_weights[labels].sum(), (losses, after)"
    assert step_error(mutant(STEP, right, wrong, tmp_path).step) > 1e-3

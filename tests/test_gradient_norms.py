"""How strongly an image answers to the model at the end of training: against autograd, and on the pages."""

import numpy as np
import pytest
import torch

from engine import api
from engine.analysis import target_view
from engine.analysis import test_images as test_lists
from engine.core import targets
from engine.core.stream import Examples
from engine.core.targets import function_of
from engine.errors import IntegrityError
from engine.jobs import execute as work
from engine.jobs.gradient_norms import GradientNorms
from engine.models.functional import FunctionalModel
from engine.runs import run as runs
from engine.runs.manifest import GRADIENT_NORMS
from tests.helpers import RECIPE, button, images, net, said, show, tiles

TEST_IMAGES = "pages/Test_images.py"


def do(run: runs.Run, job=None):
    with run.lock():
        return work.execute(run, job)


class Alone(torch.nn.Module):
    """Has no batching rule: it looks at values."""

    def forward(self, x):
        return x * (2.0 if x.sum().item() > 0 else 1.0)


# -- against autograd


@pytest.mark.parametrize("function", ["loss", "margin", "logit:1", "difference:2>0"])
def test_each_norm_is_that_of_autograd_on_that_image_alone(function, monkeypatch):
    inputs, labels = images(11)
    trained = api.train(net(), *images(), RECIPE, progress=False)
    monkeypatch.setattr(targets, "WIDEST", 4)  # chunks of 4, 4 and 3
    heard = []
    norms = targets.gradient_norms(
        trained.model, trained.state, Examples(inputs, labels, inputs.dtype), function, heard.append
    )
    assert heard == [0, 4, 8]
    np.testing.assert_allclose(norms, one_by_one(trained, inputs, labels, function), rtol=1e-12)
    assert norms.dtype == torch.float64 and norms.min() > 1e-6 and norms.max() > 1.1 * norms.min()


def one_by_one(trained: api.Trained, inputs, labels, function: str) -> list[float]:
    norms = []
    for i in range(len(labels)):
        theta = trained.state.theta.clone().requires_grad_()
        logits, _ = trained.model(theta, trained.state.buffers, inputs[i : i + 1], training=False)
        (gradient,) = torch.autograd.grad(function_of(function)(logits, labels[i : i + 1]).sum(), theta)
        norms.append(gradient.norm().item())
    return norms


def test_a_model_without_a_batching_rule_is_asked_one_by_one():
    torch.manual_seed(0)
    model = FunctionalModel(
        torch.nn.Sequential(Alone(), torch.nn.Flatten(), torch.nn.Linear(36, 3)), dtype=torch.float64
    )
    inputs, labels = images(5)
    state = targets.State(model.theta0, (), model.buffers0)
    norms = targets.gradient_norms(model, state, Examples(inputs, labels, inputs.dtype), "loss")
    scaled = torch.stack([x * (2.0 if x.sum() > 0 else 1.0) for x in inputs]).flatten(1)
    weight, bias = model.theta0[:108].view(3, 36), model.theta0[108:]
    wrong = torch.softmax(scaled @ weight.T + bias, 1) - torch.nn.functional.one_hot(labels, 3)
    np.testing.assert_allclose(norms, wrong.norm(dim=1) * (scaled.norm(dim=1) ** 2 + 1).sqrt(), rtol=1e-12)


# -- of a run


@pytest.mark.slow
def test_a_run_keeps_them_and_they_are_those_that_its_replays_began_with(quick):
    assert quick.manifest().gradient_norms() is None
    do(quick, GradientNorms())
    record = quick.manifest()
    norms = record.gradient_norms()
    assert norms is not None and norms.shape == (60,) and norms.dtype == np.float32
    assert record.jobs == () and record.timings["gradient_norm_seconds"] > 0
    for ref in record.score_sets.targets():  # by another way: the adjoints of the end, as the replay wrote them down
        recorded = target_view.gradient_norm(record, ref)
        assert recorded == pytest.approx(norms[ref.target.index], rel=1e-3) and recorded > 0
    path = quick.path / GRADIENT_NORMS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="test_gradient_norms"):
        quick.manifest().gradient_norms()


def test_the_orders_by_gradient_are_there_where_it_is_known():
    rng = np.random.default_rng(0)
    logits, labels, norms = rng.normal(size=(20, 3)), rng.integers(3, size=20), rng.random(20).astype(np.float32)
    largest, *_ = test_lists.test_images(logits, labels, test_lists.TestFilter(), "largest gradient", norms)
    smallest, *_ = test_lists.test_images(logits, labels, test_lists.TestFilter(), "smallest gradient", norms)
    assert largest.tolist() == np.argsort(-norms).tolist() == smallest[::-1].tolist()


@pytest.mark.slow
def test_the_page_measures_shows_and_sorts_them(quick):
    app = show(TEST_IMAGES, run=quick.id)
    assert not button(app, "Measure the gradient norms").disabled
    assert any("in about" in caption.value for caption in app.caption)
    assert "largest gradient" not in app.selectbox(key=f"order-{quick.id}").options
    do(quick, GradientNorms())
    norms = quick.manifest().gradient_norms()
    app = show(TEST_IMAGES, run=quick.id, order="largest gradient")
    assert not [b for b in app.button if b.label.startswith("Measure the gradient")]
    drawn = tiles(app, "tests")
    assert [tile["index"] for tile in drawn] == np.argsort(-norms, kind="stable")[: len(drawn)].tolist()
    assert any(line.startswith("gradient ") for line in drawn[0]["lines"])
    path = quick.path / GRADIENT_NORMS
    path.write_bytes(b"no array")
    app = show(TEST_IMAGES, run=quick.id, order="largest gradient")
    assert (
        "Measure the gradient norms again" in said(app)
        and tiles(app, "tests")
        and button(app, "Measure the gradient norms")
    )


@pytest.mark.slow
def test_the_picker_says_how_strongly_a_target_answers(quick):
    app = show("pages/Influence.py", run=quick.id, target="test:1.loss")
    assert any(caption.value.startswith("Gradient norm ") for caption in app.caption)
    assert any("of the 2 targets of this run" in caption.value for caption in app.caption)

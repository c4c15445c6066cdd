"""Penultimate features: against forward hooks and heads applied by hand, kept by a job, read without torch, deleted."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine import files
from engine.__main__ import main
from engine.analysis import features as kept
from engine.analysis import maps
from engine.core import features
from engine.core.state import State
from engine.core.stream import Examples
from engine.datasets import registry as dataset_registry
from engine.errors import CancelledError, ConfigError, IntegrityError, ModelError
from engine.jobs import execute as work
from engine.jobs import umap
from engine.jobs.features import Features, in_words
from engine.jobs.umap import Umap
from engine.models.functional import FunctionalModel
from engine.models.resnet9 import resnet9
from engine.models.small_cnn import small_cnn
from engine.models.vit_tiny import vit_tiny
from engine.runs.run import Run
from ui.run_choice import RunView

IMAGES = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def computed(module: nn.Module, images: torch.Tensor = IMAGES, dtype=torch.float32) -> torch.Tensor:
    model = FunctionalModel(module, dtype=dtype)
    state = State(model.theta0, (), model.buffers0)
    data = Examples(images.to(dtype), torch.zeros(len(images), dtype=torch.int64), dtype)
    return torch.cat(list(features.penultimate(model, state, data)))


def hooked(module: nn.Module, head: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    """What torch hands to `head`, in a forward pass of the module itself, which the engine has no part in."""
    seen = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    with torch.no_grad():
        module.eval()(images)
    handle.remove()
    module.train()
    return seen[-1]


def last_linear(module: nn.Module) -> nn.Module:
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1]


# -- against forward hooks


SHIPPED = {
    "small-cnn": lambda: small_cnn(1, 8, 8, 3, factor=0.25),
    "resnet9": lambda: resnet9(1, 16, 16, 3, factor=0.125),
    "vit-tiny": lambda: vit_tiny(1, 8, 8, 3, factor=0.25, depth=2, heads=2, patch=4, dropout=0.5),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_of_shipped_models_they_are_what_a_hook_sees_before_the_last_linear_layer(name):
    torch.manual_seed(0)
    module = SHIPPED[name]()
    with torch.no_grad():  # running statistics that differ from a batch's: evaluation mode must use them
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.copy_(0.1 * torch.rand_like(buffer) + 0.05)
    images = torch.randn(7, 1, 16, 16) if name == "resnet9" else IMAGES
    ours, theirs = computed(module, images), hooked(module, last_linear(module), images)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6) and ours.shape[1] > 3
    assert ours.std(0).max() > 1e-3, "images have different features"


class Own(nn.Module):
    """A person's: the last matrix belongs to the module itself, which has children, and an embedding beside it."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 64))
        self.matrix = nn.Parameter(torch.randn(12, 3))
        self.temperature = nn.Parameter(torch.ones(1))
        self.body = nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.GELU())

    def features(self, x):
        return self.body(x.flatten(1) + self.place)

    def forward(self, x):
        return (self.features(x) @ self.matrix) * self.temperature


class Cosine(nn.Module):
    """Weights that are computed from weights, in the pass."""

    def __init__(self):
        super().__init__()
        self.body, self.prototypes = nn.Linear(64, 12), nn.Parameter(torch.randn(3, 12))

    def features(self, x):
        return F.normalize(self.body(x.flatten(1)).tanh(), dim=1)

    def forward(self, x):
        return 10 * F.linear(self.features(x), F.normalize(self.prototypes, dim=1))


class Tokens(nn.Module):
    """A layer on each token, whose answers are averaged; attention before it multiplies activations with each other."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def tokens(self, x):
        x = x.squeeze(1)
        return x + self.attention(x, x, x, need_weights=False)[0]

    def features(self, x):
        return self.tokens(x).mean(1)

    def forward(self, x):
        return self.head(self.tokens(x)).mean(1)


class Convolutional(nn.Module):
    """Ends like SqueezeNet: a convolution to the classes, and then the mean over positions."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 3, 1)

    def features(self, x):
        return self.body(x).relu().mean((2, 3))

    def forward(self, x):
        return self.head(self.body(x).relu()).mean((2, 3))


@pytest.mark.parametrize("kind", [Own, Cosine, Tokens, Convolutional])
def test_of_peoples_own_models_they_are_the_input_of_the_last_product_with_weights(kind):
    torch.manual_seed(1)
    module = kind().double()
    with torch.no_grad():
        theirs = module.eval().features(IMAGES.double())
    ours = computed(module.train(), dtype=torch.float64)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12) and ours.std(0).max() > 1e-3


def test_weight_norm_and_a_frozen_head_change_nothing():
    torch.manual_seed(2)
    head = nn.utils.parametrizations.weight_norm(nn.Linear(12, 3))
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.5), head).double()
    assert torch.allclose(computed(module, dtype=torch.float64), hooked(module, head, IMAGES.double()), rtol=1e-12)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.GELU(), nn.Linear(12, 3)).double()
    plain[-1].requires_grad_(False)
    assert torch.equal(computed(plain, dtype=torch.float64), hooked(plain, plain[-1], IMAGES.double()))


class Reversed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.matrix = nn.Linear(64, 12), nn.Parameter(torch.randn(3, 12))

    def forward(self, x):
        return (self.matrix @ self.body(x.flatten(1)).T).T


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(64, 3))

    def forward(self, x):
        return (x.flatten(1)[:, :, None] * self.matrix).sum(1)


@pytest.mark.parametrize("kind", [Reversed, ByHand])
def test_a_model_without_such_a_layer_is_refused_and_not_guessed_at(kind):
    with pytest.raises(ModelError, match="has no last layer whose input could be its features") as error:
        computed(kind())
    assert "pixels" in error.value.remedy


def test_many_numbers_are_sketched_and_distances_stay(monkeypatch):
    rng = np.random.default_rng(0)
    many = torch.from_numpy(rng.normal(size=(12, 20_000)).astype(np.float32))
    few = features.sketched(many)
    assert few.shape == (12, features.SKETCH) and torch.equal(few, features.sketched(many))
    before, after = torch.cdist(many, many), torch.cdist(few, few)
    apart = ~torch.eye(12, dtype=torch.bool)
    assert ((after / before)[apart] - 1).abs().max() < 0.1 and before[apart].min() > 100
    monkeypatch.setattr(features, "MOST", 10)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert computed(module).shape == (7, 64) and features.reduced(computed(module)).shape == (7, features.SKETCH)
    assert in_words(64).endswith("64 numbers an image, in a sketch of 2,048") and in_words(10).endswith(
        "10 numbers an image"
    )


# -- of a run


def do(run: Run, job=None, cancel: threading.Event | None = None):
    with run.lock():
        return work.execute(run, job, cancel)


@pytest.mark.slow
def test_a_run_keeps_them_and_its_head_makes_the_recorded_logits_of_them(quick):
    assert kept.read(quick) is None and not kept.why_not(quick.manifest())
    do(quick, Features())
    record = quick.manifest()
    found = kept.read(record)
    assert found is not None and found.train.shape == (120, 32) and found.test.shape == (60, 32)
    assert found.train.dtype == found.test.dtype == np.float32 and "penultimate" in found.of
    for other in (quick, quick.path, str(quick.path), RunView.of(quick)):
        again = kept.read(other)
        assert again is not None and np.array_equal(again.train, found.train)
    from safetensors.numpy import load_file

    state = load_file(quick.path / "model" / "state.safetensors")["theta"]
    weight, bias = state[-99:-3].reshape(3, 32), state[-3:]
    for rows, logits in ((found.train, record.train_logits()), (found.test, record.test_logits())):
        np.testing.assert_allclose(0.5 * (rows @ weight.T + bias), logits, rtol=1e-4, atol=1e-5)
    assert record.jobs == () and record.timings["features_seconds"] > 0
    drawn = maps.whole(record, dataset_registry.load(record.config.dataset), "features", "pca")
    assert drawn is not None and drawn.train.shape == (120, 2) and drawn.explained is not None
    files_of_it = {name for name in record.files if name.startswith("features/")}
    assert quick.storage().clean(("features",)) > 4 * 180 * 32
    assert kept.read(quick) is None and files_of_it and not files_of_it & quick.manifest().files.keys()
    assert not list((quick.path / "features").iterdir()) and quick.scores().targets()


@pytest.mark.slow
def test_what_is_damaged_is_said_and_what_was_cancelled_leaves_nothing(quick):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        do(quick, Features(), cancel)
    assert kept.read(quick) is None and quick.manifest().jobs
    do(quick)  # the job that was left is gone on with
    path = quick.path / kept.TRAIN
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"train\.npy has changed"):
        kept.read(quick)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        kept.read(quick)


@pytest.mark.slow
def test_the_command_computes_and_reading_needs_no_torch(quick, capsys):
    assert main(["features", quick.id]) == 0
    assert "train (120, 32), test (60, 32), float32; penultimate features of the model" in capsys.readouterr().out
    code = (
        f"import sys; from engine.analysis import features; f = features.read({str(quick.path)!r}); "
        "assert f.train.shape == (120, 32) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    quick.update_manifest(trained=False)
    with pytest.raises(ConfigError, match="was not trained to its end"):
        do(quick, Features())


# -- of pixels, and blockwise files


def test_pixels_are_means_over_areas():
    dataset = dataset_registry.load("fashion-mnist-sample")
    found = kept.of_pixels(dataset, side=7)
    assert found.train.shape == (6000, 49) and found.test.shape[1] == 49 and "7 × 7" in found.of
    image = dataset.train_images[5, :, :, 0] / 255
    np.testing.assert_allclose(found.train[5].reshape(7, 7), image.reshape(7, 4, 7, 4).mean((1, 3)), atol=1e-6)
    np.testing.assert_allclose(kept.some_pixels(dataset, np.array([9, 5]), 7), found.train[[9, 5]], atol=1e-6)
    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 10, 2), np.uint8)  # 2 pixels a part, and 1 for 2 parts
    scaled = kept._scaled(colours, 5).reshape(3, 5, 5, 2)
    np.testing.assert_allclose(scaled, colours.reshape(3, 5, 5, 2, 2).mean(3) / 255, atol=1e-6)
    np.testing.assert_allclose(kept._scaled(colours, 10).reshape(3, 10, 10, 2)[:, 0], colours[:, 0] / 255, atol=1e-6)


def test_an_array_is_written_in_blocks_whole_or_not_at_all(tmp_path):
    rows = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    path = tmp_path / "rows.npy"
    sha = files.write_npy_rows(path, rows.shape, np.float32, (rows[i : i + 4] for i in range(0, 10, 4)))
    assert np.array_equal(np.load(path), rows) and np.array_equal(files.read_npy(path, sha, ""), rows)
    for blocks in ([rows[:4]], [rows, rows], [rows[:, :2]]):
        with pytest.raises(ValueError, match="rows were given|no part of"):
            files.write_npy_rows(path, rows.shape, np.float32, blocks)
    assert np.array_equal(np.load(path), rows) and [each.name for each in tmp_path.iterdir()] == ["rows.npy"]


# -- UMAP, an extra


@pytest.mark.slow
def test_umap_is_drawn_by_a_job_the_same_each_time_and_keeps_neighbours(quick):
    pytest.importorskip("umap", reason="umap-learn is an extra (pip install umap-learn)")
    do(quick, Features())
    dataset = dataset_registry.load(quick.manifest().config.dataset)
    assert maps.whole(quick.manifest(), dataset, "features", "umap") is None
    do(quick, Umap("features"))
    drawn = maps.whole(quick.manifest(), dataset, "features", "umap")
    assert drawn is not None and drawn.train.shape == (120, 2) and drawn.explained is None
    assert drawn.test is not None and drawn.test.shape == (60, 2) and drawn.method == "umap"
    do(quick, Umap("features"))
    again = maps.whole(quick.manifest(), dataset, "features", "umap")
    assert again is not None and np.array_equal(again.train, drawn.train)
    rows = kept.read(quick)
    assert rows is not None
    for i in range(0, 120, 10):  # the 15 nearest on the plane are among the nearest in all numbers, more than by chance
        near = [maps.nearest(each, each[i], 15, own=i)[0] for each in (drawn.train, rows.train)]
        assert len(np.intersect1d(*near)) >= 4, "15 of 119 share 2 by chance"
    do(quick, Features())  # the same features: the map stays
    assert maps.whole(quick.manifest(), dataset, "features", "umap") is not None


@pytest.mark.slow
def test_without_umap_the_job_says_how_to_get_it(quick, monkeypatch):
    monkeypatch.setattr(umap, "installed", lambda: False)
    dataset = dataset_registry.load(quick.manifest().config.dataset)
    with pytest.raises(ConfigError, match="is not installed here") as error:
        Umap("pixels").check(quick, dataset)
    assert "pip install umap-learn" in error.value.remedy
    with pytest.raises(ConfigError, match="no source «colour»"):
        Umap("colour").check(quick, dataset)

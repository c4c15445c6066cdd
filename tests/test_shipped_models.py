"""The networks of the presets: what their options make of them, each compared with torch's own operations."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import engine
from engine import config as configs
from engine.core import stream as streams
from engine.datasets import registry as dataset_registry
from engine.errors import ModelError
from engine.models.functional import FunctionalModel
from engine.models.resnet9 import resnet9
from engine.models.small_cnn import cosines, small_cnn, whitening
from tests.helpers import differences
from tools import grid


def made(builder, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return builder(1, 28, 28, 10, **options)


def test_without_options_they_draw_and_compute_what_they_always_did():
    """Written out as the first runs had them: other bits would be other trainings."""

    def layers(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, bias=False, padding=1), nn.BatchNorm2d(outputs), nn.GELU()]

    class Skip(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    torch.manual_seed(3)
    small = nn.Sequential(
        *(nn.Conv2d(1, 24, 6, bias=False, stride=4, padding=1), nn.BatchNorm2d(24), nn.GELU()),
        *layers(24, 32),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )
    torch.manual_seed(3)
    large = nn.Sequential(
        *layers(1, 8), *layers(8, 16), nn.AvgPool2d(2), Skip(*layers(16, 16), *layers(16, 16)),
        *layers(16, 32), nn.AvgPool2d(2), *layers(32, 64), nn.AvgPool2d(2), Skip(*layers(64, 64), *layers(64, 64)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    for module in large.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
    images = torch.randn(5, 1, 28, 28)
    for expected, scale, model in ((small, 0.5, made(small_cnn, 3)), (large, 0.125, made(resnet9, 3, factor=0.125))):
        ours = [p for p in model.parameters()]
        assert all(map(torch.equal, ours, expected.parameters())) and len(ours) == len(list(expected.parameters()))
        assert torch.allclose(model(images), scale * expected(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [3, 6])
def test_the_cosines_are_the_orthonormal_waves_of_a_mirrored_patch(n):
    """Eigenvectors of the second difference with mirrored ends, which defines the DCT-II, in order of frequency."""
    basis = cosines(n).double().reshape(n * n, n * n)
    assert torch.allclose(basis @ basis.T, torch.eye(n * n, dtype=torch.float64), atol=1e-6)
    second = 2 * torch.eye(n) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)
    second[0, 0] = second[-1, -1] = 1
    laplacian = torch.kron(second, torch.eye(n)) + torch.kron(torch.eye(n), second)
    values = [4 * math.sin(math.pi * u / 2 / n) ** 2 + 4 * math.sin(math.pi * v / 2 / n) ** 2
              for u in range(n) for v in range(n)]  # fmt: skip
    assert torch.allclose(basis @ laplacian.double(), torch.tensor(values)[:, None] * basis, atol=1e-5)


def test_whitening_makes_numbers_that_hardly_correlate_and_is_not_trained():
    dataset = dataset_registry.load("fashion-mnist-sample")
    images, _ = streams.examples(dataset, "train", torch.device("cpu"), torch.float32).batch(range(500))
    patches = F.unfold(images, 6, stride=4, padding=1).movedim(1, 2).reshape(-1, 36)
    stem = nn.Sequential(*whitening(1, 6, stride=4, padding=1))
    numbers = stem(images).movedim(1, -1).reshape(-1, 36)

    def correlation(rows_RC: torch.Tensor) -> float:
        return float((torch.corrcoef(rows_RC.T).abs().sum() - 36) / (36 * 35))

    assert torch.allclose(numbers.var(0), torch.ones(36), atol=0.01)
    assert correlation(patches) > 0.4 and correlation(numbers) < 0.1
    plain, whitened = (FunctionalModel(made(small_cnn, whiten=w)).theta0 for w in (False, True))
    assert len(whitened) == len(plain), "36 weights a channel, as before, and none for the whitening"


def test_pooling_before_the_norm_is_of_the_convolutions_output():
    model = made(resnet9, factor=0.125, pool="before")  # in training mode, whose statistics are of what is normalised
    parameters, images = list(model.parameters()), torch.randn(4, 1, 28, 28)

    def block(x: torch.Tensor, at: int, pool: bool = False) -> torch.Tensor:
        x = F.conv2d(x, parameters[at], padding=1)
        x = F.avg_pool2d(x, 2) if pool else x
        return F.gelu(F.batch_norm(x, None, None, training=True))

    x = block(block(images, 0), 3, pool=True)
    x = x + block(block(x, 6), 9)
    x = block(block(x, 12, pool=True), 15, pool=True)
    x = x + block(block(x, 18), 21)
    expected = 0.125 * F.linear(x.mean((2, 3)), *parameters[24:])
    assert torch.allclose(model(images), expected, atol=1e-5)
    assert not torch.allclose(made(resnet9, factor=0.125)(images), expected, atol=1e-3)


def test_identity_kernels_hand_channels_on():
    model = made(resnet9, factor=0.125, identity=True, gain=0.7)
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    first = next(made(resnet9, factor=0.125, gain=0.7).parameters())
    assert torch.equal(kernels[0], first), "of the images there are no channels to hand on"
    for kernel in kernels[1:]:
        x = torch.randn(2, kernel.shape[1], 6, 6)
        count = min(kernel.shape[:2])
        assert torch.allclose(F.conv2d(x, kernel, padding=1)[:, :count], 0.7 * x[:, :count], atol=1e-5)
        assert kernel[count:].numel() == 0 or kernel[count:].std() > 0, "channels beyond are drawn"


@pytest.mark.slow
def test_scores_are_exact_through_every_option():
    """Against differences of every weight, in float64."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(4, 1, 16, 16, generator=generator, dtype=torch.float64), torch.arange(4) % 3
    for builder, options in (
        (small_cnn, {"factor": 0.25, "whiten": True, "activation": "silu", "norm": "group"}),
        (resnet9, {"factor": 0.04, "whiten": True, "identity": True, "pool": "before", "gain": 0.7}),
    ):
        torch.manual_seed(0)
        model = builder(1, 16, 16, 3, **options).double()
        recipe = engine.Recipe(epochs=1, batch_size=2, peak_lr=0.02, groups=(("*.bias", 3, None),))
        trained = engine.train(model, inputs, labels, recipe, device="cpu")
        scores = engine.attribute(trained, inputs[:2] * 0.9, labels[:2])
        expected = differences(trained, 4, 1e-6, inputs[:2] * 0.9, labels[:2])
        assert np.abs(scores).max() > 1e-5
        assert np.linalg.norm(scores - expected) < 1e-4 * np.linalg.norm(expected)


def test_an_option_that_is_none_is_refused_with_those_that_are():
    for builder, options in (
        (small_cnn, {"norm": "layer"}),
        (resnet9, {"pool": "max"}),
        (resnet9, {"activation": "a"}),
    ):
        with pytest.raises(ModelError, match="Choose one of"):
            made(builder, **options)


# -- the grid


def test_the_grids_recipes_are_runs_and_its_base_is_the_preset():
    preset = configs.preset("sample")
    assert grid.config_of(grid.SAMPLE).training_digest("") == preset.training_digest("")
    measured = {"epochs": 14, "augment": "flip,crop:1", "gain": 0.8, "peak_lr": 0.06, "head": 2.0, "pool": "before"}
    window, preset = grid.config_of({**grid.RESNET9, **measured, "window": 0.8}), configs.preset("resnet9-window")
    assert (window.window, window.replay_precision) == (preset.window, preset.replay_precision)
    assert sorted(window.model_options.split(",")) == sorted(preset.model_options.split(","))
    assert window.replace(model_options=preset.model_options).training_digest("") == preset.training_digest("")
    measured = {"epochs": 20, "peak_lr": 0.0125, "weight_decay": 0.0015, "head": 2.0, "pool": "before"}
    whole, preset = grid.config_of({**grid.RESNET9, **measured}), configs.preset("resnet9")
    assert whole.training_digest("") == preset.training_digest("") and preset.window == 0
    row = {**grid.RESNET9, "scale": 0.25, "pool": "before", "bias": 4.0, "head": 2.0, "whiten": True, "window": 0.5}
    config = grid.config_of(row)
    assert config.model_options == "scale=0.25,whiten=true,pool=before" and config.window == 0.5
    assert config.recipe.groups == (("20.weight", 2.0, None), ("*.bias", 4.0, None))
    names = [name for name, _ in made(resnet9, whiten=True, factor=0.125).named_parameters()]
    assert (
        "20.weight" in names and isinstance(made(resnet9)[18], nn.Linear) and isinstance(made(small_cnn)[7], nn.Linear)
    )


def test_the_picture_of_the_frontier_is_that_of_its_file_whose_rows_are_runs(tmp_path):
    docs = Path(grid.__file__).parent.parent / "docs"
    rows = [json.loads(line) for line in (docs / "frontier-resnet9.jsonl").read_text().splitlines()]
    digests = {grid.config_of({name: row[name] for name in grid.RESNET9}).training_digest("") for row in rows}
    measured = [row for row in rows if "lds_0.01" in row]
    presets = [configs.preset(name).training_digest("") for name in ("resnet9", "resnet9-window")]
    ours = [grid.config_of({name: row[name] for name in grid.RESNET9}).training_digest("") for row in measured]
    assert ours == presets and len(digests) == 28 - 3, "of the windows of one recipe the training is one"
    grid.frontier(rows, tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").read_bytes() == (docs / "frontier-resnet9.svg").read_bytes()
    dots = (tmp_path / "drawn.svg").read_text().count("<title>")
    assert dots == sum(len(grid.drawn(row)) for row in rows) == 49


def test_a_search_goes_on_from_what_is_best_and_repeats_nothing():
    rows = [
        {**grid.SAMPLE, "peak_lr": 0.05, "accuracy": 0.85, "agreement": 0.99},
        {**grid.SAMPLE, "peak_lr": 9.0, "accuracy": 0.87, "agreement": 0.5},
        {**grid.SAMPLE, "peak_lr": 8.0, "accuracy": 0.9},
    ]
    best = grid.by_worth(rows, 0.98)
    assert [row["peak_lr"] for row in best] == [0.05, 9.0, 8.0], "accuracy that does not agree is worth less"
    rng = np.random.default_rng(0)
    varied = [
        grid.variation(grid.SAMPLE, ["peak_lr", "momentum", "epochs", "whiten", "augment"], rng) for _ in range(30)
    ]
    for settings in varied:
        grid.config_of(settings)
        assert 1 <= sum(settings[k] != grid.SAMPLE[k] for k in settings) + (settings == grid.SAMPLE) <= 2
    assert len({str(v) for v in varied}) > 10

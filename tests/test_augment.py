"""Augmentation: each transform against plain loops, a pure function of (seed, epoch, example), and exact scores.

The loops draw with Python's numbers from the keys, which tests/test_random.py compares with SplitMix64.
"""

import dataclasses
import functools
import math
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import engine
from engine import augmentation
from engine import config as configs
from engine.augmentation import KINDS, Kind, canonical, parse, problem_of
from engine.commands import _setting
from engine.config import Recipe, RunConfig
from engine.core import augment as transforms
from engine.core import stream as streams
from engine.core.augment import TRANSFORMS, Pixels, augment
from engine.core.check import check_model
from engine.core.random import AUGMENTATION, bits, example_keys, fold_in, uniform
from engine.core.stream import Examples, Stream, examples
from engine.core.training import advance, initial_state, optimizer_for
from engine.datasets import registry
from engine.errors import CancelledError, ConfigError, IntegrityError
from engine.jobs import preview, reopen
from engine.jobs.execute import execute
from engine.jobs.journal import Journal
from engine.jobs.replay import Replay
from engine.jobs.session import opened
from engine.models.functional import FunctionalModel
from engine.runs.run import Run
from tests.helpers import ROOT
from tests.made_up import SMALL
from tools.exactness import H, relative_error
from tools.hold import every_step_told

ALL = "flip,crop:2,cutout:3,rotate:15,jitter:0.3"
CHANNELS, SIDE, N, CLASSES = 3, 6, 20, 3
RECIPE = Recipe(
    epochs=3, batch_size=6, peak_lr=0.1, seed=3, augment=ALL
)  # 9 steps; two examples are left over an epoch


def images(n: int = N, shape: tuple[int, ...] = (CHANNELS, SIDE, SIDE), dtype=torch.float64) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def labels(n: int = N) -> Tensor:
    return torch.arange(n) % CLASSES


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(4 * SIDE * SIDE, CLASSES),
    ).double()


def stream(recipe: Recipe = RECIPE, weights: Tensor | None = None) -> Stream:
    return Stream(Examples(images(), labels(), torch.float64), recipe, weights)


def bytes_of_images(n: int = N) -> Examples:
    """As of a data set: bytes, channels last, standardised by channel."""
    rng = np.random.default_rng(5)
    mean, std = torch.tensor([0.3, 0.5, 0.6], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.1], dtype=torch.float64)
    pixels = torch.from_numpy(rng.integers(0, 256, (n, SIDE, SIDE, CHANNELS), dtype=np.uint8))
    return Examples(pixels, labels(n), torch.float64, mean, std)


# -- each transform against plain loops


def keys_of(keys_B: Tensor, position: int) -> Tensor:
    """What the transform at a position of the text draws from."""
    return fold_in(fold_in(keys_B, AUGMENTATION), position)


def integer(key: Tensor, draw: int, count: int) -> int:
    return ((int(bits(key, draw)) & 0xFFFFFFFFFFFFFFFF) >> 32) * count >> 32


def real(key: Tensor, draw: int, dtype: torch.dtype) -> float:
    """From −1 to 1."""
    return 2 * float(uniform(key, draw, dtype)) - 1


def looped_flip(image, key, amount, fill, limits):
    height, width = image.shape[1:]
    if int(bits(key, 0)) >= 0:
        return image
    out = torch.empty_like(image)
    for c in range(len(image)):
        for r in range(height):
            for x in range(width):
                out[c, r, x] = image[c, r, width - 1 - x]
    return out


def looped_crop(image, key, amount, fill, limits):
    """A window of the image with a border of `amount` pixels."""
    channels, height, width = image.shape
    wide = torch.empty(channels, height + 2 * amount, width + 2 * amount, dtype=image.dtype)
    for c in range(channels):
        wide[c] = fill[c]
        for r in range(height):
            for x in range(width):
                wide[c, r + amount, x + amount] = image[c, r, x]
    top, left = integer(key, 0, 2 * amount + 1), integer(key, 1, 2 * amount + 1)
    return wide[:, top : top + height, left : left + width]


def looped_cutout(image, key, amount, fill, limits):
    out, (channels, height, width) = image.clone(), image.shape
    top, left = integer(key, 0, height) - amount // 2, integer(key, 1, width) - amount // 2
    for r in range(top, top + amount):
        for x in range(left, left + amount):
            if 0 <= r < height and 0 <= x < width:
                for c in range(channels):
                    out[c, r, x] = fill[c]
    return out


def looped_rotate(image, key, amount, fill, limits):
    """Where each pixel comes from, and the four around it by their areas."""
    channels, height, width = image.shape
    angle = math.radians(amount * real(key, 0, image.dtype))
    out = torch.empty_like(image)
    for r in range(height):
        for x in range(width):
            across, down = x - (width - 1) / 2, r - (height - 1) / 2
            from_x = math.cos(angle) * across - math.sin(angle) * down + (width - 1) / 2
            from_y = math.sin(angle) * across + math.cos(angle) * down + (height - 1) / 2
            left, top = math.floor(from_x), math.floor(from_y)
            for c in range(channels):
                value = 0.0
                for yy in (top, top + 1):
                    for xx in (left, left + 1):
                        area = (1 - abs(from_x - xx)) * (1 - abs(from_y - yy))
                        here = 0 <= yy < height and 0 <= xx < width
                        value += area * float(image[c, yy, xx] if here else fill[c])
                out[c, r, x] = value
    return out


def clipped(value: float, limits) -> float:
    return value if limits is None else min(max(value, limits[0]), limits[1])


def grey(image, r: int, x: int) -> float:
    values = [float(image[c, r, x]) for c in range(len(image))]
    if len(values) == 3:
        return 0.2989 * values[0] + 0.587 * values[1] + 0.114 * values[2]
    return sum(values) / len(values)


def looped_colour(image, key, amount, fill, limits, towards):
    channels, height, width = image.shape
    factor, out = 1 + amount * real(key, 0, image.dtype), torch.empty_like(image)
    greys = [[grey(image, r, x) for x in range(width)] for r in range(height)]
    mean = sum(map(sum, greys)) / (height * width)
    for r in range(height):
        for x in range(width):
            other = {"nothing": 0.0, "mean": mean, "grey": greys[r][x]}[towards]
            for c in range(channels):
                out[c, r, x] = clipped(factor * float(image[c, r, x]) + (1 - factor) * other, limits)
    return out


def looped_jitter(image, key, amount, fill, limits):
    for position, towards in enumerate(("nothing", "mean", "grey") if len(image) == 3 else ("nothing", "mean")):
        image = looped_colour(image, fold_in(key, position), amount, fill, limits, towards)
    return image


LOOPED = {
    "flip": looped_flip,
    "crop": looped_crop,
    "cutout": looped_cutout,
    "rotate": looped_rotate,
    "brightness": functools.partial(looped_colour, towards="nothing"),
    "contrast": functools.partial(looped_colour, towards="mean"),
    "saturation": functools.partial(looped_colour, towards="grey"),
    "jitter": looped_jitter,
}


TEXTS = [
    "flip",
    "crop:2",
    "cutout:2",
    "cutout:3",
    "rotate:30",
    "rotate:180",
    "brightness:0.5",
    "contrast:0.5",
    "saturation:1,contrast:1",
    "jitter:0.4",
    "rotate:10,jitter:0.2,crop:1,flip,cutout:1",
]


def looped(batch: Tensor, keys_B: Tensor, text: str, pixels: Pixels) -> Tensor:
    out = []
    for image, key in zip(batch, keys_B, strict=True):
        for position, each in enumerate(parse(text)):
            key_of_it = keys_of(key, position)
            image = LOOPED[each.name](image, key_of_it, each.amount, pixels.fill, pixels.limits)
        out.append(image)
    return torch.stack(out)


@pytest.mark.parametrize(
    "shape, text", [(shape, text) for text in TEXTS for shape in ((3, 7, 5), (1, 4, 9), (2, 6, 6))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_each_transform_is_the_plain_loop(shape, text, dtype):
    if shape[0] != 3:
        text = text.replace("saturation:1,", "")  # of colours alone
    batch, keys_B = images(12, shape, dtype), example_keys(1, 2, torch.arange(12))
    fill = torch.linspace(0.2, 0.6, shape[0]).to(dtype)
    moves = not any(name in text for name in ("rotate", "jitter", "brightness", "contrast", "saturation"))
    for limits in ((0.0, 1.0), None):
        pixels = Pixels(fill, limits)
        ours, theirs = augment(batch, keys_B, parse(text), pixels), looped(batch, keys_B, text, pixels)
        assert ours.dtype == dtype and not torch.equal(ours, batch)
        if moves:
            assert torch.equal(ours, theirs)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13 if dtype == torch.float64 else 2e-6)
        assert limits is None or (float(ours.min()) >= -1e-6 and float(ours.max()) <= 1 + 1e-6)


def test_every_kind_has_a_transform_a_loop_and_words():
    assert list(KINDS) == list(TRANSFORMS) == list(LOOPED)
    for kind in KINDS.values():
        assert kind.sentence.endswith(".") and problem_of(kind.form) is None, kind
        assert (kind.amount is None) == (kind.name == "flip")


def test_a_fill_is_what_standardises_to_nothing():
    """The mean of the images in bytes; 0 of floats, which are standardised already."""
    data = bytes_of_images()
    plan = Recipe(epochs=2, batch_size=10, seed=1, augment="cutout:5")
    for source in (data, Examples(data.batch(range(N))[0], data.labels, torch.float64)):
        seen = Stream(source, plan).batch(torch.arange(N), 0)[0]
        covered = (seen != source.batch(range(N))[0]).any(1)
        assert 4 <= int(covered.flatten(1).sum(1).min()) and int(covered.flatten(1).sum(1).max()) <= 25
        assert float(seen.movedim(1, -1)[covered].abs().max()) == 0


def test_pixels_in_bytes_are_augmented_before_they_are_standardised():
    """From 0 to 1, clamped there, and then standardised; by the float's own values where they are floats."""
    data, recipe = bytes_of_images(), Recipe(seed=4, augment="brightness:1")
    seen = Stream(data, recipe).batch(torch.arange(N), 1)[0]
    pixels = (data.inputs.double() / 255).movedim(-1, 1)
    factors = torch.tensor(
        [1 + real(key, 0, torch.float64) for key in keys_of(example_keys(4, 1, torch.arange(N)), 0)],
        dtype=torch.float64,
    )
    bright = (pixels * factors[:, None, None, None]).clamp(0, 1)
    assert (bright == 1).any() and factors.min() < 0.5
    expected = (bright - data.mean[:, None, None]) / data.std[:, None, None]
    assert torch.allclose(seen, expected, rtol=1e-14, atol=1e-14)
    floats = Stream(Examples(pixels * 3 - 1, data.labels, torch.float64), recipe).batch(torch.arange(N), 1)[0]
    assert torch.allclose(floats, (pixels * 3 - 1) * factors[:, None, None, None], rtol=1e-14)


# -- a pure function of (seed, epoch, example)


GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
SHAPES = [(3, 6, 6), (1, 9, 7), (3, 33, 17)]  # also of odd sizes, whose rows lie differently in memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_an_image_is_augmented_alike_in_every_batch(device, shape, dtype):
    """Bit for bit: alone, among all, in another order, in every place."""
    n = 37
    seen = Stream(Examples(images(n, shape, dtype).to(device), labels(n).to(device), dtype), RECIPE)
    whole = seen.batch(torch.arange(n, device=device), 1)[0]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1)).to(device)
    assert torch.equal(seen.batch(order, 1)[0], whole[order])
    for size in (1, 2, 5, 16):
        for start in range(0, n - size, 3):
            few = order[start : start + size]
            assert torch.equal(seen.batch(few, 1)[0], whole[few])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("device", [GPU])
def test_a_gpu_augments_as_a_cpu_does(device, text):
    """Moves bit for bit; what is interpolated, to rounding."""
    batch, keys_B = images(12).float(), example_keys(1, 2, torch.arange(12))
    fill = torch.tensor([0.2, 0.4, 0.6])
    on_cpu = augment(batch, keys_B, parse(text), Pixels(fill, (0.0, 1.0)))
    on_gpu = augment(batch.to(device), keys_B.to(device), parse(text), Pixels(fill.to(device), (0.0, 1.0))).cpu()
    assert torch.equal(on_gpu, on_cpu) if "rotate" not in text else torch.allclose(on_gpu, on_cpu, atol=1e-5)


def test_nothing_is_drawn_from_torchs_generator():
    before = torch.get_rng_state()
    torch.manual_seed(1)
    first = stream().at(4).batch[0]
    torch.manual_seed(2)
    assert torch.equal(stream().at(4).batch[0], first)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(2)))
    torch.set_rng_state(before)


def violations(recipe: Recipe = RECIPE) -> set[str]:
    """Which of the properties of a pure function of (seed, epoch, example) the steps of a stream lack."""
    seen, lacking = stream(recipe), set()
    steps = [seen.at(t) for t in range(seen.steps)]
    by_key = {
        (t // 3, int(i)): image
        for t, inputs in enumerate(steps)
        for i, image in zip(inputs.index_B, inputs.batch[0], strict=True)
    }
    alike = Stream(Examples(images()[:1].expand(N, -1, -1, -1), labels(), torch.float64), recipe)
    same_image = alike.batch(torch.arange(N), 0)[0]
    if len({tuple(image.flatten().tolist()) for image in same_image}) < N:
        lacking.add("examples differ")
    if any(torch.equal(by_key[0, i], by_key[1, i]) for e, i in by_key if e == 0 and (1, i) in by_key):
        lacking.add("epochs differ")
    if any(torch.equal(alike.batch(torch.arange(N), e)[0], same_image) for e in (1, 2)):
        lacking.add("epochs differ")
    other = Stream(alike.data, dataclasses.replace(recipe, seed=recipe.seed + 1)).batch(torch.arange(N), 0)[0]
    if torch.equal(other, same_image):
        lacking.add("seeds differ")
    for (epoch, i), image in by_key.items():
        if not torch.equal(seen.batch(torch.tensor([i]), epoch)[0][0], image):
            lacking.add("alike in every batch")
    return lacking


def test_augmentation_is_a_function_of_seed_epoch_and_example():
    assert violations() == set()


@pytest.mark.parametrize(
    "mutation, lacking",
    [
        (lambda seed, epoch, index: example_keys(0, epoch, index), {"seeds differ"}),
        (lambda seed, epoch, index: example_keys(seed, 0, index), {"epochs differ"}),
        (lambda seed, epoch, index: example_keys(seed, epoch, torch.zeros_like(index)), {"examples differ"}),
        (lambda seed, epoch, index: example_keys(seed, epoch, torch.arange(len(index))), {"alike in every batch"}),
        (lambda seed, epoch, index: torch.randint(0, 2**62, index.shape), {"alike in every batch"}),
    ],
    ids=["seed ignored", "epoch ignored", "example ignored", "place in the batch", "torch's generator"],
)
def test_a_key_of_something_else_is_found(mutation, lacking, monkeypatch):
    monkeypatch.setattr(streams, "example_keys", mutation)
    assert lacking <= violations()


@pytest.mark.parametrize(
    "name, of_neighbours",
    [
        ("_row_sums", lambda values: values.sum(1) + values.mean()),
        ("_cos_sin", lambda a: (a.cos() + a.mean(), a.sin())),
    ],
)
def test_a_transform_that_looks_at_its_neighbours_is_found(name, of_neighbours, monkeypatch):
    monkeypatch.setattr(transforms, name, of_neighbours)
    assert "alike in every batch" in violations()


def test_parameters_are_even_and_independent():
    """Read off an image of marks: how often mirrored, where moved, where covered; over examples and epochs."""
    n, epochs, pad = 400, 10, 2
    keys_EN = torch.stack([example_keys(7, epoch, torch.arange(n)) for epoch in range(epochs)])
    moves = [
        transforms.whole(keys_of(keys_EN, position), draw, 2 * pad + 1) for position in range(2) for draw in range(2)
    ]
    for move in moves:
        counts = torch.bincount(move.flatten(), minlength=2 * pad + 1).double()
        expected = n * epochs / (2 * pad + 1)
        assert len(counts) == 2 * pad + 1 and float(((counts - expected) ** 2 / expected).sum()) < 25  # χ² of 4
    pairs = torch.bincount((moves[0] * 5 + moves[1]).flatten(), minlength=25).double()
    assert float(((pairs - n * epochs / 25) ** 2 / (n * epochs / 25)).sum()) < 60  # χ² of 24
    rows = torch.stack([move.flatten().double() for move in moves])
    off = torch.corrcoef(rows) - torch.eye(4)
    assert float(off.abs().max()) < 5 / (n * epochs) ** 0.5
    over_epochs = torch.corrcoef(moves[0].double()) - torch.eye(epochs)
    assert float(over_epochs.abs().max()) < 5 / n**0.5
    marks = torch.arange(6.0).expand(n, 1, 1, 6)
    pixels = Pixels(torch.zeros(1))
    mirrored = torch.stack([augment(marks, keys, parse("flip"), pixels)[:, 0, 0, 0] == 5 for keys in keys_EN])
    assert abs(float(mirrored.double().mean()) - 0.5) < 4 * 0.5 / (n * epochs) ** 0.5
    ones = torch.ones(n, 1, 5, 5)
    covered = torch.stack([augment(ones, keys, parse("cutout:1"), pixels)[:, 0] == 0 for keys in keys_EN])
    assert torch.equal(covered.flatten(2).sum(2), torch.ones(epochs, n, dtype=torch.int64))
    at = covered.double().mean((0, 1))
    assert float((at - 1 / 25).abs().max()) < 5 * (1 / 25 / (n * epochs)) ** 0.5
    bright = torch.cat([augment(ones, keys, parse("brightness:0.4"), pixels)[:, 0, 0, 0] for keys in keys_EN])
    assert 0.6 <= float(bright.min()) < 0.61 and 1.39 < float(bright.max()) <= 1.4
    assert abs(float(bright.double().mean()) - 1) < 4 * 0.8 / 12**0.5 / (n * epochs) ** 0.5


# -- exact in every mode, in retraining, and by finite differences


def trained(**kwargs):
    recipe = kwargs.pop("recipe", RECIPE)
    return engine.train(net(), images(), labels(), recipe, device="cpu", **kwargs)


TARGETS = images(4).flip(-1), labels(4)


@pytest.fixture(scope="module")
def expected_scores() -> np.ndarray:
    return engine.attribute(trained(), *TARGETS)


ALONE = [
    pytest.param(text, marks=pytest.mark.slow) for text in ("flip", "crop:2", "cutout:3", "rotate:15", "jitter:0.3")
]


@pytest.mark.slow
@pytest.mark.parametrize("text", [ALL, *ALONE])
def test_scores_equal_finite_differences(text):
    recipe = dataclasses.replace(RECIPE, augment=text)
    of = trained(recipe=recipe)
    scores, differences = engine.attribute(of, *TARGETS), np.empty((4, N))
    for i in range(N):
        ends = []
        for sign in (1, -1):
            weights = torch.ones(N, dtype=torch.float64)
            weights[i] += sign * H
            ends.append(engine.evaluate(of, *TARGETS, state=engine.retrain(of, weights)))
        differences[:, i] = (ends[0] - ends[1]) / (2 * H)
    assert np.abs(scores).max() > 1e-3 and relative_error(scores, differences) <= 1e-6
    plain = trained(recipe=dataclasses.replace(recipe, augment=""))
    assert relative_error(engine.attribute(plain, *TARGETS), scores) > 0.01


@pytest.mark.slow
def test_a_replay_of_other_pixels_is_found(expected_scores, monkeypatch):
    """Of the mutations that only a replay shows: what it sees is not what training saw."""
    of, calls = trained(), []

    def again(seed, epoch, index):
        calls.append(epoch)
        return example_keys(seed + 1, epoch, index)

    monkeypatch.setattr(streams, "example_keys", again)
    assert relative_error(engine.attribute(of, *TARGETS), expected_scores) > 1e-3
    assert calls[:3] == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["disk", "recompute", "recompute on disk"])
def test_every_mode_has_the_same_scores_bit_for_bit(mode, expected_scores, tmp_path):
    folder = {"trajectory_folder": tmp_path} if "disk" in mode else {}
    segment = {"segment": 2} if "recompute" in mode else {}
    of = trained(replay_mode=mode.split()[0], **folder, **segment)
    assert np.array_equal(engine.attribute(of, *TARGETS), expected_scores)
    assert np.array_equal(engine.attribute(of, *TARGETS), expected_scores)  # and again


@pytest.mark.slow
def test_retraining_repeats_a_training_and_leaves_the_others_as_they_are():
    of, rows = trained(), torch.ones(2, N, dtype=torch.float64)
    again = engine.retrain(of, rows[0])
    assert all(torch.equal(a, b) for a, b in zip(again.parts, of.state.parts, strict=True))
    rows[1, 5] = 0
    assert not torch.equal(engine.retrain(of, rows[1]).theta, of.state.theta)
    for t in range(of.stream.steps):
        full, without = of.stream.at(t), of.stream.weighted(rows).at(t)
        assert torch.equal(full.batch[0], without.batch[0]) and torch.equal(full.index_B, without.index_B)


def test_a_training_resumed_from_any_step_is_the_same():
    whole, states = stream(), {}
    model = FunctionalModel(net(), dtype=torch.float64)
    first = initial_state(model, optimizer_for(model, RECIPE))
    end = advance(model, whole, first, 0, whole.steps, lambda t, state: states.setdefault(t, state))
    for t, state in states.items():
        resumed = advance(model, stream(), state, t, whole.steps)
        assert all(torch.equal(a, b) for a, b in zip(resumed.parts, end.parts, strict=True))


def test_what_is_evaluated_and_explained_is_not_augmented():
    of = trained()
    plain = dataclasses.replace(of, stream=Stream(of.stream.data, dataclasses.replace(RECIPE, augment="")))
    assert np.array_equal(engine.evaluate(of, *TARGETS), engine.evaluate(plain, *TARGETS))
    assert torch.equal(of.stream.data.batch(range(N))[0], images())
    logits = of.model(of.state.theta, of.state.buffers, TARGETS[0], training=False)[0]
    losses = nn.functional.cross_entropy(logits, TARGETS[1], reduction="none")
    assert np.allclose(engine.evaluate(of, *TARGETS), losses.numpy(), rtol=1e-12)


def test_no_augmentation_is_the_bits_that_were_before():
    """And a change that does nothing is rounded as no change."""
    data = bytes_of_images()
    pixels = ((data.inputs.double() / 255 - data.mean) / data.std).movedim(-1, 1)
    assert torch.equal(Stream(data, Recipe()).batch(torch.arange(N), 0)[0], pixels)
    assert torch.equal(data.batch(range(N), lambda images, _: images)[0], pixels)


def test_the_check_sees_what_training_sees(monkeypatch):
    """Also the estimate, which asks the stream for its steps."""
    seen, epochs = [], []
    exact = streams.example_keys
    monkeypatch.setattr(streams, "example_keys", lambda s, e, i: epochs.append(e) or exact(s, e, i))
    monkeypatch.setattr("engine.core.check.check_passes", lambda model, inputs: seen.append(inputs))
    check_model(FunctionalModel(net(), dtype=torch.float64), stream())
    assert torch.equal(seen[0], stream().batch(torch.arange(8), 0)[0]) and 0 in epochs
    assert not torch.equal(seen[0], images()[:8])


def run_of(config: RunConfig, root, stop_at: int = 0) -> Run:
    """A run that is done; cancelled once, in its training, at step `stop_at`, and resumed."""
    run, cancel = Run.create(root, config), threading.Event()

    def stop(event: dict) -> None:
        if stop_at and event["kind"] == "progress" and event["step"] >= stop_at:
            cancel.set()

    with run.lock():
        if stop_at:
            with every_step_told(), pytest.raises(CancelledError):
                execute(run, cancel=cancel, on_event=stop)
            assert not run.manifest().trained and (run.path / "trajectory" / "resume-training.safetensors").exists()
        execute(run)
    return run


@pytest.mark.slow
def test_runs_on_disk_are_the_same_in_another_mode_and_after_a_resume(quick, root):
    changes = {"recipe.epochs": 3, "recipe.augment": "flip,crop:2,cutout:3,rotate:10,jitter:0.2"}
    config = quick.manifest().config.replace(targets=("test:0", "class:2"), **changes)
    run = run_of(config.replace(replay_mode="disk"), root)
    scores = run.scores().matrix("loss-000")
    assert run.manifest().config.recipe.augment == config.recipe.augment and np.abs(scores).max() > 0
    other = run_of(config.replace(replay_mode="recompute", segment=5), root, stop_at=8)
    assert np.array_equal(other.scores().matrix("loss-000"), scores)
    assert other.manifest().training_digest == run.manifest().training_digest
    with run.lock():
        execute(run, Replay(("class:2",), "loss", "disk"))
    # One target a pass instead of two is rounded otherwise.
    assert relative_error(run.scores().matrix("loss-001")[0], scores[1]) < 1e-5


@pytest.fixture(scope="module")
def augmented_run(tmp_path_factory) -> Run:
    changes = {"recipe.epochs": 3, "recipe.batch_size": 3000, "recipe.augment": "flip,rotate:10", "width": 0.25}
    return run_of(SMALL.replace(replay_mode="disk", targets=("test:0",), **changes), tmp_path_factory.mktemp("runs"))


def other_last_epoch(seed, epoch, index_B):
    """The first steps, which are run again before a replay, see what they saw."""
    return example_keys(seed + (epoch == 2), epoch, index_B)


def turned_the_other_way(images, keys_B, amount, pixels):
    return transforms.rotate(images, keys_B, -amount, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("what", ["keys of the last epoch", "rotation", "rounding", "nothing"])
def test_an_augmentation_that_computes_something_else_is_noticed_before_a_replay(
    what, elsewhere, augmented_run, monkeypatch
):
    """On other hardware, too, where a difference by rounding is allowed."""
    run, means = augmented_run, augmented_run.manifest().pixel_means
    assert len(means) == 3 and len(set(means)) == 3
    if what == "keys of the last epoch":
        monkeypatch.setattr(streams, "example_keys", other_last_epoch)
    if what == "rotation":
        monkeypatch.setitem(TRANSFORMS, "rotate", turned_the_other_way)
    written = {"pixel_means": [mean + 1e-9 for mean in means] if what == "rounding" else list(means)}
    versions = run.manifest().versions
    if elsewhere:
        written["versions"] = {**versions, "torch": "1.0"}
    cancel = threading.Event()
    with run.lock():
        run.update_manifest(**written)
        with opened(run, Journal(run, cancel), cancel) as session:
            if what == "nothing" or (what == "rounding" and elsewhere):
                reopen.check_start(session, None)
            else:
                with pytest.raises(IntegrityError, match="augmented images of run .* not what it was"):
                    reopen.check_start(session, None)
        run.update_manifest(pixel_means=list(means), versions=dict(versions))


@pytest.mark.slow
def test_a_replay_looks_at_the_augmentation_and_older_runs_recorded_nothing(augmented_run, monkeypatch):
    run, means = augmented_run, augmented_run.manifest().pixel_means
    monkeypatch.setattr(streams, "example_keys", other_last_epoch)
    with run.lock():
        with pytest.raises(IntegrityError, match="augmented images"):
            execute(run, Replay(("test:1",), "loss", "disk"))
        run.update_manifest(pixel_means=None)
        execute(run, Replay(("test:1",), "loss", "disk"))
        run.update_manifest(pixel_means=list(means))


@pytest.mark.parametrize("text", ["", "crop:2"])
def test_a_frozen_trunks_features_are_computed_once_only_without_augmentation(text, root):
    """They are of [C, H, W], too: augmenting them would say nothing."""
    config = SMALL.replace(frozen="0,1", frozen_eval=True, **{"recipe.augment": text})
    run, cancel = Run.create(root, config), threading.Event()
    with run.lock(), opened(run, Journal(run, cancel), cancel) as session:
        assert (session.trunk is None) == bool(text)
        assert text == "" or session.stream.data.shape == (1, 28, 28)


def test_the_preview_is_what_training_sees():
    dataset = registry.load("fashion-mnist-sample")
    recipe = dataclasses.replace(SMALL.recipe, augment="flip,crop:4,rotate:20", seed=3)
    seen = Stream(examples(dataset, "train", torch.device("cpu"), torch.float32), recipe)
    index = torch.as_tensor(seen.plan[0][:5])
    shown = preview.augmented(dataset, recipe, index.tolist(), 0)
    pixels = seen.at(0).batch[0][:5].double().movedim(1, -1).numpy() * dataset.std + dataset.mean
    assert shown.dtype == np.uint8 and shown.shape == (5, 28, 28, 1)
    assert np.abs(pixels * 255 - shown).max() <= 0.51 and (shown != dataset.train_images[index]).any()
    unchanged = preview.augmented(dataset, dataclasses.replace(recipe, augment=""), [4, 2], 1)
    assert np.array_equal(unchanged, dataset.train_images[[4, 2]])


# -- the text and its errors


@pytest.mark.parametrize(
    "text, one",
    [
        ("", ""),
        ("none", ""),
        ("flip", "flip"),
        (" crop:4 , flip ", "crop:4,flip"),
        ("rotate:10.0,jitter:0.20,cutout:008", "rotate:10,jitter:0.2,cutout:8"),
        ("crop:4.0", "crop:4"),
    ],
)
def test_a_text_is_read_once_and_has_one_form(text, one):
    assert problem_of(text) is None and canonical(text) == one and Recipe(augment=text).augment == one
    assert ",".join(map(str, parse(text))) == one and parse(one) == parse(text)
    assert configs.from_dict(RunConfig(recipe=Recipe(augment=text)).to_dict()).recipe.augment == one
    assert _setting(f"recipe.augment={text}")[0] == "recipe.augment"
    digests = {RunConfig(recipe=Recipe(augment=each)).training_digest("x") for each in (text, one)}
    assert len(digests) == 1
    assert (digests == {RunConfig().training_digest("x")}) == (one == "")


@pytest.mark.parametrize(
    "text, words",
    [
        ("blur", "'blur', which is no augmentation; choose from flip, crop"),
        ("Flip", "no augmentation"),
        ("flip,", "'', which is no augmentation"),
        ("flip,none", "'none'"),
        ("flip,flip", "flip twice"),
        ("flip:1", "flip has no amount; write flip"),
        ("crop", "a whole number behind crop, from 1 to 512 pixels, such as crop:4"),
        ("crop:1.5", "a whole number behind crop"),
        ("crop:0", "from 1 to 512 pixels, not 0"),
        ("crop:-1", "a whole number behind crop"),
        ("cutout:513", "from 1 to 512 pixels, not 513"),
        ("rotate:nan", "a number behind rotate, from 0.1 to 180 degrees"),
        ("rotate:1e1", "a number behind rotate"),
        ("rotate:٣", "a number behind rotate"),
        ("rotate:181", "from 0.1 to 180 degrees, not 181"),
        ("jitter:0", "from 0.001 to 1"),
        ("jitter:0.1:0.2", "a number behind jitter"),
        ("flip" * 60, "200 characters at most, not 240"),
        (5, "must be a text"),
        (None, "must be a text"),
        (["flip"], "must be a text"),
    ],
)
def test_a_text_that_cannot_be_read_is_named_with_the_remedy(text, words):
    assert words in str(problem_of(text)) and canonical(text) == text
    assert words in configs.problems(RunConfig(recipe=Recipe(augment=text)))["recipe.augment"]
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert error.value.problems["recipe.augment"] and augmentation.EXAMPLE in error.value.remedy
    with pytest.raises(ConfigError, match="recipe.augment"):
        engine.train(net(), images(), labels(), Recipe(batch_size=6, augment=text), device="cpu")


@pytest.mark.parametrize(
    "shape, text, words",
    [
        ((10,), "flip", r"images \[channels, height, width\], and an example here has the shape \[10\]"),
        ((6, 6), "flip", "is for images"),
        ((), "flip", "is for images"),
        ((1, 2, 6, 6), "crop:1", "is for images"),
        ((1, 6, 6), "saturation:0.1", "«saturation:0.1», which needs images of three channels, .*, not of 1"),
        (
            (3, 6, 9),
            "crop:6",
            "«crop:6», which leaves nothing of some images of 6 × 9 pixels; take fewer pixels than 6",
        ),
        ((3, 9, 6), "flip,cutout:6", "«cutout:6», which leaves nothing"),
    ],
    ids=str,
)
def test_what_cannot_be_augmented_is_refused_before_anything_is_written(shape, text, words, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    inputs, recipe = torch.rand(8, *shape), Recipe(epochs=1, batch_size=4, augment=text)
    if not shape:
        model = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 2))
    with torch.no_grad():
        model(inputs)
    with pytest.raises(ConfigError, match=words) as error:
        engine.train(model, inputs, torch.arange(8) % 2, recipe, device="cpu", trajectory_folder=tmp_path)
    assert "recipe.augment" in error.value.problems and not list(tmp_path.iterdir())
    if len(shape) == 3:
        config = RunConfig(recipe=dataclasses.replace(recipe, epochs=1))
        assert words.split(",")[0] in configs.problems(config, 100, 10, 2, (*shape[1:], shape[0]))["recipe.augment"]
    engine.train(model, inputs, torch.arange(8) % 2, dataclasses.replace(recipe, augment=""), device="cpu")


@pytest.fixture
def own_tables(monkeypatch):
    """Tables that may grow, and are as before afterwards."""
    monkeypatch.setattr(augmentation, "KINDS", dict(KINDS))
    monkeypatch.setattr(transforms, "TRANSFORMS", dict(TRANSFORMS))


def test_the_guides_example_works_as_it_stands(own_tables):
    guide = (ROOT / "docs" / "augmentation.md").read_text()
    code = guide.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/augmentation.md", "exec"), {})
    seen = stream(Recipe(seed=3, augment="darken:0.5,flip")).batch(torch.arange(N), 0)[0]
    share = seen.flatten(1).sum(1) / images().flatten(1).sum(1)
    assert 0.5 <= float(share.min()) < 0.6 and 0.9 < float(share.max()) <= 1
    assert problem_of("darken:2") == "must have an amount of darken from 0.01 to 1 (at most so much), not 2"


def test_a_kind_of_ones_own_is_two_calls_in_one_file(own_tables):
    kind = augmentation.register(Kind("upside-down", "Turns an image over."))
    assert augmentation.register(kind) is kind and problem_of("upside-down,flip") is None
    recipe = Recipe(seed=3, batch_size=6, augment="upside-down")
    with pytest.raises(ConfigError, match="has a row and no transform"):
        stream(recipe).at(0)
    transforms.register("upside-down", lambda images, keys_B, amount, pixels: images.flip(-2))
    assert torch.equal(stream(recipe).batch(torch.arange(N), 0)[0], images().flip(-2))
    with pytest.raises(ConfigError, match="two augmentations"):
        augmentation.register(Kind("flip", "Another."))
    with pytest.raises(ConfigError, match="two augmentations"):
        transforms.register("flip", transforms.crop)
    with pytest.raises(ConfigError, match="no name"):
        augmentation.register(Kind("Up:1", "Not so."))
    augmentation.register(Kind("wider", "Adds a column."))
    transforms.register("wider", lambda images, keys_B, amount, pixels: nn.functional.pad(images, (0, 1)))
    with pytest.raises(ConfigError, match="must keep the shape"):
        stream(dataclasses.replace(recipe, augment="wider")).at(0)

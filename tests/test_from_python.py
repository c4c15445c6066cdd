"""Training from Python: arguments and inputs as people give them, progress, and runs saved for the app."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

import engine
from engine import Recipe
from engine.errors import ConfigError
from tests.helpers import ROOT

N = 40
RECIPE = Recipe(epochs=2, batch_size=10, peak_lr=0.05, seed=1)  # 8 steps


def net(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(4 * 64, 3))


def pictures(n: int = N, seed: int = 0) -> np.ndarray:
    """uint8 [n, 10, 10, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (n, 10, 10, 3), np.uint8)


def classes_of(n: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 7).integers(0, 3, n)


def as_floats(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).movedim(-1, 1).contiguous().float() / 255


def trained_on(inputs, labels=None, model=None, recipe=RECIPE, **options) -> engine.Trained:
    return engine.train(model or net(), inputs, labels, recipe, device="cpu", check=False, **options)


@pytest.fixture(scope="module")
def reference() -> tuple[engine.Trained, np.ndarray]:
    """Trained on float tensors, and its scores."""
    trained = trained_on(as_floats(pictures()), torch.from_numpy(classes_of()))
    scores = engine.attribute(trained, as_floats(pictures(3, 1)), torch.from_numpy(classes_of(3, 1)))
    assert np.abs(scores).max() > 1e-3
    return trained, scores


class Pairs(Dataset):
    """A data set of pictures, each changed by `change` when it is read."""

    def __init__(self, images, labels, change=lambda image: image):
        self.images, self.labels, self.change = images, labels, change

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.change(self.images[i]), self.labels[i]


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(3, 10, 10), 0


def pillow(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """What torchvision's ToTensor does."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous().float().div(255)


# -- inputs


KINDS = {
    "floats, array": lambda x, y: (as_floats(x).numpy(), y),
    "bytes, channels last": lambda x, y: (x, y.tolist()),
    "bytes, channels first": lambda x, y: (np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y.astype(np.int32)),
    "bytes, a tensor": lambda x, y: (torch.from_numpy(x), torch.from_numpy(y).int()),
    "bytes that nobody may write": lambda x, y: (np.frombuffer(x.tobytes(), np.uint8).reshape(x.shape), y),
    "Pillow's images": lambda x, y: (pillow(x), list(y)),
    "a list of arrays": lambda x, y: (list(x), y),
    "a list of tensors": lambda x, y: (list(as_floats(x)), y),
    "TensorDataset": lambda x, y: (TensorDataset(as_floats(x), torch.from_numpy(y)), None),
    "TensorDataset of bytes": lambda x, y: (TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), None),
    "a data set with ToTensor": lambda x, y: (Pairs(x, y, to_tensor), None),
    "a data set of Pillow's images": lambda x, y: (Pairs(pillow(x), y.tolist()), None),
    "Subset": lambda x, y: (Subset(Pairs(x[::-1], y[::-1], to_tensor), range(len(y))[::-1]), None),
    "DataLoader": lambda x, y: (DataLoader(Pairs(x, y, to_tensor), batch_size=7), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_each_kind_give_the_bits_of_the_floats_that_they_become(kind, reference):
    expected, scores = reference
    trained = trained_on(*KINDS[kind](pictures(), classes_of()))
    assert torch.equal(trained.state.theta, expected.state.theta)
    test = KINDS[kind](pictures(3, 1), classes_of(3, 1))
    assert np.array_equal(engine.attribute(trained, *test), scores)
    assert np.array_equal(engine.evaluate(trained, *test), engine.evaluate(expected, *test))


def test_a_folder_of_torchvision_gives_the_bits_of_its_pictures(reference, tmp_path):
    from engine.datasets.torchvision_sets import import_torchvision

    folder = import_torchvision().datasets.ImageFolder
    order = np.argsort(classes_of(), kind="stable")
    for i in order:
        place = tmp_path / f"class-{classes_of()[i]}" / f"{i:03}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(pictures()[i]).save(place)
    expected = trained_on(as_floats(pictures()[order]), classes_of()[order])
    assert torch.equal(trained_on(folder(tmp_path)).state.theta, expected.state.theta)


def test_grey_pictures_get_a_channel_and_bytes_follow_the_precision_of_the_training():
    grey, labels = pictures()[..., 0], classes_of()
    expected = trained_on(torch.from_numpy(grey)[:, None].float() / 255, labels, net(1))
    for inputs in (grey, [Image.fromarray(image) for image in grey]):
        assert torch.equal(trained_on(inputs, labels, net(1)).state.theta, expected.state.theta)
    exact = trained_on(torch.from_numpy(grey)[:, None].double() / 255, labels, net(1))
    values = [engine.evaluate(exact, x, labels) for x in (grey, torch.from_numpy(grey)[:, None].double() / 255)]
    assert np.array_equal(*values)


def test_a_loader_that_shuffles_is_read_in_the_order_of_its_data_set_and_says_so(reference):
    expected, _ = reference
    loader = DataLoader(Pairs(pictures(), classes_of(), to_tensor), batch_size=8, shuffle=True, drop_last=True)
    with pytest.warns(UserWarning, match="The loader shuffles"):
        trained = trained_on(loader)
    assert torch.equal(trained.state.theta, expected.state.theta)


def flips(image: np.ndarray) -> torch.Tensor:
    return to_tensor(image[:, ::-1].copy() if torch.rand(()) < 0.5 else image)


def mixed(batch):
    return torch.utils.data.default_collate(batch)


x, y = pictures(), classes_of()
REFUSED = {
    "random transforms": ((Pairs(x, y, flips), None), 'Recipe(augment="flip,crop:4")'),
    "random transforms of few": ((Pairs(x[:2], y[:2], flips), None), "is another one when it is read again"),
    "sides of three": ((np.zeros((4, 3, 10, 3), np.uint8), y[:4]), "channels first or last"),
    "no channels": ((np.zeros((4, 5, 10, 10), np.uint8), y[:4]), "is no picture"),
    "rows of bytes": ((np.zeros((4, 10), np.uint8), y[:4]), "is no picture"),
    "whole numbers": ((np.zeros((4, 10), np.int64), y[:4]), "array [4, 10] of int64"),
    "half floats": ((np.zeros((4, 10), np.float16), y[:4]), "of float16"),
    "two sizes": (
        ([*pillow(x[:3]), Image.new("RGB", (9, 10))], y[:4]),
        "Input 3 is [10, 9, 3] of uint8, and the first",
    ),
    "palettes": (([Image.new("P", (10, 10))], [0]), "image.convert"),
    "paths": ((["a.png"], [0]), "Open the files"),
    "names for labels": ((x, ["cat"] * N), "numpy.unique"),
    "one-hot labels": ((x, np.eye(3)[y]), "labels.argmax(1)"),
    "labels that are no whole numbers": ((x, y + 0.5), "must be whole numbers [40]"),
    "no labels": ((x, None), "`labels` is missing"),
    "labels twice": ((Pairs(x, y), y), "Leave `labels` out"),
    "a recipe for labels": ((Pairs(x, y), RECIPE), "Write recipe=Recipe("),
    "no order": ((Endless(), None), "IterableDataset"),
    "three things": ((TensorDataset(*[torch.zeros(3)] * 3), None), "has 3 tensors"),
    "no pair": ((Pairs(x, y).images.tolist(), y), "numpy.asarray"),
    "a dict": ((Pairs([0] * 3, y[:3], lambda i: {"image": i}), None), "Input 0 is a dict"),
    "a sampler": (
        (DataLoader(Pairs(x, y), sampler=WeightedRandomSampler([1.0] * N, N)), None),
        "WeightedRandomSampler",
    ),
    "a collate_fn": ((DataLoader(Pairs(x, y), collate_fn=mixed), None), "collate_fn of its own"),
    "nothing": ((Pairs(x[:0], y[:0]), None), "no example"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_with_how_to_say_which(kind):
    (inputs, labels), said = REFUSED[kind]
    with pytest.raises(ConfigError) as error:
        trained_on(inputs, labels)
    assert said in str(error.value) and error.value.remedy


def test_weights_may_be_an_array_or_a_list(reference):
    expected, _ = reference
    weights = np.ones(N)
    weights[3] = 0
    states = [engine.retrain(expected, w) for w in (torch.from_numpy(weights), weights, weights.tolist())]
    assert not torch.equal(states[0].theta, expected.state.theta)
    assert all(torch.equal(state.theta, states[0].theta) for state in states)


@pytest.mark.slow
def test_no_further_copy_of_the_pictures_is_held():
    """In a process of its own: what training on a memory map of bytes adds, beside the floats that it is made of."""
    code = """
import os, resource, tempfile
import numpy as np, torch
import engine
from torch import nn
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
n = 3000
path = os.path.join(tempfile.mkdtemp(), "x.npy")
x = np.lib.format.open_memmap(path, "w+", np.uint8, (n, 64, 64, 3)); del x
x = np.load(path, mmap_mode="r")
model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 2))
recipe = engine.Recipe(epochs=1, batch_size=30)
engine.train(model, np.array(x[:60]), np.arange(60) % 2, recipe, check=False)
before = peak()
trained = engine.train(model, x, np.arange(n) % 2, recipe, check=False)
print((peak() - before) / (4 * x.size))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The floats, the bytes of the map that were read (a quarter), and what the check for finite numbers takes of them.
    assert 1.0 <= float(done.stdout) < 2.0, done.stdout


# -- arguments


@pytest.mark.parametrize(
    "name, said",
    [
        ("optimiser", "did you mean optimizer?"),
        ("epoch", "did you mean epochs?"),
        ("lr", "peak_lr"),
        ("transform", "augment="),
        ("zzz", "It has epochs, batch_size"),
    ],
)
def test_a_recipe_names_what_was_meant(name, said):
    with pytest.raises(ConfigError) as error:
        Recipe(**{name: 1})
    assert f"Recipe has no argument `{name}`." == error.value.what and said in error.value.remedy


@pytest.mark.parametrize(
    "name, said",
    [
        ("weight", "did you mean weights?"),
        ("transform", "Recipe(augment="),
        ("epochs", "Recipe(epochs=…)"),
        ("dataset", "`inputs`"),
        ("mode", "did you mean model?"),
    ],
)
def test_train_names_what_was_meant(name, said):
    with pytest.raises(ConfigError) as error:
        engine.train(net(), pictures(), classes_of(), RECIPE, **{name: 1})
    assert said in error.value.remedy


# -- progress


def test_progress_is_told_to_a_function_and_is_silent_in_a_test(reference, capfd):
    expected, scores = reference
    said: list[tuple[str, int, int]] = []
    tell = lambda *told: said.append(told)  # noqa: E731
    trained = trained_on(pictures(), classes_of(), progress=tell)
    again = engine.attribute(trained, pictures(3, 1), classes_of(3, 1), progress=tell)
    engine.retrain(trained, np.ones(N), progress=tell)
    engine.evaluate(trained, pictures(3, 1), classes_of(3, 1), progress=tell)
    assert np.array_equal(again, scores)
    done = {what: (done, steps) for what, done, steps in said}
    assert done == {"train": (8, 8), "attribute": (8, 8), "retrain": (8, 8), "evaluate": (3, 3)}
    assert [done for what, done, _ in said if what == "attribute"] == list(range(1, 9))
    trained_on(pictures(), classes_of())
    assert capfd.readouterr() == ("", "")
    trained_on(pictures(), classes_of(), progress=True)
    assert "Train: 100%" in capfd.readouterr().err


def test_what_a_function_of_progress_raises_comes_out_as_it_is(reference):
    class Enough(Exception):
        pass

    def stop(what: str, done: int, steps: int) -> None:
        if done == 3:
            raise Enough

    expected, scores = reference
    with pytest.raises(Enough):
        engine.attribute(expected, pictures(3, 1), classes_of(3, 1), progress=stop)
    assert np.array_equal(engine.attribute(expected, pictures(3, 1), classes_of(3, 1)), scores)
    with pytest.raises(ConfigError, match="`progress` is a str"):
        engine.attribute(expected, pictures(3, 1), classes_of(3, 1), progress="yes")


def test_a_bar_is_drawn_on_a_terminal_alone():
    """In a process whose error stream is a terminal of 80 columns, and in one whose is not."""
    code = "from engine.library.progress import is_watched, reported\nprint(is_watched())\n" + (
        "for progress in (True, False):\n    with reported(progress, f'bar {progress}', 4) as report: report(4)"
    )
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    answers = []
    for stream in (terminal, subprocess.DEVNULL):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=stream, text=True)
        answers.append(done.stdout.strip())
    os.close(terminal)
    drawn = os.read(main, 4096).decode()
    os.close(main)
    assert answers == ["True", "False"]
    assert "Bar true: 100%" in drawn and "Bar false" not in drawn

"""Targets have one text each; target functions are the same by NumPy and by torch, at any size of the logits."""

import numpy as np
import pytest
import torch

from engine import config as configs
from engine.core import targets as torch_targets
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError
from engine.targets import (
    FUNCTIONS,
    AllTests,
    ClassOfTests,
    Target,
    TestImage,
    UploadedImage,
    functions,
    names,
    target_function,
)

VALUES = [TestImage(0), TestImage(123456789), AllTests(), ClassOfTests(7), UploadedImage("0123456789abcdef", 3)]


@pytest.mark.parametrize("target", VALUES, ids=str)
def test_a_target_is_the_same_value_after_writing_and_parsing(target):
    again = Target.parse(str(target))
    assert again == target and hash(again) == hash(target) and type(again) is type(target)


@pytest.mark.parametrize(
    "text",
    ["test:007", "test:٣", "test:٧", "test:³", "class:02", "class:２", "test:-1", "test:+1", "test:1_0", " test:1"]
    + ["test:1 ", "test:1\n", "Test:1", "test:ALL", "image:0123456789ABCDEF:1", "image:0123456789abcdef:01", "test:"]
    + ["test:1.0", "test:" + "9" * 5000, "", "class:all", None, 3, ["test:1"]],
)
def test_no_second_text_of_a_target_is_taken(text):
    with pytest.raises(ConfigError, match="is no target; write test:INDEX") as caught:
        Target.parse(text)
    assert caught.value.remedy and len(str(caught.value)) < 500
    config = configs.preset("sample").replace(targets=("test:7", text))
    assert "is no target" in configs.problems(config, 6000, 1000, 10)["targets"]


def test_old_records_name_a_target_by_its_one_text():
    assert [names.canonical(t) for t in ("test:007", "test:٧", "class:03", "image:0123456789abcdef:01")] == [
        "test:7",
        "test:7",
        "class:3",
        "image:0123456789abcdef:1",
    ]
    assert [names.canonical(t) for t in ("test:all", "test:x", "")] == ["test:all", "test:x", ""]


def test_targets_resolve_to_test_images_or_say_why_not():
    labels = np.array([0, 2, 2, 0])
    for text, indices in (("test:3", [3]), ("test:all", [0, 1, 2, 3]), ("class:2", [1, 2])):
        assert Target.parse(text).resolve(labels, 3).tolist() == indices
    assert Target.parse("image:0123456789abcdef:1").resolve(labels, 3).tolist() == []
    for text, message in (("test:4", "test:0 to test:3"), ("class:3", "class:0 to class:2"), ("class:1", "No test")):
        with pytest.raises(ConfigError, match=message):
            Target.parse(text).resolve(labels, 3)
    with pytest.raises(ConfigError, match="out of range"):
        Target.parse("image:0123456789abcdef:3").resolve(labels, 3)


def test_titles_and_groups():
    dataset = dataset_registry.load("fashion-mnist-sample")
    label = dataset.classes[dataset.test_labels[0]]
    assert Target.parse("test:0").title(dataset) == f"Test image 0 · {label}"
    assert Target.parse("test:0").group(dataset) == ((0, int(dataset.test_labels[0])), f"Test images of {label}")
    assert Target.parse("class:2").title(dataset) == "All test images of class Pullover"
    places = [Target.parse(t).group(dataset)[0] for t in ("test:3", "class:1", "test:all", "image:0123456789abcdef:3")]
    assert places == sorted(places)


# -- functions


def test_both_tables_hold_the_same_functions():
    assert FUNCTIONS.keys() == torch_targets.FUNCTIONS.keys() and all(k == f.name for k, f in FUNCTIONS.items())


def logits_of_all_sizes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scales = (1e-3, 1.0, 30.0, 1e3, 1e6)
    logits = np.concatenate([scale * rng.normal(size=(40, 7)) for scale in scales])
    ties, far = np.zeros((7, 7)), 60.0 * np.eye(7)
    logits = np.concatenate([logits, ties, far, -far])
    return logits, rng.integers(7, size=len(logits))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_and_torch_agree_on_logits_of_any_size(name):
    logits, labels = logits_of_all_sizes()
    by_numpy = FUNCTIONS[name].from_logits(logits, labels)
    by_torch = torch_targets.FUNCTIONS[name](torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    assert by_numpy.dtype == np.float64 and np.isfinite(by_numpy).all() and by_numpy.std() > 0
    np.testing.assert_allclose(by_numpy, by_torch, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("margin", [-700.0, -40.0, 0.0, 10.0, 28.0, 33.0, 34.0, 36.0, 60.0, 700.0])
def test_margins_do_not_saturate(margin):
    logits = np.array([[margin, 0.0]], np.float32)
    assert functions.margins(logits, np.array([0]))[0] == np.float32(margin)


@pytest.mark.parametrize("margin", [-20.0, -1.0, 0.0, 2.0, 12.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_slope_is_the_derivative_with_respect_to_the_margin(name, margin):
    function, step = FUNCTIONS[name], 1e-5

    def value(m: float) -> float:
        return function.from_logits(np.array([[m, 0.0]]), np.array([0]))[0]

    difference = (value(margin + step) - value(margin - step)) / (2 * step)
    assert function.slope(margin) == pytest.approx(difference, rel=1e-4, abs=1e-10)


def test_words_follow_from_the_row():
    for function, up in (("loss", "raised the loss (harmful)"), ("margin", "raised the margin (helpful)")):
        assert up in target_function(function).meaning and target_function(function).unit in (
            "nats per unit of example weight",
            "logits per unit of example weight",
        )
    with pytest.raises(ConfigError, match="no target function 'accuracy'") as caught:
        target_function("accuracy")
    assert "loss, margin" in caught.value.remedy
    with pytest.raises(ConfigError, match="two target functions"):
        functions.register(functions.TargetFunction("loss", "nats", 1, "", functions.losses))

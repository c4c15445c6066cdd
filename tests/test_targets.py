"""Targets have one text each, and are read from what people write; target functions are the same by NumPy and by torch,
at any size of the logits. Their scores are the derivative: tests/test_asked.py."""

import numpy as np
import pytest
import torch

from engine import config as configs
from engine.core import targets as torch_targets
from engine.datasets import registry as dataset_registry
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.targets import (
    FAMILIES,
    FUNCTIONS,
    AllTests,
    ClassOfTests,
    Confusion,
    Target,
    TestImage,
    TrainImage,
    UploadedImage,
    classes,
    functions,
    names,
    read_function,
    read_targets,
    target_function,
)

VALUES = [
    TestImage(0),
    TestImage(123456789),
    AllTests(),
    ClassOfTests(7),
    Confusion(4, 6),
    TrainImage(17),
    UploadedImage("0123456789abcdef", 3),
]
CLASSES = ("Coat", "Shirt", "T-shirt, top", "tee>shirt", "10", "COAT", 'a "b"', "0-3")
EVERY_FUNCTION = [*FUNCTIONS, "logit:3", "difference:6>1"]


def small(classes: tuple[str, ...] = CLASSES[:3], test_labels: tuple[int, ...] = (0, 2, 2, 0)) -> Dataset:
    """A data set of 5 training images, of labels 0 1 0 1 0."""
    images = np.zeros((5, 2, 2, 1), np.uint8)
    labels = np.array(test_labels)
    return Dataset("small", "", "", classes, images, np.array([0, 1, 0, 1, 0]), images[: len(labels)], labels)


def logits_of(predicted: list[int], classes: int = 3):
    return lambda: np.eye(classes)[predicted]


@pytest.mark.parametrize("target", VALUES, ids=str)
def test_a_target_is_the_same_value_after_writing_and_parsing(target):
    again = Target.parse(str(target))
    assert again == target and hash(again) == hash(target) and type(again) is type(target)


@pytest.mark.parametrize(
    "text",
    ["test:007", "test:٣", "test:٧", "test:³", "class:02", "class:２", "test:-1", "test:+1", "test:1_0", " test:1"]
    + ["test:1 ", "test:1\n", "Test:1", "test:ALL", "image:0123456789ABCDEF:1", "image:0123456789abcdef:01", "test:"]
    + ["test:1.0", "test:" + "9" * 5000, "", "class:all", None, 3, ["test:1"]]
    + ["train:01", "train:-1", "confusion:4", "confusion:4>", "confusion:04>6", "confusion:4 > 6", "confusion:4>6>1"]
    + ["test:0-3", "class:coat", "train:0-3"],
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


def test_targets_resolve_to_images_or_say_why_not():
    data, logits = small(), logits_of([1, 2, 0, 0])
    for text, split, indices in (
        ("test:3", "test", [3]),
        ("test:all", "test", [0, 1, 2, 3]),
        ("class:2", "test", [1, 2]),
        ("confusion:0>1", "test", [0]),
        ("confusion:2>0", "test", [2]),
        ("train:4", "train", [4]),
        ("image:0123456789abcdef:1", "own", []),
    ):
        members = Target.parse(text).resolve(data, logits)
        assert (members.split, members.indices.tolist()) == (split, indices), text
    for text, message in (
        ("test:4", "test:0 to test:3"),
        ("train:5", "train:0 to train:4"),
        ("class:3", "class:0 to class:2"),
        ("confusion:3>0", "class:0 to class:2"),
        ("confusion:0>3", "class:0 to class:2"),
        ("confusion:1>1", "names one class twice"),
        ("class:1", "No test"),
        ("confusion:0>2", "takes no test image of class Coat for T-shirt, top"),
        ("image:0123456789abcdef:3", "out of range"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            Target.parse(text).resolve(data, logits)
        assert caught.value.remedy


def test_a_confusion_is_of_a_trained_model_and_at_most_its_class():
    data = small()
    with pytest.raises(ConfigError, match="known once the model is trained") as caught:
        Confusion(0, 1).resolve(data)
    assert caught.value.remedy
    assert Confusion(0, 1).at_most(data).indices.tolist() == [0, 3]
    with pytest.raises(ConfigError, match="No test image"):
        Confusion(1, 0).at_most(data)
    with pytest.raises(IntegrityError, match="do not fit"):
        Confusion(0, 1).resolve(data, lambda: np.zeros((4, 2)))


# -- what people write


@pytest.mark.parametrize(
    "text, targets",
    [
        ("test:0-2,test:3,class:1", "test:0 test:1 test:2 test:3 class:1"),
        (" test:all , train:2\nclass:coat,", "test:all train:2 class:0"),
        ("train:1-3", "train:1 train:2 train:3"),
        ("class:0-2", "class:0 class:1 class:2"),
        ("class:SHIRT,class: shirt ", "class:1 class:1"),
        ('class:"T-shirt, top"', "class:2"),
        ("confusion:coat>shirt,confusion:0>shirt,confusion: 1 > Coat", "confusion:0>1 confusion:0>1 confusion:1>0"),
        ('confusion:"t-shirt, top">0', "confusion:2>0"),
        ("image:0123456789abcdef:1", "image:0123456789abcdef:1"),
    ],
)
def test_lists_ranges_and_names_are_read(text, targets):
    assert " ".join(map(str, read_targets(text, small()))) == targets
    assert read_targets(targets.split(), small()) == read_targets([text], small())


def test_classes_are_found_by_name_and_by_number():
    data = small(CLASSES)
    for text, number in (
        ("Coat", 0),
        ("COAT", 5),  # as it is written, before case is disregarded
        ("4", 4),  # a number
        ('"10"', 4),  # a name
        ('"tee>shirt"', 3),
        ('"a ""b"""', 6),
        ("0-3", 7),  # a name, before it is a range
    ):
        assert read_targets(f"class:{text}", data) == (ClassOfTests(number),), text
    assert read_targets('confusion:"tee>shirt">"T-shirt, top"', data) == (Confusion(3, 2),)
    for name in CLASSES:
        assert classes.class_named(classes.spelled(name), CLASSES) == CLASSES.index(name)
    with pytest.raises(ConfigError, match="«coat» may be one of several classes: Coat and COAT") as caught:
        read_targets("class:coat", data)
    assert "by number: 0 or 5" in caught.value.remedy
    with pytest.raises(ConfigError, match="no class «Shurt»") as caught:
        read_targets("confusion:Shurt>Coat", data)
    assert "Did you mean Shirt?" in caught.value.remedy and '"T-shirt, top"' in caught.value.remedy
    assert read_targets("class:CAFE\u0301", small(("caf\u00e9", "b", "c"), (0, 0, 0, 0))) == (ClassOfTests(0),)


@pytest.mark.parametrize(
    "text, message",
    [
        ("test:2-1", "is empty: its first number is larger"),
        ("test:0-4", "test:4 is out of range: the test images are test:0 to test:3"),
        ("train:0-99999999", "train:99999999 is out of range"),
        ("class:0-9", "class:9 is out of range"),
        ("class:7", "class:7 is out of range"),
        ("confusion:coat>coat", "confusion:0>0 names one class twice"),
        ("confusion:coat", "is no target"),
        ("confusion:a>b>c", "is no target"),
        ("", "is no target"),
        ("test:0,what", "'what' is no target"),
        ("class:", "is no target"),
    ],
)
def test_what_is_no_target_is_refused_with_its_text(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_targets(text, small())
    assert caught.value.remedy and "targets" in caught.value.problems
    with pytest.raises(ConfigError, match="None is no target"):
        read_targets(["test:0", None], small())  # type: ignore[list-item]


def test_a_configuration_is_read_once_and_holds_values():
    data = dataset_registry.load("fashion-mnist-sample")
    written = configs.preset("sample").replace(
        targets=("test:0-1", "class:coat", "confusion:coat>shirt"), target_function="difference:shirt>coat"
    )
    config = configs.read_questions(written, data)
    assert config.targets == ("test:0", "test:1", "class:4", "confusion:4>6")
    assert config.target_function == "difference:6>4"
    assert configs.check(config, *data.sizes) == config == configs.from_dict(config.to_dict())
    assert configs.read_questions(config, data) == config
    wrong = written.replace(targets=("class:Caot",), target_function="logit:shurt", **{"recipe.batch_size": 7000})
    with pytest.raises(ConfigError, match="The run cannot start") as caught:
        configs.read_questions(wrong, data)
    assert {"targets", "target_function", "recipe.batch_size"} <= caught.value.problems.keys()
    assert "«Caot»" in caught.value.problems["targets"] and "Did you mean Coat?" in caught.value.remedy
    problems = configs.problems(config.replace(target_function="logit:10"), *data.sizes)
    assert "out of range: the classes are 0 to 9" in problems["target_function"]
    assert (
        "must be one of loss, margin, logit" in configs.problems(config.replace(target_function="x"))["target_function"]
    )


def test_titles_and_groups():
    dataset = dataset_registry.load("fashion-mnist-sample")
    label = dataset.classes[dataset.test_labels[0]]
    assert Target.parse("test:0").title(dataset) == f"Test image 0 · {label}"
    assert Target.parse("test:0").group(dataset) == ((0, int(dataset.test_labels[0])), f"Test images of {label}")
    assert Target.parse("class:2").title(dataset) == "All test images of class Pullover"
    assert Target.parse("confusion:4>6").title(dataset) == "Test images of class Coat predicted as Shirt"
    given = dataset.classes[dataset.train_labels[5]]
    assert Target.parse("train:5").title(dataset) == f"Training image 5 · {given}"
    assert Target.parse("train:5").group(dataset)[1] == f"Training images of {given}"
    texts = ("test:3", "class:1", "confusion:4>6", "train:5", "test:all", "image:0123456789abcdef:3")
    places = [Target.parse(t).group(dataset)[0] for t in texts]
    assert places == sorted(places)


# -- functions


def test_both_tables_hold_the_same_functions():
    assert FUNCTIONS.keys() == torch_targets.FUNCTIONS.keys() and all(k == f.name for k, f in FUNCTIONS.items())
    assert FAMILIES.keys() == torch_targets.FAMILIES.keys() and all(k == f.name for k, f in FAMILIES.items())
    assert {target_function(name).name.partition(":")[0] for name in EVERY_FUNCTION} == {*FUNCTIONS, *FAMILIES}


def logits_of_all_sizes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scales = (1e-3, 1.0, 30.0, 1e3, 1e6)
    logits = np.concatenate([scale * rng.normal(size=(40, 7)) for scale in scales])
    ties, far = np.zeros((7, 7)), 60.0 * np.eye(7)
    logits = np.concatenate([logits, ties, far, -far])
    return logits, rng.integers(7, size=len(logits))


@pytest.mark.parametrize("name", EVERY_FUNCTION)
def test_numpy_and_torch_agree_on_logits_of_any_size(name):
    logits, labels = logits_of_all_sizes()
    by_numpy = target_function(name).from_logits(logits, labels)
    by_torch = torch_targets.function_of(name)(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    assert by_numpy.dtype == np.float64 and np.isfinite(by_numpy).all() and by_numpy.std() > 0
    np.testing.assert_allclose(by_numpy, by_torch, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("margin", [-700.0, -40.0, 0.0, 10.0, 28.0, 33.0, 34.0, 36.0, 60.0, 700.0])
def test_margins_do_not_saturate(margin):
    logits = np.array([[margin, 0.0]], np.float32)
    assert functions.margins(logits, np.array([0]))[0] == np.float32(margin)


def test_logits_are_of_the_classes_named():
    logits, labels = np.arange(14.0).reshape(2, 7) ** 2, np.array([5, 0])
    for name, expected in (("logit", [25, 49]), ("logit:3", [9, 100]), ("difference:6>1", [35, 105])):
        assert target_function(name).from_logits(logits.astype(np.float32), labels).tolist() == expected


@pytest.mark.parametrize("margin", [-20.0, -1.0, 0.0, 2.0, 12.0])
@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if function.slope is not None])
def test_the_slope_is_the_derivative_with_respect_to_the_margin(name, margin):
    function, step = FUNCTIONS[name], 1e-5

    def value(m: float) -> float:
        return function.from_logits(np.array([[m, 0.0]]), np.array([0]))[0]

    difference = (value(margin + step) - value(margin - step)) / (2 * step)
    assert function.slope(margin) == pytest.approx(difference, rel=1e-4, abs=1e-10)


def test_words_follow_from_the_row():
    for function, up in (("loss", "raised the loss (harmful)"), ("margin", "raised the margin (helpful)")):
        assert up in target_function(function).meaning() and target_function(function).unit in (
            "nats per unit of example weight",
            "logits per unit of example weight",
        )
    with pytest.raises(ConfigError, match="no target function 'accuracy'") as caught:
        target_function("accuracy")
    assert "loss, margin" in caught.value.remedy
    with pytest.raises(ConfigError, match="two target functions"):
        functions.register(functions.TargetFunction("loss", "nats", 1, "", functions.losses))
    with pytest.raises(ConfigError, match="two functions of classes"):
        functions.register_family(
            functions.FunctionFamily("logit", "", 1, "", 1, "", "", lambda logits, a: logits[:, a])
        )


def test_a_function_of_classes_has_one_text_and_is_one_value():
    function = target_function("difference:6>4")
    assert function is target_function("difference:6>4") and function.classes == (6, 4)
    assert function.slug == "difference-6-4" and target_function("logit:4").slug == "logit-4"
    names = dataset_registry.load("fashion-mnist-sample").classes
    assert function.in_words(names) == "logit of Shirt minus that of Coat"
    assert function.in_words() == "logit of class 6 minus that of class 4"
    assert "raised the logit of Shirt minus that of Coat (helpful)" in function.meaning(names)
    assert target_function("logit:4").in_words(("{0}", "b", "c", "d", "{}")) == "logit of {}"  # a class's name is text
    data = small()
    assert read_function("difference: shirt > coat", data) is target_function("difference:1>0")
    assert read_function('logit:"T-shirt, top"', data).name == "logit:2"
    for text, message in (
        ("logit:3", "logit:3 is out of range: the classes are 0 to 2"),
        ("logit:", "no class «»"),
        ("logit:trouser", "no class «trouser»"),
        ("logit:1>2", "does not name 1 different class"),
        ("difference:1", "does not name 2 different classes"),
        ("difference:1>1", "does not name 2 different classes"),
        ("margin:1", "no target function 'margin:1'"),
        ("logit:01", "no class «01»"),
        ("x" * 500, "no target function"),
        (None, "no target function None"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            read_function(text, data)
        assert caught.value.remedy and len(str(caught.value)) < 600
    for text in ("logit:01", "logit:٣", "difference:1 > 0", "logit:coat", "logit:-1"):
        with pytest.raises(ConfigError, match="no target function"):
            target_function(text)

"""Targets: what is asked about. No torch.

A target is a set of images over which a target function is averaged, in evaluation mode. It is parsed once, from the
text of a link, a form, an option or a file, and is a value from then on:

    test:3              one test image
    test:all            all test images
    class:2             all test images of one class
    confusion:4>6       the test images of class 4 that the trained model takes for class 6
    train:17            one training image, as it stands: its own loss, and so its self-influence
    image:ID:LABEL      an uploaded image of a run, with the label asked about (`engine.runs.uploads`)

`str(target)` is the text again. A target has one text: `test:007` and digits of other scripts are refused, so that
texts may be compared, and serve as names in files. What people write, with names of classes, ranges and lists, is
turned into targets by `engine.targets.texts`. A kind that comes is a subclass of `Target` in a file of its own, with
`@register`.

The images of a confusion are those that the trained model of the run takes so. They are fixed with that model: a score
is the derivative of the mean over these images, and a retrained model is asked about the same ones.

The score of training image i on the target `train:i` is the derivative of its loss with respect to its own weight:
its self-influence, which is large and negative for an image that only its own presence explains (a memorised one).
The other scores of the row say what other images did for it, with image i itself at weight 1.
"""

import abc
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.targets.classes import class_named, find_class, split_outside_quotes
from engine.targets.members import OWN, TEST, TRAIN, Members, TestLogits

INDEX, LABEL, IMAGE_ID = "(0|[1-9][0-9]{0,8})", "(0|[1-9][0-9]{0,4})", "([0-9a-f]{16})"

LONGEST = 200  # characters of a text that are shown in an error


@dataclass(frozen=True)
class Target(abc.ABC):
    """What is asked about. Equal targets are equal values, and may be keys.

    `kind` names the subclass, `pattern` matches its texts whole and `example` is one for error messages. `of_the_model`
    says that its images follow from what the trained model predicts.
    """

    kind: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]
    example: ClassVar[str]
    of_the_model: ClassVar[bool] = False

    @staticmethod
    def parse(text: str) -> "Target":
        """The target of a text such as `test:3`; `ConfigError` for any other."""
        for cls in KINDS.values():
            if isinstance(text, str) and (match := cls.pattern.fullmatch(text)):
                return cls.from_match(match)
        problem = not_a_target(text)
        raise ConfigError(f"The target {problem}.", "Correct it and start again.", {"targets": problem})

    @classmethod
    @abc.abstractmethod
    def from_match(cls, match: re.Match[str]) -> "Target":
        """The value of a text that `pattern` matches."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """The one text of this target."""

    @classmethod
    def read(cls, text: str, dataset: Dataset) -> "tuple[Target, ...] | None":
        """What a person's text asks for beside the one text that `pattern` knows, such as a range, or names of classes;
        None where it is no text of this kind. Raises `ConfigError` for one that names what is not there."""
        return None

    @abc.abstractmethod
    def problem(self, n_train: int | None, n_test: int | None, n_classes: int | None) -> str | None:
        """Why it does not go with a data set of these sizes, as the end of a sentence; None where it does.

        A size of None is not known, and nothing is held against it.
        """

    @abc.abstractmethod
    def members(self, dataset: Dataset, test_logits: TestLogits) -> Members:
        """The images that it averages over."""

    def at_most(self, dataset: Dataset) -> Members:
        """The images that it may average over, where no model is trained yet: for an estimate of what it takes. Raises
        `ConfigError` as `resolve` does."""
        return self.resolve(dataset)

    @abc.abstractmethod
    def title(self, dataset: Dataset) -> str:
        """What a person reads; holds names of classes, which are plain text and no Markdown."""

    def group(self, dataset: Dataset) -> tuple[tuple[int, int], str]:
        """The row of the class matrix that it belongs to: a place to sort by, and a title. A row of its own, last,
        unless a kind says otherwise."""
        return (len(KINDS), 0), self.title(dataset)

    def check(self, dataset: Dataset) -> None:
        """Raises `ConfigError` where it does not go with the data set."""
        sizes = dataset.sizes
        if problem := self.problem(sizes.n_train, sizes.n_test, sizes.n_classes):
            raise ConfigError(f"The target {problem}.", "Correct it and start again.", {"targets": problem})

    def resolve(self, dataset: Dataset, test_logits: TestLogits | None = None) -> Members:
        """`members`, checked: `ConfigError` where the target does not go with the data set, or has no image.

        `test_logits` gives those of the trained model (`Manifest.test_logits`); a target that depends on them cannot
        be resolved without.
        """
        self.check(dataset)
        members = self.members(dataset, test_logits or _not_trained)
        if not len(members) and members.split != OWN:
            raise ConfigError(self.empty(dataset), "Choose another one.", {"targets": f"{self} has no image"})
        return members

    def empty(self, dataset: Dataset) -> str:
        """What is said where it has no image, as a sentence."""
        return f"No test image has the class of {self}."


def _not_trained() -> np.ndarray:
    raise ConfigError(
        "Which images a confusion holds is known once the model is trained.", "Train first, or choose other targets."
    )


KINDS: dict[str, type[Target]] = {}

Kind = TypeVar("Kind", bound=Target)


def register(cls: type[Kind]) -> type[Kind]:
    """Makes `Target.parse` know a kind of target. Two kinds must not match one text."""
    if KINDS.setdefault(cls.kind, cls) is not cls:
        raise ConfigError(f"There are two kinds of target «{cls.kind}».", "Give one of them another name.")
    return cls


@register
@dataclass(frozen=True)
class TestImage(Target):
    """One image of the test split."""

    index: int

    kind: ClassVar[str] = "test image"
    pattern: ClassVar[re.Pattern[str]] = re.compile(f"test:{INDEX}")
    example: ClassVar[str] = "test:INDEX"
    __test__: ClassVar[bool] = False  # no class of tests, whatever pytest reads in its name

    @classmethod
    def from_match(cls, match: re.Match[str]) -> "TestImage":
        return cls(int(match[1]))

    def __str__(self) -> str:
        return f"test:{self.index}"

    def problem(self, n_train: int | None, n_test: int | None, n_classes: int | None) -> str | None:
        if n_test is not None and not 0 <= self.index < n_test:
            return f"{self} is out of range: the test images are test:0 to test:{n_test - 1}"
        return None

    def members(self, dataset: Dataset, test_logits: TestLogits) -> Members:
        return Members(TEST, np.array([self.index]))

    @classmethod
    def read(cls, text: str, dataset: Dataset) -> tuple[Target, ...] | None:
        return range_of(cls, "test", text, dataset)

    def title(self, dataset: Dataset) -> str:
        return f"Test image {self.index} · {dataset.classes[dataset.test_labels[self.index]]}"

    def group(self, dataset: Dataset) -> tuple[tuple[int, int], str]:
        label = int(dataset.test_labels[self.index])
        return (0, label), f"Test images of {dataset.classes[label]}"


@register
@dataclass(frozen=True)
class AllTests(Target):
    """The whole test split."""

    kind: ClassVar[str] = "all tests"
    pattern: ClassVar[re.Pattern[str]] = re.compile("test:all")
    example: ClassVar[str] = "test:all"

    @classmethod
    def from_match(cls, match: re.Match[str]) -> "AllTests":
        return cls()

    def __str__(self) -> str:
        return "test:all"

    def problem(self, n_train: int | None, n_test: int | None, n_classes: int | None) -> str | None:
        return None

    def members(self, dataset: Dataset, test_logits: TestLogits) -> Members:
        return Members(TEST, np.arange(len(dataset.test_labels)))

    def title(self, dataset: Dataset) -> str:
        return "All test images"


@register
@dataclass(frozen=True)
class ClassOfTests(Target):
    """All images of the test split that have one label."""

    label: int

    kind: ClassVar[str] = "class"
    pattern: ClassVar[re.Pattern[str]] = re.compile(f"class:{LABEL}")
    example: ClassVar[str] = "class:INDEX"

    @classmethod
    def from_match(cls, match: re.Match[str]) -> "ClassOfTests":
        return cls(int(match[1]))

    def __str__(self) -> str:
        return f"class:{self.label}"

    def problem(self, n_train: int | None, n_test: int | None, n_classes: int | None) -> str | None:
        return _label_problem(self, self.label, n_classes)

    def members(self, dataset: Dataset, test_logits: TestLogits) -> Members:
        return Members(TEST, np.flatnonzero(dataset.test_labels == self.label))

    @classmethod
    def read(cls, text: str, dataset: Dataset) -> tuple[Target, ...] | None:
        head, _, rest = text.partition(":")
        if head != "class" or not rest.strip():
            return None
        if find_class(rest, dataset.classes) is None and (several := range_of(cls, "class", text, dataset)):
            return several
        return (cls(class_named(rest, dataset.classes)),)

    def title(self, dataset: Dataset) -> str:
        return f"All test images of class {dataset.classes[self.label]}"

    def group(self, dataset: Dataset) -> tuple[tuple[int, int], str]:
        return (1, self.label), self.title(dataset)


@register
@dataclass(frozen=True)
class Confusion(Target):
    """The test images of the class `label` that the trained model takes for the class `predicted`."""

    label: int
    predicted: int

    kind: ClassVar[str] = "confusion"
    pattern: ClassVar[re.Pattern[str]] = re.compile(f"confusion:{LABEL}>{LABEL}")
    example: ClassVar[str] = "confusion:CLASS>CLASS"
    of_the_model: ClassVar[bool] = True

    @classmethod
    def from_match(cls, match: re.Match[str]) -> "Confusion":
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def read(cls, text: str, dataset: Dataset) -> tuple[Target, ...] | None:
        head, _, rest = text.partition(":")
        if head != "confusion":
            return None
        parts = split_outside_quotes(rest, ">")
        if len(parts) != 2:
            return None
        return (cls(*(class_named(part, dataset.classes) for part in parts)),)

    def __str__(self) -> str:
        return f"confusion:{self.label}>{self.predicted}"

    def problem(self, n_train: int | None, n_test: int | None, n_classes: int | None) -> str | None:
        if self.label == self.predicted:
            return f"{self} names one class twice: a confusion is of two"
        return _label_problem(self, max(self.label, self.predicted), n_classes)

    def members(self, dataset: Dataset, test_logits: TestLogits) -> Members:
        logits_NC = test_logits()
        if logits_NC.shape != (len(dataset.test_labels), len(dataset.classes)):
            raise IntegrityError(
                f"The trained model's logits do not fit the data set {dataset.name}.",
                "Delete the run and start it again.",
            )
        taken_so_N = (dataset.test_labels == self.label) & (logits_NC.argmax(1) == self.predicted)
        return Members(TEST, np.flatnonzero(taken_so_N))

    def at_most(self, dataset: Dataset) -> Members:
        self.check(dataset)
        return ClassOfTests(self.label).resolve(dataset)

    def empty(self, dataset: Dataset) -> str:
        label, predicted = dataset.classes[self.label], dataset.classes[self.predicted]
        return f"The model takes no test image of class {label} for {predicted}, so {self} is empty."

    def title(self, dataset: Dataset) -> str:
        return f"Test images of class {dataset.classes[self.label]} predicted as {dataset.classes[self.predicted]}"

    def group(self, dataset: Dataset) -> tuple[tuple[int, int], str]:
        return (2, self.label * len(dataset.classes) + self.predicted), self.title(dataset)


@register
@dataclass(frozen=True)
class TrainImage(Target):
    """One image of the training split, without any augmentation: its own loss is what self-influence is of."""

    index: int

    kind: ClassVar[str] = "training image"
    pattern: ClassVar[re.Pattern[str]] = re.compile(f"train:{INDEX}")
    example: ClassVar[str] = "train:INDEX"

    @classmethod
    def from_match(cls, match: re.Match[str]) -> "TrainImage":
        return cls(int(match[1]))

    @classmethod
    def read(cls, text: str, dataset: Dataset) -> tuple[Target, ...] | None:
        return range_of(cls, "train", text, dataset)

    def __str__(self) -> str:
        return f"train:{self.index}"

    def problem(self, n_train: int | None, n_test: int | None, n_classes: int | None) -> str | None:
        if n_train is not None and not 0 <= self.index < n_train:
            return f"{self} is out of range: the training images are train:0 to train:{n_train - 1}"
        return None

    def members(self, dataset: Dataset, test_logits: TestLogits) -> Members:
        return Members(TRAIN, np.array([self.index]))

    def title(self, dataset: Dataset) -> str:
        return f"Training image {self.index} · {dataset.classes[dataset.train_labels[self.index]]}"

    def group(self, dataset: Dataset) -> tuple[tuple[int, int], str]:
        label = int(dataset.train_labels[self.index])
        return (3, label), f"Training images of {dataset.classes[label]}"


@register
@dataclass(frozen=True)
class UploadedImage(Target):
    """An image of a person's own, kept with a run, with the label asked about. In no split of the data set."""

    image_id: str
    label: int

    kind: ClassVar[str] = "uploaded image"
    pattern: ClassVar[re.Pattern[str]] = re.compile(f"image:{IMAGE_ID}:{LABEL}")
    example: ClassVar[str] = "image:ID:LABEL"

    @classmethod
    def from_match(cls, match: re.Match[str]) -> "UploadedImage":
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"image:{self.image_id}:{self.label}"

    def problem(self, n_train: int | None, n_test: int | None, n_classes: int | None) -> str | None:
        return _label_problem(self, self.label, n_classes)

    def members(self, dataset: Dataset, test_logits: TestLogits) -> Members:
        return Members(OWN, np.empty(0, np.int64))

    def title(self, dataset: Dataset) -> str:
        return f"Own image {self.image_id[:6]} · {dataset.classes[self.label]}"


def problem_of(
    text: object, n_train: int | None = None, n_test: int | None = None, n_classes: int | None = None
) -> str | None:
    """Why a text is no target of a data set of these sizes (None: not known), for a form; None where it is one."""
    try:
        target = Target.parse(text)  # type: ignore[arg-type]  # anything may stand in a file
    except ConfigError:
        return not_a_target(text)
    return target.problem(n_train, n_test, n_classes)


def canonical(text: str) -> str:
    """The one text of a target in a record of schema 2, which also took leading zeros and digits of other scripts."""
    if not isinstance(text, str) or not re.fullmatch(r"(test|class):\d{1,9}|image:[0-9a-f]{16}:\d{1,5}", text):
        return text
    head, _, number = text.rpartition(":")
    return f"{head}:{int(number)}"


def not_a_target(text: object) -> str:
    """What is said of a text that is none, as the end of a sentence."""
    examples = ", ".join(cls.example for cls in KINDS.values() if cls is not UploadedImage)
    shown = repr(text) if len(repr(text)) <= LONGEST else f"{repr(text)[:LONGEST]}…"
    return f"{shown} is no target; write {examples}, numbers without leading zeros"


def _label_problem(target: Target, label: int, n_classes: int | None) -> str | None:
    if n_classes is not None and not 0 <= label < n_classes:
        return f"{target} is out of range: the classes are class:0 to class:{n_classes - 1}"
    return None


def range_of(cls: Callable[[int], Target], head: str, text: str, dataset: Dataset) -> tuple[Target, ...] | None:
    """The targets of a text such as `test:0-9`, both ends included; None where it is none. Raises `ConfigError` for an
    empty one, or one that leaves the data set, before anything of its length is made."""
    match = re.fullmatch(f"{head}:{INDEX} *[-–] *{INDEX}", text)
    if not match:
        return None
    first, last = int(match[1]), int(match[2])
    if first > last:
        problem = f"{text} is empty: its first number is larger than its last"
        raise ConfigError(f"The target {problem}.", f"Write {head}:{last}-{first}.", {"targets": problem})
    cls(last).check(dataset)
    return tuple(map(cls, range(first, last + 1)))

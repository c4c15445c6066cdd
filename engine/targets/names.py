"""Targets: what is asked about. No torch.

A target is a set of test images (or one image of a person's own) over which a target function is averaged. It is
parsed once, from the text of a link, a form, an option or a file, and is a value from then on:

    test:3              one test image
    test:all            all test images
    class:2             all test images of one class
    image:ID:LABEL      an uploaded image of a run, with the label asked about (`engine.runs.uploads`)

`str(target)` is the text again. A target has one text: `test:007` and digits of other scripts are refused, so that
texts may be compared, and serve as names in files. A kind that comes is a subclass of `Target` in a file of its own,
with `@register`.
"""

import abc
import re
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from engine.datasets.base import Dataset
from engine.errors import ConfigError

INDEX, LABEL, IMAGE_ID = "(0|[1-9][0-9]{0,8})", "(0|[1-9][0-9]{0,4})", "([0-9a-f]{16})"

LONGEST = 200  # characters of a text that are shown in an error


@dataclass(frozen=True)
class Target(abc.ABC):
    """What is asked about. Equal targets are equal values, and may be keys.

    `kind` names the subclass, `pattern` matches its texts whole and `example` is one for error messages.
    """

    kind: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]
    example: ClassVar[str]

    @staticmethod
    def parse(text: str) -> "Target":
        """The target of a text such as `test:3`; `ConfigError` for any other."""
        for cls in KINDS.values():
            if isinstance(text, str) and (match := cls.pattern.fullmatch(text)):
                return cls.from_match(match)
        problem = _not_a_target(text)
        raise ConfigError(f"The target {problem}.", "Correct it and start again.", {"targets": problem})

    @classmethod
    @abc.abstractmethod
    def from_match(cls, match: re.Match[str]) -> "Target":
        """The value of a text that `pattern` matches."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """The one text of this target."""

    @abc.abstractmethod
    def problem(self, n_test: int | None, n_classes: int | None) -> str | None:
        """Why it does not go with a data set of these sizes, as the end of a sentence; None where it does.

        A size of None is not known, and nothing is held against it.
        """

    @abc.abstractmethod
    def members(self, labels_N: np.ndarray) -> np.ndarray:
        """The test images that it averages over: int64 [S], empty for an uploaded image."""

    @abc.abstractmethod
    def title(self, dataset: Dataset) -> str:
        """What a person reads; holds names of classes, which are plain text and no Markdown."""

    def group(self, dataset: Dataset) -> tuple[tuple[int, int], str]:
        """The row of the class matrix that it belongs to: a place to sort by, and a title. A row of its own, last,
        unless a kind says otherwise."""
        return (len(KINDS), 0), self.title(dataset)

    def resolve(self, labels_N: np.ndarray, n_classes: int) -> np.ndarray:
        """`members`, checked: `ConfigError` where the target does not go with the data set, or has no test image.

        `labels_N` int64 [N] are the labels of the test split.
        """
        problem = self.problem(len(labels_N), n_classes)
        if problem:
            raise ConfigError(f"The target {problem}.", "Correct it and start again.", {"targets": problem})
        members = self.members(labels_N)
        if not len(members) and not isinstance(self, UploadedImage):
            raise ConfigError(f"No test image has the class of {self}.", "Choose another class.")
        return members


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

    def problem(self, n_test: int | None, n_classes: int | None) -> str | None:
        if n_test is not None and not 0 <= self.index < n_test:
            return f"{self} is out of range: the test images are test:0 to test:{n_test - 1}"
        return None

    def members(self, labels_N: np.ndarray) -> np.ndarray:
        return np.array([self.index])

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

    def problem(self, n_test: int | None, n_classes: int | None) -> str | None:
        return None

    def members(self, labels_N: np.ndarray) -> np.ndarray:
        return np.arange(len(labels_N))

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

    def problem(self, n_test: int | None, n_classes: int | None) -> str | None:
        return _label_problem(self, self.label, n_classes)

    def members(self, labels_N: np.ndarray) -> np.ndarray:
        return np.flatnonzero(labels_N == self.label)

    def title(self, dataset: Dataset) -> str:
        return f"All test images of class {dataset.classes[self.label]}"

    def group(self, dataset: Dataset) -> tuple[tuple[int, int], str]:
        return (1, self.label), self.title(dataset)


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

    def problem(self, n_test: int | None, n_classes: int | None) -> str | None:
        return _label_problem(self, self.label, n_classes)

    def members(self, labels_N: np.ndarray) -> np.ndarray:
        return np.empty(0, np.int64)

    def title(self, dataset: Dataset) -> str:
        return f"Own image {self.image_id[:6]} · {dataset.classes[self.label]}"


def problem_of(text: object, n_test: int | None = None, n_classes: int | None = None) -> str | None:
    """Why a text is no target of a data set of these sizes (None: not known), for a form; None where it is one."""
    try:
        target = Target.parse(text)  # type: ignore[arg-type]  # anything may stand in a file
    except ConfigError:
        return _not_a_target(text)
    return target.problem(n_test, n_classes)


def canonical(text: str) -> str:
    """The one text of a target in a record of schema 2, which also took leading zeros and digits of other scripts."""
    if not isinstance(text, str) or not re.fullmatch(r"(test|class):\d{1,9}|image:[0-9a-f]{16}:\d{1,5}", text):
        return text
    head, _, number = text.rpartition(":")
    return f"{head}:{int(number)}"


def _not_a_target(text: object) -> str:
    examples = ", ".join(cls.example for cls in KINDS.values() if cls is not UploadedImage)
    shown = repr(text) if len(repr(text)) <= LONGEST else f"{repr(text)[:LONGEST]}…"
    return f"{shown} is no target; write {examples}, numbers without leading zeros"


def _label_problem(target: Target, label: int, n_classes: int | None) -> str | None:
    if n_classes is not None and not 0 <= label < n_classes:
        return f"{target} is out of range: the classes are class:0 to class:{n_classes - 1}"
    return None

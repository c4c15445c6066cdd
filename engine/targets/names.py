"""Targets by name: what a target such as test:3 or class:2 asks about. No torch."""

import re

import numpy as np

from engine.datasets import base as datasets_base
from engine.errors import ConfigError

TARGET = re.compile(r"test:(\d{1,9}|all)|class:(\d{1,5})|image:([0-9a-f]{16}):(\d{1,5})")


def target_problem(target: str, n_test: int | None, n_classes: int | None) -> str | None:
    match = TARGET.fullmatch(target) if isinstance(target, str) else None
    if match is None:
        return f"{target!r} is no target; write test:INDEX, class:INDEX or test:all"
    index, label, _, asked = match.groups()
    label = label or asked
    if index not in (None, "all") and n_test is not None and int(index) >= n_test:
        return f"{target} is out of range: the test images are test:0 to test:{n_test - 1}"
    if label is not None and n_classes is not None and int(label) >= n_classes:
        return f"{target} is out of range: the classes are class:0 to class:{n_classes - 1}"
    return None


def uploaded(target: str) -> tuple[str, int] | None:
    """The image's id and the label asked about, of the target image:ID:LABEL (`engine.uploads`); else None."""
    match = TARGET.fullmatch(target)
    return (match[3], int(match[4])) if match and match[3] else None


def resolve(target: str, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The test indices, int64 [S], that a target such as test:3, class:2 or test:all names; none for an uploaded image."""
    problem = target_problem(target, len(labels), n_classes)
    if problem:
        raise ConfigError(f"The target {problem}.", "Correct it and start again.", {"targets": problem})
    kind, _, which = target.partition(":")
    if kind == "image":
        return np.empty(0, np.int64)
    if kind == "class":
        members = np.flatnonzero(labels == int(which))
        if not len(members):
            raise ConfigError(f"No test image has the class of {target}.", "Choose another class.")
        return members
    return np.arange(len(labels)) if which == "all" else np.array([int(which)])


def title(target: str, dataset: datasets_base.Dataset) -> str:
    kind, _, which = target.partition(":")
    if target == "test:all":
        return "All test images"
    if kind == "class":
        return f"All test images of class {dataset.classes[int(which)]}"
    if own := uploaded(target):
        return f"Own image {own[0][:6]} · {dataset.classes[own[1]]}"
    return f"Test image {which} · {dataset.classes[dataset.test_labels[int(which)]]}"

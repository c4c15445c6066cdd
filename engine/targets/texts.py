"""What people write for targets and functions, parsed once where it enters: lists, ranges, names of classes. No torch.

    test:0-9,test:17,class:coat,confusion:coat>shirt,train:3      targets, in this order
    logit:coat   difference:shirt>coat                            functions

What comes out are values; their one text, with numbers alone, is what configurations, links and files hold.
"""

from collections.abc import Iterable

from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.targets.classes import class_named, split_outside_quotes
from engine.targets.functions import FAMILIES, TargetFunction, function_problem, target_function
from engine.targets.names import KINDS, Target, not_a_target


def split_targets(text: str) -> tuple[str, ...]:
    """The parts of a list that is separated by commas, or by line breaks; none where it is empty."""
    parts = (part.strip() for line in text.splitlines() for part in split_outside_quotes(line, ","))
    return tuple(part for part in parts if part)


def read_targets(texts: str | Iterable[str], dataset: Dataset) -> tuple[Target, ...]:
    """The targets that texts ask for, each a list of them or one. Raises `ConfigError`, with the text at fault, for
    what is no target or does not go with the data set; a target that is named twice is there twice."""
    targets: list[Target] = []
    for text in [texts] if isinstance(texts, str) else texts:
        parts = split_targets(text) if isinstance(text, str) else (text,)
        for part in parts or (text,):
            targets += _read(part, dataset)
    return tuple(targets)


def read_function(text: str, dataset: Dataset) -> TargetFunction:
    """The function that a text names, with classes by number or name. Raises `ConfigError` for any other text."""
    head, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if colon and head.strip() in FAMILIES and function_problem(text) is not None:
        parts = split_outside_quotes(rest, ">")
        text = f"{head.strip()}:{'>'.join(str(class_named(part, dataset.classes)) for part in parts)}"
    function = target_function(text)
    if problem := function_problem(text, len(dataset.classes)):
        raise ConfigError(f"The target function {problem}.", "Choose another class.", {"target_function": problem})
    return function


def _read(text: str, dataset: Dataset) -> tuple[Target, ...]:
    if isinstance(text, str):
        for cls in KINDS.values():
            if match := cls.pattern.fullmatch(text):
                target = cls.from_match(match)
                target.check(dataset)
                return (target,)
        for cls in KINDS.values():
            targets = cls.read(text, dataset)
            if targets is not None:
                for target in (targets[0], targets[-1]):
                    target.check(dataset)
                return targets
    problem = not_a_target(text)
    raise ConfigError(f"The target {problem}.", "Correct it and start again.", {"targets": problem})

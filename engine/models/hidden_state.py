"""What a module remembers beside its parameters and buffers, where a training step cannot see it.

Attributes (activations, counters, caches), the class's own attributes, what methods and hooks close
over or reach as globals, and Python's and NumPy's generators. `fingerprints` turns all of it into
values that can be compared from pass to pass; `Attributes` puts the attributes back.
"""

import functools
import random
import types
from collections.abc import Iterator

import numpy as np
from torch import nn

from engine.models.prints import data_of, is_data, print_of, reached

# Of `nn.Module` itself: parameters, buffers and submodules pass through the functional call, and the
# mode is set before each pass.
_OWN = frozenset(vars(nn.Module())) | {"_is_full_backward_hook"}

_REGISTERED = ("_parameters", "_buffers", "_modules")

_DEPTH = 6  # of containers within containers

Path = str


def fingerprints(module: nn.Module) -> dict[Path, object]:
    """By a name for people, such as «self.calls of features.3»."""
    prints: dict[Path, object] = {}
    seen: set[int] = set()  # functions
    for path, part in module.named_modules():
        of = f" of {path or type(part).__name__}"
        for name, value in vars(part).items():
            if name not in _OWN:
                prints[f"self.{name}{of}"] = print_of(value)
        prints[f"its buffers{of}"] = tuple(part._buffers), tuple(part._parameters), tuple(part._modules)
        for cls in type(part).__mro__:
            if not cls.__module__.startswith(("torch.", "engine.")) and cls is not object:
                prints.update((f"{cls.__name__}.{name}", value) for name, value in data_of(cls).items())
        for function in _functions(part):
            whose = getattr(function, "__qualname__", type(function).__qualname__)
            for name, value in reached(function, seen):
                prints[f"«{name}» of {whose}"] = value
        for hook in _hooks(part):
            if is_data(hook):  # an object that is called
                prints[f"a hook{of}, {type(hook).__qualname__}"] = print_of(hook)
    return prints


def process_generators() -> tuple[object, object]:
    """Python's and NumPy's, which other threads may move too."""
    return random.getstate(), print_of(np.random.get_state())


class Attributes:
    """The attributes of a module and its parts as they are, to be put back after a pass; and what it has registered.

    A pass may keep an activation in an attribute. What torch wraps tensors in while it differentiates
    must not outlive it there.
    """

    def __init__(self, module: nn.Module):
        self._parts = [
            (
                part,
                dict(vars(part)),
                [*_copies(vars(part)), *((vars(part)[k], dict(vars(part)[k])) for k in _REGISTERED)],
            )
            for part in module.modules()
        ]

    def put_back(self) -> None:
        for part, values, contents in self._parts:
            now = vars(part)
            if now.keys() != values.keys() or any(now[name] is not value for name, value in values.items()):
                now.clear()
                now.update(values)
            for container, content in contents:
                if isinstance(container, list):
                    container[:] = content
                elif isinstance(container, set):
                    container.clear()
                    container.update(content)
                else:
                    container.clear()
                    container.update(content)


def _copies(values: dict[str, object]) -> list[tuple]:
    """Each list, dict and set that an attribute holds, with its content."""
    found: list[tuple] = []

    def visit(value: object, depth: int) -> None:
        if depth > _DEPTH:
            return
        if isinstance(value, list | set):
            found.append((value, list(value)))
            for entry in value:
                visit(entry, depth + 1)
        elif isinstance(value, dict):
            found.append((value, dict(value)))
            for entry in value.values():
                visit(entry, depth + 1)
        elif isinstance(value, tuple):
            for entry in value:
                visit(entry, depth + 1)

    for name, value in values.items():
        if name not in _OWN:
            visit(value, 0)
    return found


def _functions(part: nn.Module) -> Iterator[object]:
    """Methods of the user's own classes, functions in attributes, and the hooks that run in a pass forwards."""
    candidates = [*_hooks(part), *vars(part).values()]
    for cls in type(part).__mro__:
        if not cls.__module__.startswith(("torch.", "engine.")):
            candidates += [getattr(value, "__func__", value) for value in vars(cls).values()]
    yield from (f for f in candidates if isinstance(f, types.FunctionType | types.MethodType | functools.partial))


def _hooks(part: nn.Module) -> list[object]:
    return [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]

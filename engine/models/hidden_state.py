"""What a module remembers beside its parameters and buffers, where a training step cannot see it.

Attributes (activations, counters, caches), the class's own attributes, what methods and hooks close
over or reach as globals, and Python's and NumPy's generators. `fingerprints` turns all of it into
values that can be compared from pass to pass; `Attributes` puts the attributes back.
"""

import collections
import hashlib
import itertools
import random
import types
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

# Of `nn.Module` itself: parameters, buffers and submodules pass through the functional call, and the
# mode is set before each pass.
_OWN = frozenset(vars(nn.Module())) | {"_is_full_backward_hook"}

_REGISTERED = ("_parameters", "_buffers", "_modules")

_DEPTH = 6  # of containers within containers

Path = str


def fingerprints(module: nn.Module) -> dict[Path, object]:
    """By a name for people, such as «self.calls of features.3»."""
    prints: dict[Path, object] = {}
    for path, part in module.named_modules():
        of = f" of {path or type(part).__name__}"
        for name, value in vars(part).items():
            if name not in _OWN:
                prints[f"self.{name}{of}"] = _print(value)
        prints[f"its buffers{of}"] = tuple(part._buffers), tuple(part._parameters), tuple(part._modules)
        for cls in type(part).__mro__:
            if not cls.__module__.startswith(("torch.", "engine.")) and cls is not object:
                for name, value in vars(cls).items():
                    if _is_data(value):
                        prints[f"{cls.__name__}.{name}"] = _print(value)
        for function in _functions(part):
            for name, value in _reached(function):
                prints[f"«{name}» of {function.__qualname__}"] = _print(value)
    return prints


def process_generators() -> tuple[object, object]:
    """Python's and NumPy's, which other threads may move too."""
    return random.getstate(), _print(np.random.get_state())


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


def _functions(part: nn.Module) -> Iterator[types.FunctionType]:
    """Methods of the user's own classes, and the hooks that run in a pass forwards."""
    for cls in type(part).__mro__:
        if not cls.__module__.startswith(("torch.", "engine.")):
            yield from (f for f in vars(cls).values() if isinstance(f, types.FunctionType))
    for hooks in (part._forward_hooks, part._forward_pre_hooks):
        for hook in hooks.values():
            hook = getattr(hook, "__func__", hook)
            if isinstance(hook, types.FunctionType) and not hook.__module__.startswith("torch."):
                yield hook
    forward = vars(part).get("forward")
    if isinstance(forward, types.FunctionType):
        yield forward


def _reached(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        if _is_data(value):
            yield name, value
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if _is_data(value):
            yield name, value
    for name, value in (function.__kwdefaults__ or {}).items():
        if _is_data(value):
            yield name, value
    for value in function.__defaults__ or ():
        if _is_data(value):
            yield "default", value


_DATA = (
    Tensor,
    np.ndarray,
    bool,
    int,
    float,
    complex,
    str,
    list,
    dict,
    set,
    tuple,
    collections.deque,
    np.random.Generator,
    np.random.RandomState,
    random.Random,
    torch.Generator,
    itertools.count,
)


def _is_data(value: object) -> bool:
    return isinstance(value, _DATA)


def _print(value: object, depth: int = 0, seen: tuple[int, ...] = ()) -> object:
    """A value that is equal where `value` is: numbers as they are, arrays by their SHA-256."""
    simple: dict[type, Callable] = {
        np.random.Generator: lambda v: repr(v.bit_generator.state),
        np.random.RandomState: lambda v: _print(v.get_state()),
        random.Random: lambda v: v.getstate(),
        torch.Generator: lambda v: _print(v.get_state()),
        itertools.count: repr,
    }
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)  # so that nan equals itself
    if isinstance(value, Tensor):
        value = value.detach()
        if value.is_meta or value.is_sparse or value.is_quantized:
            return str(value.dtype), tuple(value.shape)
        raw = value.cpu().resolve_conj().resolve_neg().contiguous().flatten()
        raw = raw.view(torch.uint8) if raw.numel() else raw
        return str(value.dtype), tuple(value.shape), hashlib.sha256(raw.numpy().data).hexdigest()
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return tuple(_print(v, depth + 1) for v in value.flat) if depth < _DEPTH else "…"
        return str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    for kind, of in simple.items():
        if isinstance(value, kind):
            return of(value)
    if depth > _DEPTH or id(value) in seen:
        return "…"
    seen = (*seen, id(value))
    if isinstance(value, list | tuple | collections.deque):
        return type(value).__name__, tuple(_print(v, depth + 1, seen) for v in value)
    if isinstance(value, dict):
        return tuple((repr(k) if _is_data(k) else type(k), _print(v, depth + 1, seen)) for k, v in value.items())
    if isinstance(value, set | frozenset):
        return frozenset(_print(v, depth + 1, seen) for v in value)
    if isinstance(value, nn.Module):  # one that hangs in a list, and not in the model
        state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        return tuple((k, _print(v)) for k, v in state.items())
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType | type | types.ModuleType):
        return getattr(value, "__qualname__", type(value).__name__)
    if hasattr(value, "__dict__"):
        return type(value).__qualname__, tuple((k, _print(v, depth + 1, seen)) for k, v in vars(value).items())
    return type(value).__qualname__

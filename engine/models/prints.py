"""What values and functions hold, as values that can be compared from pass to pass.

`print_of(value)` is equal where the value is: numbers as they are, arrays by their SHA-256, objects by their content.
`reached(function)` goes through what a person's function can read and write: closures, globals, defaults, its own
attributes, the attributes that it names of modules, and the person's functions, classes and objects behind those.
"""

import functools
import hashlib
import itertools
import random
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

_DEPTH = 6  # of containers within containers

_FUNCTIONS = 5000  # that are followed in all


def reached(function: object, seen: set[int] | None = None) -> Iterator[tuple[str, object]]:
    """Name and print of each value that may hold a state."""
    seen = set() if seen is None else seen
    if id(function) in seen or len(seen) > _FUNCTIONS:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        yield from reached(function.func, seen)
        yield "an argument", print_of((function.args, function.keywords))
    elif isinstance(function, types.MethodType):
        yield from reached(function.__func__, seen)
        if not isinstance(function.__self__, nn.Module):
            yield type(function.__self__).__name__, print_of(function.__self__)
    elif isinstance(function, types.FunctionType):
        for name, value in _read_by(function):
            yield from _behind(name, value, function, seen)


def _read_by(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]
    yield from (function.__kwdefaults__ or {}).items()
    yield from (("default", value) for value in function.__defaults__ or ())
    if vars(function):
        yield function.__name__, vars(function)


def _behind(name: str, value: object, function: types.FunctionType, seen: set[int]) -> Iterator[tuple[str, object]]:
    if isinstance(value, nn.Module):
        return
    if isinstance(value, types.ModuleType):
        for attribute in function.__code__.co_names:
            inner = vars(value).get(attribute)
            if is_data(inner) or _is_persons(value.__name__):
                yield from _behind(f"{name}.{attribute}", inner, function, seen)
    elif isinstance(value, types.FunctionType | types.MethodType | functools.partial):
        if _is_persons(getattr(value, "__module__", None) or function.__module__):
            yield from reached(value, seen)
    elif isinstance(value, type):
        if _is_persons(value.__module__) and not issubclass(value, nn.Module):
            yield name, print_of({k: v for k, v in vars(value).items() if is_data(v)})
            for method in vars(value).values():
                yield from reached(getattr(method, "__func__", method), seen)
    elif is_data(value):
        yield name, print_of(value)


def data_of(cls: type) -> dict[str, object]:
    """Prints, by name, of a class's attributes that may hold a state."""
    return {name: print_of(value) for name, value in vars(cls).items() if is_data(value)}


# Values of the standard library, NumPy and torch that may hold a state; objects of a person's classes do too.
_DATA = (
    Tensor, np.ndarray, bool, int, float, complex, str, bytes, bytearray, memoryview, list, dict, set, tuple,
    np.random.Generator, np.random.RandomState, random.Random, torch.Generator, threading.local,
)  # fmt: skip

_STATEFUL_MODULES = ("collections", "itertools", "array", "_ctypes", "ctypes", "os", "types", "queue")


def is_data(value: object) -> bool:
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.ModuleType | nn.Module):
        return False
    kind = type(value)
    return (
        isinstance(value, _DATA)
        or kind.__module__ in _STATEFUL_MODULES
        or _is_iterator(value)
        or _is_persons(kind.__module__)
    )


def _is_iterator(value: object) -> bool:
    return type(value).__module__ == "builtins" and hasattr(value, "__next__")


@functools.cache
def _is_persons(module: str) -> bool:
    """Whether a module is a person's own: none of Python, of an installed package or of this project."""
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or root in ("torch", "numpy", "engine"):
        return False
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" not in path and "dist-packages" not in path


def print_of(value: object, depth: int = 0, seen: tuple[int, ...] = ()) -> object:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | bytearray):
        return repr(value)  # so that nan equals itself
    if isinstance(value, Tensor):
        return _print_of_tensor(value.detach())
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return tuple(print_of(v, depth + 1) for v in value.flat) if depth < _DEPTH else "…"
        return str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    for kind, of in _GENERATORS.items():
        if isinstance(value, kind):
            return of(value)
    if depth > _DEPTH or id(value) in seen:
        return "…"
    seen = (*seen, id(value))
    if isinstance(value, dict):
        return tuple((repr(k) if is_data(k) else type(k), print_of(v, depth + 1, seen)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(print_of(v, depth + 1, seen) for v in value)
    if isinstance(value, set | frozenset):
        return frozenset(print_of(v, depth + 1, seen) for v in value)
    if isinstance(value, nn.Module):  # one that hangs in a list, and not in the model
        state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        return tuple((k, print_of(v)) for k, v in state.items())
    no_data = types.FunctionType | types.BuiltinFunctionType | types.MethodType | type | types.ModuleType
    if isinstance(value, no_data) or type(value).__module__.startswith("engine."):
        return getattr(value, "__qualname__", type(value).__name__)
    return type(value).__qualname__, print_of(_content(value), depth + 1, seen)


_GENERATORS: dict[type, Callable] = {
    np.random.Generator: lambda v: repr(v.bit_generator.state),
    np.random.RandomState: lambda v: print_of(v.get_state()),
    random.Random: lambda v: v.getstate() if type(v) is not random.SystemRandom else "",
    torch.Generator: lambda v: print_of(v.get_state()),
    itertools.count: repr,
    types.GeneratorType: lambda v: print_of(v.gi_frame and (v.gi_frame.f_lasti, v.gi_frame.f_locals)),
}


def _content(value: object) -> object:
    """What a pickle of it would hold: attributes, slots, the place of an iterator."""
    if isinstance(value, threading.local):
        return vars(value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reduced = value.__reduce_ex__(4)
    except Exception:  # it is none that can be pickled, for whatever reason of its own
        return vars(value) if hasattr(value, "__dict__") else None
    if isinstance(reduced, str):
        return reduced
    return [list(part) if hasattr(part, "__next__") else part for part in reduced[1:]]


def _print_of_tensor(value: Tensor) -> object:
    if value.is_meta or value.is_nested:
        return str(value.dtype), "…"
    if value.is_quantized:
        return str(value.dtype), _print_of_tensor(value.int_repr())
    if value.layout == torch.sparse_coo:
        value = value.coalesce()
        return tuple(value.shape), _print_of_tensor(value.indices()), _print_of_tensor(value.values())
    if value.layout != torch.strided:
        return str(value.layout), _print_of_tensor(value.to_dense())
    raw = value.cpu().resolve_conj().resolve_neg().contiguous().flatten()
    raw = raw.view(torch.uint8) if raw.numel() else raw
    return str(value.dtype), tuple(value.shape), hashlib.sha256(raw.numpy().data).hexdigest()

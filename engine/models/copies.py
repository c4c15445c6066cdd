"""A copy of a person's module to work with, which shares nothing that a pass could change with the one given.

`copy.deepcopy` leaves three things to do: what `torch.compile` wrapped is unwrapped; kept activations, which torch
refuses to copy, become values without a graph; and functions, which are never copied, are made anew where they hold a
part of the module that was given: a hook that writes to `self`, a `forward` that calls the one before it.
"""

import copy
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ModelError, ReplayError

_DEPTH = 6  # of functions and containers within each other

_TENSORS_AND_PARTS = ("_parameters", "_buffers", "_modules")  # of a module's attributes: not attributes of a person's


def is_compiled(part: nn.Module) -> bool:
    """Whether `torch.compile` made it, by wrapping, in place, or one of its methods."""
    return (
        _is_wrapper(part)
        or getattr(part, "_compiled_call_impl", None) is not None
        or any(_compiled_from(value) is not None for value in vars(part).values())
    )


def copied(module: nn.Module) -> nn.Module:
    """See the module's docstring. Raises `ModelError`, with the attribute's name, for what cannot be copied."""
    memo: dict[int, object] = {}
    parts = list(module.modules())
    try:
        for value in attribute_tensors(module):
            if not isinstance(value, nn.Parameter) and (new := _view_or_value(value, module, memo)) is not None:
                memo[id(value)] = new
        for part in reversed(parts):  # the inner ones first
            if _is_wrapper(part):
                memo[id(part)] = copy.deepcopy(part._orig_mod, memo)
        copy_of_it = copy.deepcopy(module, memo)
        originals = {id(t) for part in parts for t in (part, *part._parameters.values(), *part._buffers.values())}
        rebind = _Rebind(originals - {id(None)}, memo)
        for part in copy_of_it.modules():
            if part._compiled_call_impl is not None:
                part._compiled_call_impl = None
            for name, value in list(vars(part).items()):
                if name not in _TENSORS_AND_PARTS and (new := rebind(value)) is not value:
                    vars(part)[name] = new
            for hooks in (part._forward_hooks, part._forward_pre_hooks):
                hooks.update((k, rebind(hook)) for k, hook in list(hooks.items()))
        return copy_of_it
    except ReplayError:
        raise
    except Exception as error:
        raise ModelError(
            f"The model cannot be copied{_obstacle(module)}: {first_line(error).rstrip('.')}.",
            "Take open files, locks, generators and the like out of its attributes.",
        ) from error


def unwrapped_names(module: nn.Module) -> Callable[[str], str]:
    """From a name within `module` to that within its copy, where nothing is wrapped by `torch.compile`."""
    wrappers = {path for path, part in module.named_modules(remove_duplicate=False) if _is_wrapper(part)}

    def unwrapped(name: str) -> str:
        pieces = name.split(".")
        inside = [i for i, piece in enumerate(pieces) if piece == "_orig_mod" and ".".join(pieces[:i]) in wrappers]
        return ".".join(piece for i, piece in enumerate(pieces) if i not in inside)

    return unwrapped


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def attribute_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors in attributes that are neither parameters nor buffers."""

    def visit(value: object, depth: int) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, nn.Module):
            return
        elif depth < _DEPTH and isinstance(value, list | tuple | set):
            for entry in value:
                yield from visit(entry, depth + 1)
        elif depth < _DEPTH and isinstance(value, dict):
            for entry in value.values():
                yield from visit(entry, depth + 1)
        elif depth < _DEPTH and hasattr(value, "__dict__") and not isinstance(value, type):
            yield from visit(vars(value), depth + 1)

    for part in module.modules():
        yield from visit({k: v for k, v in vars(part).items() if k not in _TENSORS_AND_PARTS}, 0)


def _view_or_value(value: Tensor, module: nn.Module, memo: dict[int, object]) -> Tensor | None:
    """The copy of a tensor in an attribute where `copy.deepcopy` makes none, or not the right one: of a view of a
    parameter the same view of the parameter's copy, so that it is seen to be read; of what hangs in a graph its value.
    """
    if value.layout == torch.strided and not value.is_meta and value.numel():
        address = value.untyped_storage().data_ptr()
        for parameter in module.parameters():
            if parameter.layout == torch.strided and address == parameter.untyped_storage().data_ptr():
                new = copy.deepcopy(parameter, memo)
                offset = value.storage_offset() - parameter.storage_offset()
                last = offset + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
                if new.stride() == parameter.stride() and 0 <= offset <= last < new.numel():
                    return new.detach().as_strided(value.shape, value.stride(), offset)
    return None if value.is_leaf else value.detach().clone()


def _is_wrapper(part: nn.Module) -> bool:
    # By its name, since importing the class takes seconds.
    return type(part).__name__ == "OptimizedModule" and isinstance(getattr(part, "_orig_mod", None), nn.Module)


def _compiled_from(value: object) -> Callable | None:
    return getattr(value, "_torchdynamo_orig_callable", None) if isinstance(value, types.FunctionType) else None


class _Rebind:
    """From a value to one that holds the copies of what the value holds of the `originals`; itself where it holds none.

    `memo`: the copies, by the ids of the originals, as `copy.deepcopy` keeps them.
    """

    def __init__(self, originals: set[int], memo: dict[int, object]):
        self.originals, self.memo = originals, memo

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if depth > _DEPTH:
            return value
        if id(value) in self.originals:
            return copy.deepcopy(value, self.memo)
        if isinstance(value, types.FunctionType):
            if (inner := _compiled_from(value)) is not None:
                return self(inner, depth + 1)
            return self._function(value, depth)
        if isinstance(value, types.MethodType):
            owner, function = self(value.__self__, depth + 1), self(value.__func__, depth + 1)
            same = owner is value.__self__ and function is value.__func__
            return value if same or not callable(function) else types.MethodType(function, owner)
        if isinstance(value, functools.partial):
            function, args, keywords = (self(v, depth + 1) for v in (value.func, value.args, value.keywords))
            same = function is value.func and args is value.args and keywords is value.keywords
            return value if same else functools.partial(function, *args, **keywords)
        if type(value) in (list, tuple):
            entries = [self(v, depth + 1) for v in value]
            return value if all(a is b for a, b in zip(entries, value, strict=True)) else type(value)(entries)
        if type(value) is dict:
            table = {k: self(v, depth + 1) for k, v in value.items()}
            return value if all(table[k] is v for k, v in value.items()) else table
        return value

    def _function(self, function: types.FunctionType, depth: int) -> types.FunctionType:
        cells, changed = [], False
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not bound yet
                cells.append(cell)
                continue
            new = self(content, depth + 1)
            # A cell that holds nothing of the module stays the one that other functions share.
            cells.append(cell if new is content else types.CellType(new))
            changed = changed or new is not content
        defaults = self(function.__defaults__, depth + 1)
        keywords = self(function.__kwdefaults__, depth + 1)
        if not changed and defaults is function.__defaults__ and keywords is function.__kwdefaults__:
            return function
        new = types.FunctionType(function.__code__, function.__globals__, function.__name__, defaults, tuple(cells))
        new.__kwdefaults__, new.__qualname__, new.__module__ = keywords, function.__qualname__, function.__module__
        vars(new).update(vars(function))
        return new


def _obstacle(module: nn.Module) -> str:
    """The attribute that cannot be copied, for the sentence."""
    parts = {
        f"«{path}» ({type(part).__name__})" if path else type(part).__name__: part
        for path, part in module.named_modules()
    }
    for of, part in parts.items():
        for name, value in vars(part).items():
            if name not in _TENSORS_AND_PARTS and not isinstance(value, nn.Module):
                try:
                    copy.deepcopy(value)
                except Exception:
                    return f", for the attribute «{name}» of {of} cannot"
    forbids = next((of for of, part in parts.items() if hasattr(type(part), "__deepcopy__")), None)
    return f", for {forbids} does not allow it" if forbids else ""

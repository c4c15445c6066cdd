"""Modules that cannot be replayed whatever their passes do: refused at sight, by name and with the way out.

What only a pass can show is found by `engine.core.check`.
"""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from engine.errors import ModelError


def check_module(module: object) -> None:
    """Raises `ModelError` for what is no module, for one that has no trainable parameter, and for one of whose parts
    or tensors a functional call can make nothing."""
    if not isinstance(module, nn.Module):
        what = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
        remedy = "Make one: call the class." if isinstance(module, type) else "Wrap it in one."
        raise ModelError(f"The model is {what}, not an nn.Module.", remedy)
    if "_parameters" not in vars(module):
        raise ModelError(
            f"The model's {type(module).__name__}.__init__ does not call super().__init__().", "Call it there first."
        )
    for path, part in module.named_modules():
        _check_part(path, part)
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for name, tensor in tensors:
            _check_tensor(f"The {kind} «{name}»", tensor, kind)
    _check_trainable(module)
    _check_memory(module)


def _check_part(path: str, part: nn.Module) -> None:
    where = f"The module «{path}»" if path else "The model"
    if isinstance(part, torch.jit.ScriptModule):
        raise ModelError(
            f"{where} is compiled by torch.jit, and runs on no parameters but its own.",
            "Give the module that was scripted or traced.",
        )
    if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ModelError(
            f"{where} is a {type(part).__name__}, which spreads a module over devices.",
            "Give the module inside, its `.module`.",
        )
    if part._backward_hooks or part._backward_pre_hooks:
        raise ModelError(
            f"{where} ({type(part).__name__}) has a backward hook, which a step cannot see.",
            "Remove the hook, or write what it does to gradients into the model.",
        )


def _check_tensor(what: str, tensor: Tensor, kind: str) -> None:
    if is_lazy(tensor):
        raise ModelError(
            f"{what} of a lazy module has no shape yet.",
            "Run the model once on an example, or use a module that is told its sizes.",
        )
    if tensor.is_meta:
        raise ModelError(f"{what} is on the device meta, without values.", "Load the weights: to_empty(), then a file.")
    if tensor.layout != torch.strided:
        form = str(tensor.layout).removeprefix("torch.")
        raise ModelError(f"{what} is a tensor of layout {form}.", "Make it a dense one, with .to_dense().")
    if kind == "buffer" and not tensor.is_leaf:
        raise ModelError(
            f"{what} was computed from parameters, and hangs in the graph of that.",
            "Register it detached, or compute it in forward.",
        )


def _check_trainable(module: nn.Module) -> None:
    trainable = {k: p for k, p in module.named_parameters() if p.requires_grad}
    if not trainable:
        raise ModelError("The model has no trainable parameter.", "Set requires_grad=True on some.")
    for name, parameter in trainable.items():
        if not parameter.is_floating_point():
            raise ModelError(f"The parameter «{name}» is {parameter.dtype}.", "Train real, floating-point parameters.")
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ModelError(
                f"The parameter «{name}» has a hook on its gradient, which a step cannot see.",
                "Remove the hook, or write what it does into the model.",
            )
    given = {id(p) for p in module.parameters() if p.requires_grad}
    for _, part in module.named_modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.requires_grad and id(parameter) not in given:
                raise ModelError(
                    f"The model's own parameters() leaves «{name}» of {type(part).__name__} out, which is trainable.",
                    "Set requires_grad=False on what is not to be trained, and leave parameters() as it is.",
                )


def _check_memory(module: nn.Module) -> None:
    """A step trains each tensor by itself: two that share memory would move each other."""
    slots = [
        (f"{path}.{name}" if path else name, tensor)
        for path, part in module.named_modules()
        for name, tensor in [*part._parameters.items(), *part._buffers.items()]
        if tensor is not None
    ]
    by_storage: dict[tuple, list[tuple[str, Tensor]]] = {}
    for name, tensor in slots:
        if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
            others = by_storage.setdefault((tensor.device, tensor.untyped_storage().data_ptr()), [])
            if not any(tensor is other and isinstance(tensor, nn.Parameter) for _, other in others):  # else it is tied
                others.append((name, tensor))
    for shared in by_storage.values():
        if len(shared) > 1 and (pair := _overlapping(shared)):
            raise ModelError(
                f"«{pair[0]}» and «{pair[1]}» share memory, so that a change of one changes the other.",
                "Tie parameters by giving both modules the same nn.Parameter, and register a buffer once; clone the "
                "rest.",
            )


def _overlapping(tensors: list[tuple[str, Tensor]]) -> tuple[str, str] | None:
    """Names of two tensors of one storage that have a byte in common."""
    taken = torch.zeros(tensors[0][1].untyped_storage().nbytes(), dtype=torch.uint8)
    for i, (name, tensor) in enumerate(tensors):
        item = tensor.element_size()
        own = taken.as_strided(
            (*tensor.shape, item), (*(s * item for s in tensor.stride()), 1), tensor.storage_offset() * item
        )
        if int(own.max()):
            number = int(own.max()) - 1
            return tensors[number][0], name
        own.fill_(min(i, 253) + 1)
    return None

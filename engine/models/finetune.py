"""Fine-tuning: first weights from a file, and parts that are not trained.

Weights come as safetensors, or as what `torch.save` wrote of a state dict, read with `weights_only=True`, which runs no
code. A head of another size keeps its own first weights, and is named; whatever else does not fit is refused.
"""

import fnmatch
import hashlib
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from engine.errors import ModelError

SHOWN = 4  # names in a message

PREFIXES = ("module.", "_orig_mod.", "model.")  # that DistributedDataParallel, torch.compile and trainers put before

WRAPPERS = ("state_dict", "model_state_dict", "model")  # entries that hold the state dict in a trainer's file


def sha256_of(path: Path) -> str:
    """Raises `ModelError` where the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def load_initial(module: nn.Module, path: Path) -> list[str]:
    """Copies the file's tensors into parameters and buffers of the same names; returns what was left as it was.

    The last layer (all tensors of the last module that has parameters of its own) may have another shape, or be
    missing: it keeps its first weights. Raises `ModelError` for a file that cannot be read, and for weights of
    another model: tensors that are missing, left over or of another shape elsewhere.
    """
    weights = _read(path)
    own = module.state_dict()
    for prefix in PREFIXES:
        if weights.keys().isdisjoint(own) and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    head = _head(module)
    unlike = {k for k in weights.keys() & own.keys() if weights[k].shape != own[k].shape}
    # A counter of batches, which neither norm nor replay reads, is not in every file.
    missing = {k for k in own.keys() - weights.keys() if not k.endswith("num_batches_tracked")}
    extra = weights.keys() - own.keys()
    fits = own.keys() & weights.keys() - unlike
    whole = [f"{name} {_shape(weights[name])}, here {_shape(own[name])}" for name in sorted(unlike - head)]
    faults = [
        f"{what} {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for what, names in (
            ("other shapes:", whole),
            ("missing:", sorted(missing - head)),
            ("unknown here:", sorted(extra) if missing - head or not fits else []),
        )
        if names
    ]
    if faults or not fits:
        raise ModelError(
            f"The weights in {path} are of another model: {'; '.join(faults) or 'no name is the same'}.",
            "Name the file that belongs to this model, with the options that it was made with.",
        )
    for name in fits:
        if not weights[name].isfinite().all():
            raise ModelError(f"The tensor «{name}» in {path} is not finite.", "Save the weights of a sound training.")
    fresh = sorted((unlike | missing) & head)
    if fresh:
        for name in sorted(head & fits):  # a layer is of one piece: its bias does not come from another one's
            fits = fits - {name}
            fresh.append(name)
    with torch.no_grad():
        for name in fits:
            own[name].copy_(weights[name])
    notes = [f"First weights from {path.name}: {len(fits)} tensors."]
    if fresh:
        notes.append(f"The last layer begins anew, for its size differs: {', '.join(fresh)}.")
    if extra:
        listed = ", ".join(sorted(extra)[:SHOWN])
        notes.append(f"Tensors in {path.name} that the model has no place for: {listed}.")
    return notes


def freeze(module: nn.Module, patterns: str, evaluation: bool = False) -> list[str]:
    """No parameter whose name one of the `patterns` matches is trained: shell wildcards, separated by commas; a
    module's name stands for all in it. Each part keeps its mode; with `evaluation`, a part in which nothing is trained
    goes into evaluation mode, so that its norms and its dropout rest.

    Raises `ModelError` for a pattern that matches nothing, and where nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    frozen: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        matches = {name for name in names if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not pattern or not matches:
            raise ModelError(
                f"No parameter is called like «{pattern}», which is to be frozen.",
                f"Names are such as {', '.join([*names[:SHOWN], names[-1]]) if names else 'none'}.",
            )
        frozen |= matches
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in frozen:
            parameter.requires_grad_(False)
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise ModelError(f"The patterns {patterns!r} freeze every parameter.", "Leave something to train.")
    if evaluation:
        for part in module.modules():
            own = list(part.parameters())
            if own and not any(p.requires_grad for p in own):
                part.eval()
    count = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    return [f"Frozen: {count:,} of {count + sum(p.numel() for p in trained):,} parameters."]


def _head(module: nn.Module) -> set[str]:
    """Names of the tensors of the last module that has parameters of its own."""
    last = [path for path, part in module.named_modules() if next(part.parameters(recurse=False), None) is not None][
        -1:
    ]
    return {name for name in module.state_dict() for path in last if name.rpartition(".")[0] == path}


def _read(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, on the CPU."""
    try:
        with path.open("rb") as file:
            begins = file.read(16)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        if zipfile.is_zipfile(path) or begins[:1] == b"\x80":
            values = torch.load(path, map_location="cpu", weights_only=True)
        else:
            values = load_safetensors(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # whatever a damaged file makes of either reader
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path} holds no weights that can be read safely: {reason:.300}",
            "Save the model's state_dict() with safetensors, or with torch.save.",
        ) from error
    for name in WRAPPERS:
        if isinstance(values, dict) and isinstance(values.get(name), dict):
            values = values[name]
    if not isinstance(values, dict) or not values or not all(isinstance(v, Tensor) for v in values.values()):
        raise ModelError(
            f"{path} holds no state dict: {type(values).__name__} instead of tensors by name.",
            "Save the model's state_dict(), not the model.",
        )
    return {str(name): tensor for name, tensor in values.items()}


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _unreadable(path: Path, error: OSError | ValueError) -> ModelError:
    reason = getattr(error, "strerror", None) or str(error)
    return ModelError(f"The first weights {path} cannot be read ({reason}).", "Name the file of the weights.")

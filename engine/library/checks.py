"""What the arguments of the library's functions must be: each fault is named with its remedy before the work begins."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from engine import device as devices
from engine.config import CHOICES, LISTS, RANGES, Recipe, RunConfig, first_step, problems, window_problem
from engine.core.state import State
from engine.core.stream import Examples
from engine.errors import ConfigError, ModelError
from engine.library.inputs import Inputs, Labels, given
from engine.library.trained import Trained, check_trained
from engine.models.copies import first_line
from engine.models.functional import FunctionalModel
from engine.targets.functions import examples, function_problem

LOOKED_AT = 1 << 22  # numbers that are looked at together


@contextlib.contextmanager
def computing(model: FunctionalModel) -> Iterator[None]:
    """Exact arithmetic, whatever autocast the caller is in; failures of the model's own code, and of memory, named."""
    try:
        with devices.exact_arithmetic(), torch.autocast(model.theta0.device.type, enabled=False), model.errors():
            yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError(
            f"Memory ran out ({first_line(error)}).",
            "Use a smaller batch, carry fewer targets at a time (targets_per_pass=1), or keep the trajectory in a "
            "folder.",
        ) from error


def check_state(state: State, trained: State) -> None:
    right = isinstance(state, State) and all(
        part.shape == own.shape and part.dtype == own.dtype and part.device == own.device
        for part, own in ((state.theta, trained.theta), (state.buffers, trained.buffers))
    )
    if not right:
        raise ConfigError("`state` is no state of this training.", "Give what `retrain` gives for it.")


def targets_data(trained: Trained, inputs: Inputs, labels: Labels | None) -> Examples:
    """What is asked about, as the model takes it: of a network with a frozen trunk, its features."""
    check_trained(trained)
    dtype, device = trained.state.theta.dtype, trained.state.theta.device
    asked = given(inputs, labels, dtype)
    check_tensors(asked.inputs, asked.labels, dtype)
    shape = trained.shape
    if tuple(asked.inputs.shape[1:]) != shape:
        raise ConfigError(
            f"`inputs` are of shape {tuple(asked.inputs.shape)}, and the model was trained on images of {shape}.",
            f"Give a tensor of shape [M{''.join(f', {s}' for s in shape)}].",
        )
    check_labels(asked.labels, trained.classes, "target")
    data = Examples(asked.inputs.detach().to(device), asked.labels.to(device), dtype)
    return data if trained.trunk is None else trained.trunk.features(data)


def sets(targets: object, count: int) -> list[np.ndarray]:
    if targets is None:
        return [np.array([i]) for i in range(count)]
    remedy = f"Give a list of non-empty lists of indices from 0 to {count - 1}."
    try:
        if isinstance(targets, str | bytes | dict | set | frozenset):
            raise TypeError
        sets = [np.asarray(s) for s in targets]  # type: ignore[attr-defined]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError("`targets` must be a list of index sets.", remedy) from error
    if not sets:
        raise ConfigError("`targets` is empty.", remedy)
    for k, indices in enumerate(sets):
        if indices.size == 0:
            raise ConfigError(f"Target {k} names no image.", remedy)
        if indices.dtype.kind not in "iu":
            raise ConfigError(f"Target {k} has indices that are no whole numbers.", remedy)
        if (outside := indices[(indices < 0) | (indices >= count)]).size:
            raise ConfigError(f"Target {k} names image {outside.flat[0]}, and there are {count}.", remedy)
    return [s.astype(np.int64).reshape(-1) for s in sets]


def check_function(function: str, classes: int) -> None:
    if problem := function_problem(function, classes):
        raise ConfigError(
            f"The target function {problem}.", f"Choose one of {', '.join(examples())}.", {"function": problem}
        )


def check_tensors(inputs: Tensor, labels: Tensor, dtype: torch.dtype | None = None) -> None:
    """`dtype` is the one that the inputs are converted to, their own where not given."""
    if not _is_plain(inputs) or not inputs.is_floating_point() or inputs.dim() == 0:
        raise ConfigError(
            f"`inputs` must be floats [N, ...], pictures in uint8, or a Dataset, not {_form(inputs)}.",
            "Convert them, for example with torch.as_tensor(images).float() / 255.",
        )
    if (dtype or inputs.dtype) not in (torch.float32, torch.float64):
        raise ConfigError(
            f"`inputs` are {inputs.dtype}, in which a replay would be rounding.", "Convert them with inputs.float()."
        )
    if len(inputs) == 0:
        raise ConfigError("`inputs` has no image.", "Give at least one.")
    if not _is_plain(labels) or labels.dtype != torch.int64 or labels.shape != (len(inputs),):
        raise ConfigError(
            f"`labels` must be whole numbers [{len(inputs)}], one label an input, not {_form(labels)}.",
            "Convert them with torch.as_tensor(labels, dtype=torch.int64); one-hot ones with labels.argmax(1).",
        )
    if labels.min() < 0:
        i = int((labels < 0).nonzero()[0])
        raise ConfigError(f"A label is negative: that of input {i} is {int(labels[i])}.", "Number the classes from 0.")
    finite = _finite_rows(inputs.detach(), dtype or inputs.dtype)
    if not finite.all():
        bad = (~finite).nonzero()
        raise ConfigError(
            f"Input {int(bad[0])} is not finite: it holds nan or inf"
            + (f", as do {len(bad) - 1:,} others." if len(bad) > 1 else "."),
            "Leave it out or mend it. A standardisation of a constant image divides by zero.",
        )


def _finite_rows(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Bool [N]; looked at in pieces, for a look takes as much memory as what it looks at."""
    rows = max(1, LOOKED_AT // max(1, inputs[:1].numel()))
    return torch.cat([piece.to(dtype).isfinite().reshape(len(piece), -1).all(1) for piece in inputs.split(rows)])


def _is_plain(tensor: object) -> bool:
    """A tensor whose values can be read: neither sparse, nested or quantised nor on the device meta."""
    return (
        isinstance(tensor, Tensor)
        and not tensor.is_nested
        and tensor.layout == torch.strided
        and not tensor.is_meta
        and not tensor.is_quantized
    )


def _form(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if _is_plain(value):
        return f"{tuple(value.shape)} of {value.dtype}"
    kind = "on the device meta" if value.is_meta else "quantised" if value.is_quantized else "sparse or nested"
    return f"a tensor that is {kind}"


def check_labels(labels: Tensor, classes: int, what: str) -> None:
    if int(labels.max()) >= classes:
        i = int((labels >= classes).nonzero()[0])
        raise ConfigError(
            f"The label of {what} {i} is {int(labels[i])}, and the model has {classes} classes.",
            f"Labels go from 0 to {classes - 1}. The model must give logits [B, C] for C classes.",
        )


def check_number(name: str, value: int) -> None:
    problem = RANGES[name].problem(value)
    if problem is not None:
        raise ConfigError(f"`{name}` {problem}.", RANGES[name].what, {name: problem})


def window_of(window: float, steps: int) -> int:
    """The first of so many steps at which weights count."""
    if (problem := window_problem(window, steps)) is not None:
        raise ConfigError(
            f"`window` {problem}.",
            f"Give a fraction of the {steps:,} steps, such as 0.5, or a number of them from 1 to {steps - 1}; 0 is the "
            "whole training.",
            {"window": problem},
        )
    return first_step(window, steps)


def check_recipe(recipe: Recipe, n: int) -> None:
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"`recipe` is a {type(recipe).__name__}, not a Recipe.", "Write engine.Recipe(epochs=…, …).")
    faults = {
        name: problem
        for name, problem in problems(RunConfig(recipe=recipe), n_train=n).items()
        if name.startswith("recipe.")
    }
    if faults:
        first = next(iter(faults))
        table = {**RANGES, **CHOICES, **LISTS}
        what = f"Correct the recipe; {first} is: {table[first].what}" if first in table else "Correct the recipe."
        raise ConfigError("; ".join(f"{name} {problem}" for name, problem in faults.items()) + ".", what, faults)


def check_class_weights(recipe: Recipe, classes: int) -> None:
    if isinstance(recipe.class_weights, tuple) and len(recipe.class_weights) != classes:
        problem = f"has {len(recipe.class_weights)} numbers, and the model {classes} classes"
        raise ConfigError(
            f"recipe.class_weights {problem}.",
            'Give one number a class, or "balanced".',
            {"recipe.class_weights": problem},
        )


def check_weights(weights: Tensor, n: int, dtype: torch.dtype) -> None:
    if not _is_plain(weights) or weights.is_complex() or weights.shape != (n,):
        raise ConfigError(
            f"`weights` must be a tensor [{n}] of finite numbers, not {_form(weights)}.",
            "Give one weight an example, for example torch.ones(n) with zeros for those to leave out.",
        )
    finite = weights.detach().to(dtype).isfinite()
    if not finite.all():
        i = int((~finite).nonzero()[0])
        raise ConfigError(
            f"`weights` must be finite in {dtype}: that of example {i} is {float(weights[i]):g}.",
            "Give one finite weight an example; 0 leaves it out.",
        )

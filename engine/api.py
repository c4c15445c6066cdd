"""The engine on your own model and data: `train`, `attribute`, `retrain`, `evaluate`.

`inputs` and `labels` are tensors, arrays, lists of pictures, or a `Dataset` of torch (`engine.library.inputs`).
`progress` is None (a bar where somebody watches), True, False, or a function of (what is done, steps done, steps in
all), which may raise to stop.

Every error on purpose is an `engine.ReplayError` with what happened and what to do:

    ConfigError      an argument is out of its range, or not finite
    ModelError       the model cannot be trained, or not be replayed exactly
    DivergedError    training or replay left the finite numbers
    IntegrityError   a file of the trajectory is damaged, and what is trained again is not the same
    StorageError     the trajectory's folder is full or cannot be written
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine import device as devices
from engine import spelling
from engine.config import CHOICES, DEVICES, LISTS, RANGES, Recipe, RunConfig, problems
from engine.core import targets as target_values
from engine.core import training
from engine.core.check import check_model
from engine.core.replay import replay
from engine.core.state import State
from engine.core.stream import Examples, Stream
from engine.core.trunk import split
from engine.errors import ConfigError, ModelError
from engine.library import storing
from engine.library.inputs import Given, Inputs, Labels, given, numbers_of
from engine.library.progress import Progress, reported
from engine.library.trained import Trained, check_trained
from engine.library.trained import versions as versions_of
from engine.models.copies import first_line
from engine.models.functional import FunctionalModel
from engine.targets.functions import examples, function_problem

LOOKED_AT = 1 << 22  # numbers that are looked at together

TRAIN_HINTS = {
    **dict.fromkeys(
        ("transform", "transforms", "augment", "augmentation"),
        'Training images are varied by the recipe: Recipe(augment="flip,crop:4") (docs/augmentation.md).',
    ),
    **dict.fromkeys(("optimizer", "optimiser"), 'The optimizer is one of the recipe: Recipe(optimizer="adamw").'),
    **dict.fromkeys(("lr", "learning_rate"), "The highest learning rate is the recipe's: Recipe(peak_lr=0.05)."),
    **dict.fromkeys(("x", "X", "images", "data", "dataset"), "The training images are `inputs`."),
    **dict.fromkeys(("y", "targets"), "The classes of the training images are `labels`."),
    **dict.fromkeys(("sample_weight", "example_weights"), "The examples' weights are `weights`."),
    **{
        name: f"`{name}` is a field of the recipe: Recipe({name}=…)."
        for name in Recipe.__dataclass_fields__
        if name not in ("augment", "optimizer")
    },
}
"""By names that people try: where the thing is, a sentence each."""


@spelling.names_unknown(TRAIN_HINTS)
def train(
    model: nn.Module,
    inputs: Inputs,
    labels: Labels | None = None,
    recipe: Recipe = Recipe(),  # noqa: B008 a frozen value
    *,
    weights: Tensor | np.ndarray | None = None,
    device: str = "auto",
    replay_mode: str | None = None,
    trajectory_folder: str | Path | None = None,
    segment: int = 0,
    check: bool = True,
    progress: Progress = None,
) -> Trained:
    """Trains a copy of `model` with the recipe's optimizer and cross-entropy loss, keeping what a replay needs.

    `inputs` [N, ...], finite, float32 or float64 (its dtype is the precision of everything), or uint8 pictures, which
    become floats from 0 to 1, channels first; `labels` whole numbers [N], from 0 up. Tensors, arrays, lists of pictures
    of one size, or, without labels, a `Dataset` or `DataLoader` of torch (`help(engine.library.inputs)`). `weights` [N]
    of the examples, 1 each where not given. All are copied. `device` is "auto", "cpu" or "cuda".

    The model maps [B, ...] to logits [B, C]. Each of its modules is trained in the mode in which it is: call
    `model.train()` before, and `.eval()` on what is to stay frozen; an overridden `train` is respected.
    Attention runs through torch's math kernel, which is exact; dropout modules are replayed, functional dropout
    is refused.

    The trajectory, 4 bytes × (parameters + buffers) a step in float32, with Adam's moments 4 bytes ×
    (3 × parameters + buffers), is kept on the device (`replay_mode` "memory"), in `trajectory_folder`,
    which must exist and be empty ("disk", the default where a folder is given), or only every `segment`-th
    step with the optimizer's state, on the device or in the folder, and the rest trained again while
    replaying ("recompute"; `segment` 0 takes √T of T steps). The scores are the same bit for bit.

    Of an `nn.Sequential` or a torchvision ResNet whose first stages have no parameter that requires a gradient and
    rest in evaluation mode, these stages' features are computed once, and the rest is trained and replayed on them:
    scores are those without this to rounding. Not where the recipe augments, nor where the features would take more
    than a quarter of the device's memory.

    `check` first compares the model's derivatives with finite differences on eight examples, and looks for
    state and randomness that a step cannot see.

    `progress`: a bar where somebody watches (None), always (True), never (False), or a function of (what is done,
    steps done, steps in all). `trained.save` keeps the result.

    Raises `ConfigError` for arguments out of range or not finite, `ModelError` for a model that fails or
    cannot be replayed exactly, `DivergedError` where the loss stops being finite, `StorageError` where the
    folder is full or cannot be written.
    """
    data = given(inputs, labels)
    given_weights = None if weights is None else numbers_of(weights)
    _check_tensors(data.inputs, data.labels)
    _check_recipe(recipe, len(data.labels))
    _check_number("segment", segment)
    where = _device(device)
    mode, folder = storing.mode_and_folder(replay_mode, trajectory_folder)
    if given_weights is not None:
        _check_weights(given_weights, len(data.labels), data.inputs.dtype)
    functional = FunctionalModel(model, where, data.inputs.dtype)
    examples = _examples(data, where)
    w_N = torch.ones(examples.n) if given_weights is None else given_weights
    stream = Stream(examples, recipe, _copy(w_N, where).to(examples.dtype))
    with reported(progress, "train", stream.steps) as report, _computing(functional):
        classes = _classes(functional, examples)
        _check_class_weights(recipe, classes)
        if check:
            check_model(functional, stream.weighted(None))
        _check_labels(data.labels, classes, "input")
        trunk = split(functional, examples, recipe)
        if trunk is not None:
            functional, stream = trunk.rest, dataclasses.replace(stream, data=trunk.features(examples))
        trajectory = storing.trajectory(functional, stream, mode, folder, segment)
        losses: list[float] = []

        def after(done: int, new: list[float], rates: list[float]) -> None:
            losses.extend(new)
            report(done, f"loss {new[-1]:.3f}")

        state = training.train(functional, stream, trajectory, after)
    shape = tuple(data.inputs.shape[1:])
    versions = versions_of(functional, stream, state)
    return Trained(functional, stream, trajectory, state, classes, versions, shape, trunk, tuple(losses))


@spelling.names_unknown({})
def attribute(
    trained: Trained,
    inputs: Inputs,
    labels: Labels | None = None,
    *,
    function: str = "loss",
    targets: list | None = None,
    targets_per_pass: int = 0,
    progress: Progress = None,
) -> np.ndarray:
    """Scores float32 [K, N]: the derivative of each target with respect to each training weight.

    `inputs` [M, ...] and `labels` [M], in the forms that `train` takes, are the images to explain. Each is a target,
    K = M, unless `targets` lists K index sets into them, each averaged over. `function` is "loss" (nats
    per unit of example weight), "margin", "logit" (of the label), "logit:3" (of class 3) or
    "difference:6>4" (why 6 and not 4: logit of class 6 minus that of 4), all in logits per unit. To ask
    for self-influence, give training images. Positive: training on the example
    raised the function; leaving it out changes the function by about minus the score.
    `targets_per_pass` targets are carried through a step at a time; 0 chooses by the free memory. `progress` as of
    `train`.

    Raises `ConfigError` for arguments out of range or not finite, `DivergedError` where the adjoint stops
    being finite, `IntegrityError` where a step can neither be read nor trained again to the same bits,
    `StorageError` where what is trained again cannot be written, `ModelError` where the model's own code
    fails.
    """
    data = _targets_data(trained, inputs, labels)
    sets = _sets(targets, data.n)
    _check_function(function, trained.classes)
    _check_number("targets_per_pass", targets_per_pass)
    storing.train_again(trained, progress, _computing)
    steps = trained.stream.steps
    with reported(progress, "attribute", steps) as report, _computing(trained.model):
        adjoint = target_values.adjoints(trained.model, trained.state, data, sets, function)
        scores = replay(
            trained.model,
            trained.stream,
            trained.trajectory,
            adjoint,
            targets_per_pass,
            lambda done, adjoint, scores: report(done),
        )
    return scores.float().cpu().numpy()


@spelling.names_unknown({})
def retrain(trained: Trained, weights: Tensor | np.ndarray, *, progress: Progress = None) -> State:
    """The final state of the same training with other example `weights` [N]; 0 leaves one out. `progress`: as `train`.

    Raises `ConfigError` for weights of another shape or not finite, `DivergedError` where the loss stops
    being finite, `ModelError` where the model's own code fails.
    """
    check_trained(trained)
    w_N = numbers_of(weights)
    _check_weights(w_N, trained.stream.data.n, trained.state.theta.dtype)
    stream = trained.stream.weighted(w_N.detach().to(trained.state.theta))
    with reported(progress, "retrain", stream.steps) as report, _computing(trained.model):
        return training.train(trained.model, stream, on_progress=lambda done, losses, rates: report(done))


@spelling.names_unknown({})
def evaluate(
    trained: Trained,
    inputs: Inputs,
    labels: Labels | None = None,
    *,
    function: str = "loss",
    targets: list | None = None,
    state: State | None = None,
    progress: Progress = None,
) -> np.ndarray:
    """Values float64 [K] of the targets of `attribute`, at the trained state or a retrained one. `progress` as of
    `train`, in images.

    Raises `ConfigError` for arguments out of range or not finite, `ModelError` where the model's own code
    fails.
    """
    data = _targets_data(trained, inputs, labels)
    sets = _sets(targets, data.n)
    _check_function(function, trained.classes)
    if state is not None:
        _check_state(state, trained.state)
    at = trained.state if state is None else state
    with reported(progress, "evaluate", data.n) as report, _computing(trained.model):
        values = target_values.values(trained.model, at, data, sets, function, report)
    return values.double().cpu().numpy()


@contextlib.contextmanager
def _computing(model: FunctionalModel) -> Iterator[None]:
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


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    """The caller may go on changing its own."""
    return tensor.detach().to(device, copy=True)


def _examples(data: Given, device: torch.device) -> Examples:
    inputs = data.inputs.to(device) if data.own else _copy(data.inputs, device)
    return Examples(inputs, _copy(data.labels, device), inputs.dtype)


def _device(name: object) -> torch.device:
    if name not in DEVICES:
        raise ConfigError(f"There is no device {name!r}.", f"Choose one of {', '.join(DEVICES)}.")
    return devices.choose(str(name))


def _classes(model: FunctionalModel, data: Examples) -> int:
    """C."""
    state = State(model.theta0, (), model.buffers0)
    few = dataclasses.replace(data, inputs=data.inputs[:2], labels=data.labels[:2])
    return target_values.logits(model, state, few).shape[1]


def _check_state(state: State, trained: State) -> None:
    right = isinstance(state, State) and all(
        part.shape == own.shape and part.dtype == own.dtype and part.device == own.device
        for part, own in ((state.theta, trained.theta), (state.buffers, trained.buffers))
    )
    if not right:
        raise ConfigError("`state` is no state of this training.", "Give what `retrain` gives for it.")


def _targets_data(trained: Trained, inputs: Inputs, labels: Labels | None) -> Examples:
    check_trained(trained)
    dtype, device = trained.state.theta.dtype, trained.state.theta.device
    asked = given(inputs, labels, dtype)
    _check_tensors(asked.inputs, asked.labels, dtype)
    shape = trained.shape
    if tuple(asked.inputs.shape[1:]) != shape:
        raise ConfigError(
            f"`inputs` are of shape {tuple(asked.inputs.shape)}, and the model was trained on images of {shape}.",
            f"Give a tensor of shape [M{''.join(f', {s}' for s in shape)}].",
        )
    _check_labels(asked.labels, trained.classes, "target")
    data = Examples(asked.inputs.detach().to(device), asked.labels.to(device), dtype)
    return data if trained.trunk is None else trained.trunk.features(data)


def _sets(targets: object, count: int) -> list[np.ndarray]:
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


def _check_function(function: str, classes: int) -> None:
    if problem := function_problem(function, classes):
        raise ConfigError(
            f"The target function {problem}.", f"Choose one of {', '.join(examples())}.", {"function": problem}
        )


def _check_tensors(inputs: Tensor, labels: Tensor, dtype: torch.dtype | None = None) -> None:
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


def _check_labels(labels: Tensor, classes: int, what: str) -> None:
    if int(labels.max()) >= classes:
        i = int((labels >= classes).nonzero()[0])
        raise ConfigError(
            f"The label of {what} {i} is {int(labels[i])}, and the model has {classes} classes.",
            f"Labels go from 0 to {classes - 1}. The model must give logits [B, C] for C classes.",
        )


def _check_number(name: str, value: int) -> None:
    problem = RANGES[name].problem(value)
    if problem is not None:
        raise ConfigError(f"`{name}` {problem}.", RANGES[name].what, {name: problem})


def _check_recipe(recipe: Recipe, n: int) -> None:
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


def _check_class_weights(recipe: Recipe, classes: int) -> None:
    if isinstance(recipe.class_weights, tuple) and len(recipe.class_weights) != classes:
        problem = f"has {len(recipe.class_weights)} numbers, and the model {classes} classes"
        raise ConfigError(
            f"recipe.class_weights {problem}.",
            'Give one number a class, or "balanced".',
            {"recipe.class_weights": problem},
        )


def _check_weights(weights: Tensor, n: int, dtype: torch.dtype) -> None:
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

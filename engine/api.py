"""The engine on your own model and tensors: `train`, `attribute`, `retrain`, `evaluate`.

Every error on purpose is an `engine.ReplayError` with what happened and what to do:

    ConfigError      an argument is out of its range, or not finite
    ModelError       the model cannot be trained, or not be replayed exactly
    DivergedError    training or replay left the finite numbers
    IntegrityError   a file of the trajectory is damaged, and what is trained again is not the same
    StorageError     the trajectory's folder is full or cannot be written
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from engine import device as devices
from engine import files
from engine.config import CHOICES, DEVICES, LISTS, RANGES, REPLAY_MODES, Recipe, RunConfig, problems
from engine.core import targets as target_values
from engine.core import training
from engine.core.check import check_model
from engine.core.optim.base import Optimizer
from engine.core.replay import replay
from engine.core.state import State, Trajectory
from engine.core.stream import Examples, Stream
from engine.core.trunk import Trunk, split
from engine.errors import ConfigError, ModelError
from engine.models.copies import first_line
from engine.models.functional import FunctionalModel
from engine.targets.functions import examples, function_problem
from engine.trajectory.digests import Digests
from engine.trajectory.modes import Checkpoints, EveryState
from engine.trajectory.segments import segment_length
from engine.trajectory.state_files import digest_of, named
from engine.trajectory.stores import DiskStore, MemoryStore
from engine.trajectory.writer import Writer


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and what its replay needs. `model_state` loads into your module.

    It lives as long as its process: it cannot be pickled, saved with `torch.save` or copied. To explain a
    training another day, keep the call of `train` (recipe, data and initial weights give the same training
    again), or make a run with `python -m engine`. Keep the model itself with
    `torch.save(trained.model_state, path)`.
    """

    model: FunctionalModel  # what is trained: of a network with a frozen trunk, what comes behind it
    stream: Stream
    trajectory: Trajectory
    state: State  # after the last step
    classes: int  # C, columns of the logits
    versions: tuple[int, ...] = ()  # of its tensors when it was made
    shape: tuple[int, ...] = ()  # of one input
    trunk: Trunk | None = None  # whose features the stream holds, where there is one

    @property
    def model_state(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers by name: `module.load_state_dict(trained.model_state, strict=False)`."""
        whole = self.model if self.trunk is None else self.trunk.whole
        return whole.load(self.state.theta, self.state.buffers)

    def __getstate__(self) -> NoReturn:
        raise ConfigError(
            "A trained model and its trajectory can neither be pickled nor copied.",
            "Save trained.model_state, and call `train` again to explain the training; see help(engine.Trained).",
        )


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    recipe: Recipe = Recipe(),  # noqa: B008 a frozen value
    *,
    weights: Tensor | None = None,
    device: str = "auto",
    replay_mode: str | None = None,
    trajectory_folder: str | Path | None = None,
    segment: int = 0,
    check: bool = True,
) -> Trained:
    """Trains a copy of `model` with the recipe's optimizer and cross-entropy loss, keeping what a replay needs.

    `inputs` [N, ...], finite, float32 or float64 (its dtype is the precision of everything); `labels` int64
    [N], from 0 up; `weights` [N] of the examples, 1 each where not given. All are copied. `device` is "auto",
    "cpu" or "cuda".

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

    The result lives as long as its process: it cannot be pickled or saved (see `engine.Trained`).

    Raises `ConfigError` for arguments out of range or not finite, `ModelError` for a model that fails or
    cannot be replayed exactly, `DivergedError` where the loss stops being finite, `StorageError` where the
    folder is full or cannot be written.
    """
    _check_tensors(inputs, labels)
    _check_recipe(recipe, len(labels))
    _check_number("segment", segment)
    if device not in DEVICES:
        raise ConfigError(f"There is no device {device!r}.", f"Choose one of {', '.join(DEVICES)}.")
    mode, folder = _mode(replay_mode, trajectory_folder)
    if weights is not None:
        _check_weights(weights, len(labels), inputs.dtype)
    where = devices.choose(device)
    functional = FunctionalModel(model, where, inputs.dtype)
    data = Examples(_copy(inputs, where), _copy(labels, where), inputs.dtype)
    weights = torch.ones(data.n) if weights is None else weights
    stream = Stream(data, recipe, _copy(weights, where).to(inputs.dtype))
    with _computing(functional):
        classes = _classes(functional, data)
        _check_class_weights(recipe, classes)
        if check:
            check_model(functional, stream.weighted(None))
        _check_labels(labels, classes, "input")
        trunk = split(functional, data, recipe)
        if trunk is not None:
            functional, stream = trunk.rest, dataclasses.replace(stream, data=trunk.features(data))
        optimizer = training.optimizer_for(functional, recipe)
        initial = training.initial_state(functional, optimizer)
        digests = Digests(optimizer, segment_length(stream.steps, 0, segment), stream.steps)
        store = _store(mode, folder, stream, initial, optimizer)
        kind = Checkpoints if mode == "recompute" else EveryState
        trajectory = kind(store, initial, functools.partial(training.advance, functional, stream), digests)
        state = training.train(functional, stream, trajectory)
    versions = _versions(functional, stream, state)
    return Trained(functional, stream, trajectory, state, classes, versions, tuple(inputs.shape[1:]), trunk)


def attribute(
    trained: Trained,
    inputs: Tensor,
    labels: Tensor,
    *,
    function: str = "loss",
    targets: list | None = None,
    targets_per_pass: int = 0,
) -> np.ndarray:
    """Scores float32 [K, N]: the derivative of each target with respect to each training weight.

    `inputs` [M, ...] and `labels` int64 [M] are the images to explain. Each is a target, K = M,
    unless `targets` lists K index sets into them, each averaged over. `function` is "loss" (nats
    per unit of example weight), "margin", "logit" (of the label), "logit:3" (of class 3) or
    "difference:6>4" (why 6 and not 4: logit of class 6 minus that of 4), all in logits per unit. To ask
    for self-influence, give training images. Positive: training on the example
    raised the function; leaving it out changes the function by about minus the score.
    `targets_per_pass` targets are carried through a step at a time; 0 chooses by the free memory.

    Raises `ConfigError` for arguments out of range or not finite, `DivergedError` where the adjoint stops
    being finite, `IntegrityError` where a step can neither be read nor trained again to the same bits,
    `StorageError` where what is trained again cannot be written, `ModelError` where the model's own code
    fails.
    """
    data = _targets_data(trained, inputs, labels)
    sets = _sets(targets, data.n)
    _check_function(function, trained.classes)
    _check_number("targets_per_pass", targets_per_pass)
    with _computing(trained.model):
        adjoint = target_values.adjoints(trained.model, trained.state, data, sets, function)
        scores = replay(trained.model, trained.stream, trained.trajectory, adjoint, targets_per_pass)
    return scores.float().cpu().numpy()


def retrain(trained: Trained, weights: Tensor) -> State:
    """The final state of the same training with other example `weights` [N]; 0 leaves one out.

    Raises `ConfigError` for weights of another shape or not finite, `DivergedError` where the loss stops
    being finite, `ModelError` where the model's own code fails.
    """
    _check_trained(trained)
    _check_weights(weights, trained.stream.data.n, trained.state.theta.dtype)
    with _computing(trained.model):
        return training.train(trained.model, trained.stream.weighted(weights.detach().to(trained.state.theta)))


def evaluate(
    trained: Trained,
    inputs: Tensor,
    labels: Tensor,
    *,
    function: str = "loss",
    targets: list | None = None,
    state: State | None = None,
) -> np.ndarray:
    """Values float64 [K] of the targets of `attribute`, at the trained state or a retrained one.

    Raises `ConfigError` for arguments out of range or not finite, `ModelError` where the model's own code
    fails.
    """
    data = _targets_data(trained, inputs, labels)
    sets = _sets(targets, data.n)
    _check_function(function, trained.classes)
    if state is not None:
        _check_state(state, trained.state)
    with _computing(trained.model):
        values = target_values.values(trained.model, trained.state if state is None else state, data, sets, function)
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


def _classes(model: FunctionalModel, data: Examples) -> int:
    """C."""
    state = State(model.theta0, (), model.buffers0)
    few = dataclasses.replace(data, inputs=data.inputs[:2], labels=data.labels[:2])
    return target_values.logits(model, state, few).shape[1]


def _versions(model: FunctionalModel, stream: Stream, state: State) -> tuple[int, ...]:
    """How often each tensor that a replay reads was changed in place; those of torch.inference_mode are not counted."""
    tensors = [model.theta0, model.buffers0, stream.data.inputs, stream.data.labels, stream.weights, *state.parts]
    return tuple(t._version if isinstance(t, Tensor) and not t.is_inference() else 0 for t in tensors)


def _check_trained(trained: Trained) -> None:
    if not isinstance(trained, Trained):
        raise ConfigError(
            f"`trained` is a {type(trained).__name__}, not what `train` gives.", "Call engine.train first."
        )
    if trained.versions != _versions(trained.model, trained.stream, trained.state):
        raise ConfigError(
            "A tensor of the training was changed in place since: its state, its data or its weights.",
            "Train again, and work on copies: trained.model_state gives them.",
        )


def _check_state(state: State, trained: State) -> None:
    right = isinstance(state, State) and all(
        part.shape == own.shape and part.dtype == own.dtype and part.device == own.device
        for part, own in ((state.theta, trained.theta), (state.buffers, trained.buffers))
    )
    if not right:
        raise ConfigError("`state` is no state of this training.", "Give what `retrain` gives for it.")


def _targets_data(trained: Trained, inputs: Tensor, labels: Tensor) -> Examples:
    _check_trained(trained)
    dtype, device = trained.state.theta.dtype, trained.state.theta.device
    _check_tensors(inputs, labels, dtype)
    shape = trained.shape
    if tuple(inputs.shape[1:]) != shape:
        raise ConfigError(
            f"`inputs` are of shape {tuple(inputs.shape)}, and the model was trained on images of {shape}.",
            f"Give a tensor of shape [M{''.join(f', {s}' for s in shape)}].",
        )
    _check_labels(labels, trained.classes, "target")
    data = Examples(inputs.detach().to(device), labels.to(device), dtype)
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
            f"`inputs` must be a floating-point tensor [N, ...], not {_form(inputs)}.",
            "Convert it, for example with torch.as_tensor(images).float() / 255.",
        )
    if (dtype or inputs.dtype) not in (torch.float32, torch.float64):
        raise ConfigError(
            f"`inputs` are {inputs.dtype}, in which a replay would be rounding.", "Convert them with inputs.float()."
        )
    if len(inputs) == 0:
        raise ConfigError("`inputs` has no image.", "Give at least one.")
    if not _is_plain(labels) or labels.dtype != torch.int64 or labels.shape != (len(inputs),):
        raise ConfigError(
            f"`labels` must be an int64 tensor [{len(inputs)}], one label an input, not {_form(labels)}.",
            "Convert it with torch.as_tensor(labels, dtype=torch.int64).",
        )
    if labels.min() < 0:
        i = int((labels < 0).nonzero()[0])
        raise ConfigError(f"A label is negative: that of input {i} is {int(labels[i])}.", "Number the classes from 0.")
    finite = inputs.detach().to(dtype or inputs.dtype).isfinite().reshape(len(inputs), -1).all(1)
    if not finite.all():
        bad = (~finite).nonzero()
        raise ConfigError(
            f"Input {int(bad[0])} is not finite: it holds nan or inf"
            + (f", as do {len(bad) - 1:,} others." if len(bad) > 1 else "."),
            "Leave it out or mend it. A standardisation of a constant image divides by zero.",
        )


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


def _mode(mode: str | None, folder: object) -> tuple[str, Path | None]:
    """The mode, and the folder where there is one. Raises `ConfigError` before anything is computed."""
    if mode is None:
        mode = "memory" if folder is None else "disk"
    if mode not in REPLAY_MODES:
        raise ConfigError(f"There is no replay mode {mode!r}.", f"Choose one of {', '.join(REPLAY_MODES)}.")
    if (mode == "disk" and folder is None) or (mode == "memory" and folder is not None):
        raise ConfigError(
            f"Replay mode {mode!r} does not go with trajectory_folder={folder!r}.",
            "Disk mode needs a folder, memory mode takes none.",
        )
    if folder is None:
        return mode, None
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise ConfigError(f"trajectory_folder={folder!r} is no path.", "Give a str or a pathlib.Path.")
    try:
        empty = Path(folder).is_dir() and not any(Path(folder).iterdir())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"trajectory_folder {str(folder)[:200]!r} cannot be read ({getattr(error, 'strerror', None) or error}).",
            "Name an empty folder of this training alone.",
        ) from error
    if not empty:
        raise ConfigError(f"{folder} is not an empty folder.", "Make one for this training alone.")
    return mode, Path(folder)


def _store(
    mode: str, folder: Path | None, stream: Stream, initial: State, optimizer: Optimizer
) -> MemoryStore | DiskStore:
    """Where the states go. Files in a folder carry the digest of this training, and of no other."""
    if folder is None:
        return MemoryStore(optimizer, full=mode == "recompute")
    return DiskStore(
        folder, _digest(stream, initial, optimizer), initial.theta.device, Writer(), optimizer, full=mode == "recompute"
    )


def _digest(stream: Stream, initial: State, optimizer: Optimizer) -> str:
    """Of all that decides a training: recipe, initial state, data and weights."""
    data = {"inputs": stream.data.inputs, "labels": stream.data.labels, "weights": stream.weights}
    return files.json_digest(
        ["api", dataclasses.asdict(stream.recipe), digest_of(named(initial, optimizer)), digest_of(data)]
    )

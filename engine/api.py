"""The engine on your own model and data: `train`, `attribute`, `self_influence`, `retrain`, `evaluate`, `load`.

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

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine import device as devices
from engine import spelling
from engine.analysis.self_influence import A_PART, MOST_TOGETHER
from engine.config import DEVICES, Recipe
from engine.core import self_influence as own_influence
from engine.core import targets as target_values
from engine.core import training
from engine.core.check import check_model
from engine.core.replay import replay
from engine.core.state import State
from engine.core.stream import Examples, Stream
from engine.core.trunk import split
from engine.errors import ConfigError
from engine.library import loading, storing
from engine.library.checks import (
    check_class_weights,
    check_function,
    check_labels,
    check_number,
    check_recipe,
    check_state,
    check_tensors,
    check_weights,
    computing,
    sets,
    targets_data,
    window_of,
)
from engine.library.frames import Scores
from engine.library.inputs import Given, Inputs, Labels, given, numbers_of
from engine.library.progress import Progress, reported
from engine.library.trained import Trained, check_trained
from engine.library.trained import versions as versions_of
from engine.models.functional import FunctionalModel

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
    check_tensors(data.inputs, data.labels)
    check_recipe(recipe, len(data.labels))
    check_number("segment", segment)
    where = _device(device)
    mode, folder = storing.mode_and_folder(replay_mode, trajectory_folder)
    if given_weights is not None:
        check_weights(given_weights, len(data.labels), data.inputs.dtype)
    functional = FunctionalModel(model, where, data.inputs.dtype)
    examples = _examples(data, where)
    w_N = torch.ones(examples.n) if given_weights is None else given_weights
    stream = Stream(examples, recipe, _copy(w_N, where).to(examples.dtype))
    with reported(progress, "train", stream.steps) as report, computing(functional):
        classes = _classes(functional, examples)
        check_class_weights(recipe, classes)
        if check:
            check_model(functional, stream.weighted(None))
        check_labels(data.labels, classes, "input")
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
    window: float = 0,
    progress: Progress = None,
) -> Scores:
    """Scores float32 [K, N]: the derivative of each target with respect to each training weight. An array of NumPy,
    with one method more: `scores.to_pandas()` is a table of the training images (`engine.library.frames`).

    `inputs` [M, ...] and `labels` [M], in the forms that `train` takes, are the images to explain. Each is a target,
    K = M, unless `targets` lists K index sets into them, each averaged over. `function` is "loss" (nats
    per unit of example weight), "margin", "logit" (of the label), "logit:3" (of class 3) or
    "difference:6>4" (why 6 and not 4: logit of class 6 minus that of 4), all in logits per unit. To ask
    for self-influence, give training images. Positive: training on the example
    raised the function; leaving it out changes the function by about minus the score.
    `targets_per_pass` targets are carried through a step at a time; 0 chooses by the free memory. `progress` as of
    `train`.

    `window` is where the weights begin to count: a fraction of all steps, or from 1 on a number of steps. Scores then
    say what the examples did from there on, after a training before that is fixed (docs/window.md), and the replay ends
    there; an example that no later step saw has exactly 0.

    Raises `ConfigError` for arguments out of range or not finite, `DivergedError` where the adjoint stops
    being finite, `IntegrityError` where a step can neither be read nor trained again to the same bits,
    `StorageError` where what is trained again cannot be written, `ModelError` where the model's own code
    fails.
    """
    data = targets_data(trained, inputs, labels)
    index_sets = sets(targets, data.n)
    check_function(function, trained.classes)
    check_number("targets_per_pass", targets_per_pass)
    start = window_of(window, trained.stream.steps)
    storing.train_again(trained, progress)
    with reported(progress, "attribute", trained.stream.steps - start) as report, computing(trained.model):
        adjoint = target_values.adjoints(trained.model, trained.state, data, index_sets, function)
        scores = replay(
            trained.model,
            trained.stream,
            trained.trajectory,
            adjoint,
            targets_per_pass,
            lambda done, adjoint, scores: report(done),
            start=start,
        )
    return Scores.of(scores.float().cpu().numpy(), index_sets, function, start)


@spelling.names_unknown({})
def self_influence(
    trained: Trained,
    images: Sequence[int] | np.ndarray | None = None,
    *,
    together: int = 1,
    targets_per_pass: int = 0,
    window: float = 0,
    progress: Progress = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What each training image did to its own loss: scores float32 [M], in nats per unit of its weight, and their
    standard errors float32 [M]. Below 0 where training on it lowered its own loss; much below: it is memorised.

    `images`, whole numbers [M], says which; all where None. One of them a target is exact (the diagonal of `attribute`
    with the training images as targets), and takes a target's replay an image. `together` of them a target take so many
    times less, and give an estimate, whose random groups and signs are the same each time (docs/self-influence.md).
    `targets_per_pass`, `window` and `progress` as of `attribute`.

    Raises `ConfigError` for images that the training had not, or too many together, and what `attribute` raises.
    """
    check_trained(trained)
    n = trained.stream.data.n
    asked = np.arange(n) if images is None else np.asarray(images)
    if asked.ndim != 1 or asked.dtype.kind not in "iu" or not len(asked) or asked.min() < 0 or asked.max() >= n:
        raise ConfigError("`images` are no training images.", f"Give whole numbers from 0 to {n - 1}, one at least.")
    if len(np.unique(asked)) < len(asked):
        raise ConfigError("`images` names an image twice.", "Name each once.")
    check_number("targets_per_pass", targets_per_pass)
    most = max(1, min(MOST_TOGETHER, len(asked) // 2))
    if type(together) is not int or not 1 <= together <= most:
        raise ConfigError(f"`together` is {together!r}.", f"Give a whole number from 1 to {most}; 1 is exact.")
    start = window_of(window, trained.stream.steps)
    storing.train_again(trained, progress)
    groups, steps = own_influence.groups_of(asked, together), trained.stream.steps - start
    scores, errors = np.empty((2, n), np.float32)
    with reported(progress, "attribute", steps * -(-len(groups) // A_PART)) as report, computing(trained.model):
        for number in range(-(-len(groups) // A_PART)):
            part = groups[number * A_PART : (number + 1) * A_PART]
            found = own_influence.self_influence(
                trained.model,
                trained.stream,
                trained.trajectory,
                trained.state,
                part,
                targets_per_pass,
                on_progress=lambda done, adjoint, scores, number=number: report(number * steps + done),
                start=start,
            )
            for group, (own, error) in zip(part, found, strict=True):
                scores[group.rows], errors[group.rows] = own, error
    return scores[asked], errors[asked]


@spelling.names_unknown({})
def retrain(trained: Trained, weights: Tensor | np.ndarray, *, window: float = 0, progress: Progress = None) -> State:
    """The final state of the same training with other example `weights` [N]; 0 leaves one out. `progress`: as `train`.

    `window`, as of `attribute`: the steps before it are done with the weights of the training, the others with these.

    Raises `ConfigError` for weights of another shape or not finite, `DivergedError` where the loss stops
    being finite, `ModelError` where the model's own code fails.
    """
    check_trained(trained)
    w_N = numbers_of(weights)
    check_weights(w_N, trained.stream.data.n, trained.state.theta.dtype)
    stream = trained.stream.weighted(w_N.detach().to(trained.state.theta))
    start = window_of(window, stream.steps)
    with reported(progress, "retrain", stream.steps) as report, computing(trained.model):

        def after(done: int, losses: list[float], rates: list[float]) -> None:
            report(done)

        first = trained.trajectory.initial
        before = training.advance(trained.model, trained.stream, first, 0, start, on_progress=after)
        return training.train(trained.model, stream, on_progress=after, resume=(start, before))


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
    data = targets_data(trained, inputs, labels)
    index_sets = sets(targets, data.n)
    check_function(function, trained.classes)
    if state is not None:
        check_state(state, trained.state)
    at = trained.state if state is None else state
    with reported(progress, "evaluate", data.n) as report, computing(trained.model):
        values = target_values.values(trained.model, at, data, index_sets, function, report)
    return values.double().cpu().numpy()


@spelling.names_unknown({"folder": "Where it was saved is the first argument, `place`."})
def load(
    place: str | os.PathLike,
    model: nn.Module,
    *,
    device: str = "auto",
    replay_mode: str | None = None,
    trajectory_folder: str | Path | None = None,
    check: bool = True,
) -> Trained:
    """The training that `Trained.save` kept in a folder, or under a run's id, to go on with, bit for bit.

    `model` gives the code: an `nn.Module` of the class that was trained, with the same parts frozen and in the same
    modes. It is copied; whatever weights it has, the training's own first ones take their place. Nothing is unpickled.

    The states between first and last are not kept, since the same training makes them again: `attribute` does so when
    it is first called, and keeps them as `train` does (`replay_mode`, `trajectory_folder`); a folder that the training
    filled is read. `check` compares the
    model's answers to some training images, and its first √T steps, with what was kept.

    Raises `RunNotFoundError`, `ConfigError` for a run that was not saved from Python, `ModelError` for a model that is
    not the one that was trained, and `IntegrityError` where a file is damaged, or where this machine does not compute
    the same bits.
    """
    return loading.load(place, model, _device(device), replay_mode, trajectory_folder, check)


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    """The caller may go on changing its own."""
    return tensor.detach().to(device, copy=True)


def _classes(model: FunctionalModel, data: Examples) -> int:
    """C."""
    state = State(model.theta0, (), model.buffers0)
    few = dataclasses.replace(data, inputs=data.inputs[:2], labels=data.labels[:2])
    return target_values.logits(model, state, few).shape[1]


def _examples(data: Given, device: torch.device) -> Examples:
    inputs = data.inputs.to(device) if data.own else _copy(data.inputs, device)
    return Examples(inputs, _copy(data.labels, device), inputs.dtype)


def _device(name: object) -> torch.device:
    if name not in DEVICES:
        raise ConfigError(f"There is no device {name!r}.", f"Choose one of {', '.join(DEVICES)}.")
    return devices.choose(str(name))

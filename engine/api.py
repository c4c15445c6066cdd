"""The engine on your own model and tensors: `train`, `attribute`, `retrain`."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine import device as devices
from engine.config import RANGES, REPLAY_MODES, Recipe, RunConfig, problems
from engine.core import targets as phi
from engine.core import training
from engine.core.check import check_model
from engine.core.optim.base import Optimizer
from engine.core.replay import replay
from engine.core.state import State, Trajectory
from engine.core.stream import Examples, Stream
from engine.errors import ConfigError
from engine.models.functional import FunctionalModel
from engine.trajectory.digests import Digests
from engine.trajectory.modes import Checkpoints, EveryState
from engine.trajectory.segments import segment_length
from engine.trajectory.stores import DiskStore, MemoryStore
from engine.trajectory.writer import Writer


@dataclass(frozen=True)
class Trained:
    """A trained model and what its replay needs. `model_state` loads into your module."""

    model: FunctionalModel
    stream: Stream
    trajectory: Trajectory
    state: State  # after the last step

    @property
    def model_state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name: `module.load_state_dict(trained.model_state, strict=False)`."""
        return self.model.load(self.state.theta, self.state.buffers)


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    recipe: Recipe = Recipe(),
    *,
    weights: Tensor | None = None,
    device: str = "auto",
    replay_mode: str | None = None,
    trajectory_folder: str | Path | None = None,
    segment: int = 0,
    check: bool = True,
) -> Trained:
    """Trains a copy of `model` with SGD and cross-entropy loss, keeping what a replay needs.

    `inputs` [N, ...], floating-point (its dtype is the precision of everything); `labels` int64
    [N], from 0 up; `weights` [N] of the examples, 1 each where not given. The model maps [B, ...]
    to logits [B, C]. The trajectory, 4 bytes × (parameters + buffers) a step in float32, is kept
    on the device (`replay_mode` "memory"), in `trajectory_folder`, which must exist and be empty
    ("disk", the default where a folder is given), or only every `segment`-th step with its momentum, on the device or in the folder, and
    the rest trained again while replaying ("recompute"; `segment` 0 takes √T of T steps). The scores
    are the same bit for bit. `check` first compares the model's derivatives with finite differences
    on eight examples.

    Raises `ConfigError` for arguments out of range, `ModelError` for a model that cannot be
    replayed exactly, `DivergedError` where the loss stops being finite.
    """
    _check_tensors(inputs, labels)
    _check_recipe(recipe, len(labels))
    where = devices.choose(device)
    functional = FunctionalModel(model, where, inputs.dtype)
    data = Examples(inputs.detach().to(where), labels.to(where), inputs.dtype)
    if weights is None:
        weights = torch.ones(data.n, dtype=inputs.dtype)
    _check_weights(weights, data)
    with devices.exact_arithmetic():
        if check:
            check_model(functional, Stream(data, recipe))
        stream = Stream(data, recipe, weights.to(where, inputs.dtype))
        optimizer = training.optimizer_for(functional, recipe)
        initial = training.initial_state(functional, optimizer)
        digests = Digests(optimizer, segment_length(stream.steps, 0, segment), stream.steps)
        replay_mode = replay_mode or ("memory" if trajectory_folder is None else "disk")
        store = _store(replay_mode, trajectory_folder, where, optimizer)
        kind = Checkpoints if replay_mode == "recompute" else EveryState
        trajectory = kind(store, initial, functools.partial(training.advance, functional, stream), digests)
        state = training.train(functional, stream, trajectory)
    return Trained(functional, stream, trajectory, state)


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
    per unit of example weight) or "margin" (logits per unit). Positive: training on the example
    raised the function; leaving it out changes the function by about minus the score.

    Raises `ConfigError` for arguments out of range.
    """
    data = _targets_data(trained, inputs, labels)
    sets = _sets(targets, data.n)
    _check_function(function)
    with devices.exact_arithmetic():
        adjoint = phi.adjoints(trained.model, trained.state, data, sets, function)
        scores = replay(trained.model, trained.stream, trained.trajectory, adjoint, targets_per_pass)
    return scores.float().cpu().numpy()


def retrain(trained: Trained, weights: Tensor) -> State:
    """The final state of the same training with other example `weights` [N]; 0 leaves one out."""
    _check_weights(weights, trained.stream.data)
    with devices.exact_arithmetic():
        return training.train(trained.model, trained.stream.weighted(weights.to(trained.state.theta)))


def evaluate(
    trained: Trained,
    inputs: Tensor,
    labels: Tensor,
    *,
    function: str = "loss",
    targets: list | None = None,
    state: State | None = None,
) -> np.ndarray:
    """Values float64 [K] of the targets of `attribute`, at the trained state or a retrained one."""
    data = _targets_data(trained, inputs, labels)
    _check_function(function)
    with devices.exact_arithmetic():
        return (
            phi.values(trained.model, state or trained.state, data, _sets(targets, data.n), function)
            .double()
            .cpu()
            .numpy()
        )


def _targets_data(trained: Trained, inputs: Tensor, labels: Tensor) -> Examples:
    _check_tensors(inputs, labels)
    device, dtype = trained.state.theta.device, trained.state.theta.dtype
    return Examples(inputs.detach().to(device), labels.to(device), dtype)


def _sets(targets: list | None, count: int) -> list[np.ndarray]:
    if targets is None:
        return [np.array([i]) for i in range(count)]
    sets = [np.asarray(s, dtype=np.int64).reshape(-1) for s in targets]
    if not sets or any(s.size == 0 or s.min() < 0 or s.max() >= count for s in sets):
        raise ConfigError(
            f"A target names none of the {count} images, or one that is not there.",
            f"Give non-empty sets of indices from 0 to {count - 1}.",
        )
    return sets


def _check_function(function: str) -> None:
    if function not in phi.FUNCTIONS:
        raise ConfigError(f"There is no target function {function!r}.", f"Choose one of {', '.join(phi.FUNCTIONS)}.")


def _check_tensors(inputs: Tensor, labels: Tensor) -> None:
    if not (isinstance(inputs, Tensor) and inputs.is_floating_point()):
        raise ConfigError(
            "`inputs` must be a floating-point tensor [N, ...].", "Convert it, for example with images.float() / 255."
        )
    if not (
        isinstance(labels, Tensor)
        and labels.dtype == torch.int64
        and labels.dim() == 1
        and len(labels) == len(inputs) > 0
    ):
        raise ConfigError(
            f"`labels` must be an int64 tensor [{len(inputs)}], one label an input.",
            "Convert it with torch.as_tensor(labels, dtype=torch.int64).",
        )
    if labels.min() < 0:
        raise ConfigError("A label is negative.", "Number the classes from 0.")


def _check_recipe(recipe: Recipe, n: int) -> None:
    found = {
        name: problem
        for name, problem in problems(RunConfig(recipe=recipe), n_train=n).items()
        if name.startswith("recipe.")
    }
    if found:
        raise ConfigError(
            "; ".join(f"{k} {v}" for k, v in found.items()) + ".",
            f"Correct the recipe; {list(found)[0]} is: {RANGES[list(found)[0]].what}"
            if list(found)[0] in RANGES
            else "Correct the recipe.",
            found,
        )


def _check_weights(weights: Tensor, data: Examples) -> None:
    if not isinstance(weights, Tensor) or weights.shape != (data.n,) or not torch.isfinite(weights).all():
        raise ConfigError(f"`weights` must be a finite tensor [{data.n}].", "One weight an example.")


def _store(mode: str, folder: str | Path | None, device: torch.device, optimizer: Optimizer) -> MemoryStore | DiskStore:
    if mode not in REPLAY_MODES:
        raise ConfigError(f"There is no replay mode {mode!r}.", f"Choose one of {', '.join(REPLAY_MODES)}.")
    if mode == ("disk" if folder is None else "memory"):
        raise ConfigError(
            f"Replay mode {mode!r} does not go with trajectory_folder={folder!r}.",
            "Disk mode needs a folder, memory mode takes none.",
        )
    if folder is None:
        return MemoryStore(optimizer, full=mode == "recompute")
    folder = Path(folder)
    if not folder.is_dir() or any(folder.iterdir()):
        raise ConfigError(f"{folder} is not an empty folder.", "Make one for this training alone.")
    return DiskStore(folder, "api", device, Writer(), optimizer, full=mode == "recompute")

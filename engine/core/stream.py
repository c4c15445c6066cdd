"""What each step of a training sees: the one place where a number becomes a step.

    Stream.at(t)  →  StepInputs(t, index_B, batch, w_B, lr, key, loss)

Batch plan, augmentation, learning rate, example weights, the examples' loss and the seed of a step's randomness meet
here. Training, replay, recomputation and retraining ask for the same numbers; they differ only in the weights. What is
evaluated or explained is read from `Examples` itself, and is never augmented.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from engine import augmentation
from engine.augmentation import Augmentation
from engine.config import Recipe
from engine.core.augment import Pixels, augment
from engine.core.loss import ExampleLoss, loss_for
from engine.core.random import example_keys
from engine.core.schedule import BatchPlan, learning_rate, plan_for, step_key
from engine.datasets.base import Dataset
from engine.device import sent
from engine.errors import ConfigError

# Of images [B, C, H, W] before they are standardised, and the meaning of their values, to others of the same shape.
Change = Callable[[Tensor, Pixels], Tensor]


@dataclass(frozen=True)
class Examples:
    """All examples of a split; a batch is rows of it, on the labels' device.

    `inputs` [N, ...]: floats as the model takes them, or uint8 channels-last images, which a
    batch scales to 0..1, standardises by channel and moves to channels-first. A NumPy array (a
    memory map of a file that nothing can write) stays where it is, and only batches of it are read.
    """

    inputs: Tensor | np.ndarray
    labels: Tensor  # int64 [N]
    dtype: torch.dtype
    mean: Tensor | None = None  # [C]
    std: Tensor | None = None  # [C]

    @property
    def n(self) -> int:
        return self.labels.shape[0]

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example as the model takes it; [C, H, W] of an image."""
        shape = tuple(self.inputs.shape[1:])
        return shape if self.mean is None else (shape[-1], *shape[:-1])

    def batch(self, index: Tensor | np.ndarray | range, change: Change | None = None) -> tuple[Tensor, Tensor]:
        """Inputs [B, ...] and labels [B] of the examples `index`, int64 [B].

        `change` is applied to pixels from 0 to 1 of images in bytes, and to floats as they are, whose fill is 0: what
        the mean of the images in bytes is standardised to as well.
        """
        index = torch.as_tensor(index, device=self.device)
        if isinstance(self.inputs, np.ndarray):
            inputs = torch.from_numpy(self.inputs[index.cpu().numpy()]).to(self.device)
        else:
            inputs = self.inputs[index]
        inputs = inputs.to(self.dtype)
        if self.mean is not None and self.std is not None:
            inputs = inputs / 255
            if change is not None:
                inputs = change(inputs.movedim(-1, 1).contiguous(), Pixels(self.mean, (0.0, 1.0))).movedim(1, -1)
            inputs = ((inputs - self.mean) / self.std).movedim(-1, 1).contiguous()
        elif change is not None:
            inputs = change(inputs, Pixels(inputs.new_zeros(inputs.shape[1])))
        return inputs, self.labels[index]

    def rows(self, index: np.ndarray) -> "Examples":
        """Some of them, int64 [S], as examples of their own."""
        at = torch.as_tensor(index, device=self.device)
        inputs = self.inputs[index] if isinstance(self.inputs, np.ndarray) else self.inputs[at]
        return dataclasses.replace(self, inputs=inputs, labels=self.labels[at])


def examples(dataset: Dataset, split: str, device: torch.device, dtype: torch.dtype) -> Examples:
    """A split ("train" or "test") on the device, its pixels still bytes.

    On the CPU a read-only array, such as a memory map, is not copied: each batch reads its rows.
    """
    images = dataset.images(split)
    return Examples(
        images if device.type == "cpu" and not images.flags.writeable else _tensor(images, device),
        _tensor(dataset.labels(split), device),
        dtype,
        torch.as_tensor(dataset.mean, dtype=dtype, device=device),
        torch.as_tensor(dataset.std, dtype=dtype, device=device),
    )


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Copied where nothing may write to it: torch knows no read-only tensor."""
    return torch.from_numpy(np.require(array, requirements="W")).to(device)


@dataclass(frozen=True)
class StepInputs:
    """All that a step needs beside the state."""

    t: int  # number of the step, from 0
    index_B: Tensor  # int64 [B] which examples
    batch: tuple[Tensor, Tensor]  # their inputs [B, ...] and labels int64 [B]
    w_B: Tensor  # [B] their weights; [M, B] where M trainings are carried side by side
    lr: float | Tensor  # learning rate of the step; [P] within an optimizer whose parameter groups have their own
    key: int  # seed of what is random in the step
    loss: ExampleLoss = ExampleLoss()  # of each example

    @property
    def key_on_device(self) -> Tensor:
        """`key`, int64 [], where the batch is."""
        return sent(torch.tensor(self.key), self.w_B.device)


@dataclass(frozen=True)
class Stream:
    """The steps of one training: `at(t)` for t in range(`steps`), in any order, the same each time.

    `weights` [N] of the examples, 1 each where None; [M, N] for M trainings side by side. Raises `ConfigError` where
    the recipe augments what are no images, or images of another size.
    """

    data: Examples
    recipe: Recipe
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        problem = augmentation.problem_with(self._augmentations, self.data.shape)
        if problem is not None:
            raise ConfigError(
                f"recipe.augment {problem}.", "Change it, or leave it empty.", {"recipe.augment": problem}
            )

    @cached_property
    def _augmentations(self) -> tuple[Augmentation, ...]:
        return augmentation.parse(self.recipe.augment)

    @cached_property
    def plan(self) -> BatchPlan:
        return plan_for(self.recipe, self.data.n)

    @cached_property
    def _w(self) -> Tensor:
        if self.weights is not None:
            return self.weights
        return torch.ones(self.data.n, dtype=self.data.dtype, device=self.data.device)

    @cached_property
    def _loss(self) -> ExampleLoss:
        return loss_for(self.recipe, self.data.labels, self.data.dtype)

    @property
    def steps(self) -> int:
        return len(self.plan)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Of a step's inputs, [B, ...]."""
        return tuple(self.data.batch(range(self.plan.batch_size))[0].shape)

    def weighted(self, weights: Tensor | None) -> "Stream":
        """The same steps with other example weights."""
        return dataclasses.replace(self, weights=weights)

    def batch(self, index_B: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Inputs [B, ...] and labels int64 [B] of examples, int64 [B], as an epoch, from 0, shows them to the model."""
        if not self._augmentations:
            return self.data.batch(index_B)
        keys_B = example_keys(self.recipe.seed, epoch, index_B)
        return self.data.batch(index_B, lambda images, pixels: augment(images, keys_B, self._augmentations, pixels))

    def at(self, t: int) -> StepInputs:
        index = sent(torch.from_numpy(self.plan[t]), self.data.device)
        return StepInputs(
            t,
            index,
            self.batch(index, self.plan.epoch(t)),
            self._w[..., index],
            learning_rate(self.recipe, t, self.steps),
            step_key(self.recipe, t),
            self._loss,
        )

"""What a form shows before anything is run: images as the model sees them, and what its parameters are called."""

from collections.abc import Sequence

import numpy as np

from engine.config import Recipe, RunConfig
from engine.datasets.base import Dataset


def augmented(dataset: Dataset, recipe: Recipe, index: Sequence[int], epoch: int) -> np.ndarray:
    """uint8 [B, H, W, C] of the training images `index`, as an epoch, from 0, shows them to the model.

    The very numbers that a training with this recipe sees (`Stream.batch`), brought back from standardised ones to
    bytes. Raises `ConfigError` where images of this size cannot be augmented so.
    """
    import torch

    from engine.core.stream import Stream, examples

    data = examples(dataset, "train", torch.device("cpu"), torch.float32)
    inputs, _ = Stream(data, recipe).batch(torch.as_tensor(index, dtype=torch.int64), epoch)
    pixels = inputs.movedim(1, -1).numpy() * dataset.std + dataset.mean
    return np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)


def parameter_names(config: RunConfig, dataset: Dataset) -> tuple[str, ...]:
    """What `frozen` and `recipe.groups` choose from. Builds the model; raises `ConfigError`, `ModelError`."""
    from engine.models import registry

    return tuple(name for name, _ in registry.module(config, dataset).named_parameters())

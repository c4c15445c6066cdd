"""Models by name: one builder a file. The table of names is `engine.config.MODELS`, which is free of torch
and open for registration."""

import torch
from torch import nn

from engine.config import MODELS, RunConfig
from engine.datasets.base import Dataset
from engine.models.functional import FunctionalModel
from engine.models.generators import OwnGenerator


def module(config: RunConfig, dataset: Dataset) -> nn.Module:
    """What the named builder makes of (channels, pixels a side, classes, factor on the widths); for rectangles the
    side is (height, width).

    Its initial weights are decided by the recipe's seed alone, in any thread: they must come from torch's
    random operations. Raises `ConfigError` where there is no model of this name, and what its builder raises.
    """
    height, width, channels = dataset.image_shape
    side = height if height == width else (height, width)
    with OwnGenerator(config.recipe.seed):
        return MODELS.get(config.model)(channels, side, len(dataset.classes), config.width)


def build(config: RunConfig, dataset: Dataset, device: torch.device | str = "cpu") -> FunctionalModel:
    """The model that a configuration asks for, on the device, in the configuration's precision."""
    return FunctionalModel(module(config, dataset), device, getattr(torch, config.precision))

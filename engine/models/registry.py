"""Models by name."""

import torch

from engine.config import RunConfig
from engine.datasets.base import Dataset
from engine.models.functional import FunctionalModel
from engine.models.resnet9 import resnet9
from engine.models.small_cnn import small_cnn

BUILDERS = {"small-cnn": small_cnn, "resnet9": resnet9}


def functional(config: RunConfig, dataset: Dataset, device: torch.device | str = "cpu") -> FunctionalModel:
    """The model that a configuration asks for, with initial weights decided by its seed alone."""
    _, side, _, channels = dataset.train_images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.recipe.seed)
        module = BUILDERS[config.model](channels, side, len(dataset.classes), config.width)
    return FunctionalModel(module, device, getattr(torch, config.precision))

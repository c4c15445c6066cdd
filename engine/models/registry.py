"""Models by name. The table of names is `engine.config.MODELS`, which is free of torch."""

import torch

from engine.config import MODELS, RunConfig
from engine.datasets.base import Dataset
from engine.models.functional import FunctionalModel


def functional(config: RunConfig, dataset: Dataset, device: torch.device | str = "cpu") -> FunctionalModel:
    """The model that a configuration asks for, with initial weights decided by its seed alone."""
    _, side, _, channels = dataset.train_images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.recipe.seed)
        module = MODELS.get(config.model)(channels, side, len(dataset.classes), config.width)
    return FunctionalModel(module, device, getattr(torch, config.precision))

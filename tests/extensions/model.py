"""A dummy model: one hidden layer."""

from torch import nn

from engine.config import MODELS


def dummy_net(channels: int, height: int, width: int, classes: int, factor: float = 1.0) -> nn.Module:
    hidden = round(8 * factor)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, hidden),
        nn.BatchNorm1d(hidden),
        nn.GELU(),
        nn.Linear(hidden, classes),
    )


MODELS.register("dummy-net", dummy_net)

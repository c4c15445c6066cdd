"""A dummy model: one hidden layer."""

from torch import nn

from engine.config import MODELS


def dummy_net(channels: int, side: int, classes: int, width: float) -> nn.Module:
    hidden = round(8 * width)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * side**2, hidden),
        nn.BatchNorm1d(hidden),
        nn.GELU(),
        nn.Linear(hidden, classes),
    )


MODELS.register("dummy-net", dummy_net)

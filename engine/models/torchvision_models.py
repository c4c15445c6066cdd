"""torchvision's residual networks (arXiv 1512.03385), for small images and for smooth training.

`small`, as for CIFAR: a stem of 3 × 3 in strides of 1 and no pooling, so that 32 pixels are still 4 at the end.
`smooth`: GELU for ReLU, and average for max-pooling. A training with kinks has exact scores that predict little
(docs/trust.md).
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.datasets.torchvision_sets import import_torchvision
from engine.errors import DataError, ModelError

SMALL = 64  # pixels of the shorter side up to which the small stem is taken


def torchvision() -> types.ModuleType:
    """The library; `ModelError` where it is not installed."""
    try:
        return import_torchvision()
    except DataError as error:
        raise ModelError(error.what, error.remedy) from error


class Pool(nn.Module):
    """Mean over the image's two dimensions. (`nn.AdaptiveAvgPool2d` has no batching rule in vmap.)"""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


def resnet(
    name: str,
    channels: int,
    height: int,
    width: int,
    classes: int,
    small: bool | None = None,
    smooth: bool = True,
    scale: float = 1.0,
    factor: float = 1.0,
) -> nn.Module:
    """The network `name` of torchvision.models with random weights, under torchvision's own names, so that its files of
    weights fit (`initial_weights`; with `small`, all but conv1; with a `factor` on the channels other than 1, none).

    `small` is chosen by the images where None. `scale` multiplies the logits of the first weights: of the last layer's.
    """
    if small is None:
        small = min(height, width) <= SMALL
    if min(height, width) < (8 if small else 32):
        raise ModelError(
            f"{name} halves its images {3 if small else 5} times, and these have {height} × {width} pixels.",
            "Choose small-cnn, or enlarge the images.",
        )
    model = getattr(torchvision().models, name)(weights=None, num_classes=classes)
    if small:
        model.conv1, model.maxpool = nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.Identity()
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if factor != 1:
        _scale_channels(model, factor)
    model.avgpool = Pool()
    if smooth:
        if not small:
            model.maxpool = nn.AvgPool2d(3, stride=2, padding=1)
        for part in list(model.modules()):
            for child, activation in list(part.named_children()):
                if isinstance(activation, nn.ReLU):
                    setattr(part, child, nn.GELU())
    with torch.no_grad():
        model.fc.weight.mul_(scale)
        model.fc.bias.mul_(scale)
    return model


def _scale_channels(model: nn.Module, factor: float) -> None:
    """Convolutions, norms and last layer of `factor` times the channels, with first weights drawn as torchvision's."""

    def scaled(channels: int) -> int:
        return max(1, round(channels * factor))

    for part in list(model.modules()):
        for child, layer in list(part.named_children()):
            if isinstance(layer, nn.Conv2d):
                into = layer.in_channels if part is model else scaled(layer.in_channels)  # the images' own
                form: Any = layer.kernel_size, layer.stride, layer.padding
                narrow = nn.Conv2d(into, scaled(layer.out_channels), *form, bias=False)
                nn.init.kaiming_normal_(narrow.weight, mode="fan_out", nonlinearity="relu")
                setattr(part, child, narrow)
            elif isinstance(layer, nn.BatchNorm2d):
                setattr(part, child, nn.BatchNorm2d(scaled(layer.num_features)))
            elif isinstance(layer, nn.Linear):
                setattr(part, child, nn.Linear(scaled(layer.in_features), layer.out_features))


resnet18: Callable[..., nn.Module] = functools.partial(resnet, "resnet18")
resnet34: Callable[..., nn.Module] = functools.partial(resnet, "resnet34")
resnet50: Callable[..., nn.Module] = functools.partial(resnet, "resnet50")

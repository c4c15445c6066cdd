"""ResNet-9, smoothed."""

import math

from torch import Tensor, nn

from engine.errors import ModelError
from engine.models.small_cnn import Scale, _conv


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class GlobalAverage(nn.Module):
    """Mean over the image's two dimensions. (`nn.AdaptiveAvgPool2d` has no batching rule in vmap.)"""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def resnet9(
    channels: int,
    height: int,
    width: int,
    classes: int,
    factor: float = 1.0,
    norm=nn.BatchNorm2d,
    activation=nn.GELU,
    scale: float = 0.125,
    gain: float = 1.0,
) -> nn.Module:
    """ResNet-9 as in DAWNBench entries (64, 128, 256, 512 channels at factor 1), smoothed:
    average pooling throughout, and logits scaled by 1/8, which keeps the loss's curvature low.

    Convolutions begin with a standard deviation of `gain` / √(inputs), √3 times torch's own: behind
    BatchNorm the size of a weight sets how fast it turns, and small ones make the first steps chaotic
    (metasmoothness −0.10 with torch's, 0.99 with these, at the preset's rate)."""
    a, b, c, d = (max(1, round(n * factor)) for n in (64, 128, 256, 512))
    if min(height, width) < 16:
        raise ModelError(
            f"ResNet-9 halves its images three times and these have {height} × {width} pixels.", "Choose small-cnn."
        )

    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        return _conv(inputs, outputs, 3, norm, activation, padding=1)

    model = nn.Sequential(
        *conv(channels, a),
        *conv(a, b),
        nn.AvgPool2d(2),
        Residual(*conv(b, b), *conv(b, b)),
        *conv(b, c),
        nn.AvgPool2d(2),
        *conv(c, d),
        nn.AvgPool2d(2),
        Residual(*conv(d, d), *conv(d, d)),
        GlobalAverage(),
        nn.Linear(d, classes),
        Scale(scale),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
    return model

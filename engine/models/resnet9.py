"""ResNet-9, smoothed."""

import math

import torch
from torch import Tensor, nn

from engine.errors import ModelError
from engine.models.small_cnn import Scale, conv, whitening

POOLS = ("after", "before")


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
    norm: str = "batch",
    activation: str = "gelu",
    scale: float = 0.125,
    gain: float = 1.0,
    pool: str = "after",
    whiten: bool = False,
    identity: bool = False,
) -> nn.Module:
    """ResNet-9 as in DAWNBench entries (64, 128, 256, 512 channels at factor 1), smoothed:
    average pooling throughout, and logits scaled by 1/8, which keeps the loss's curvature low.

    Convolutions begin with a standard deviation of `gain` / √(inputs), √3 times torch's own: behind
    BatchNorm the size of a weight sets how fast it turns, and small ones make the first steps chaotic
    (metasmoothness −0.10 with torch's, 0.99 with these, at the preset's rate). `identity` begins all but the first
    with kernels that hand a channel on, as far as there are channels.

    `pool` "before" halves images right behind a convolution, and not behind its norm and activation, which then
    have a quarter of the numbers to work on. `whiten` begins with `small_cnn.whitening`, which is not trained."""
    a, b, c, d = (max(1, round(n * factor)) for n in (64, 128, 256, 512))
    if min(height, width) < 16:
        raise ModelError(
            f"ResNet-9 halves its images three times and these have {height} × {width} pixels.", "Choose small-cnn."
        )
    if pool not in POOLS:
        raise ModelError(f"There is no pool «{pool}».", f"Choose one of {', '.join(POOLS)}.")

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return conv(inputs, outputs, 3, norm, activation, padding=1)

    def halved(inputs: int, outputs: int) -> list[nn.Module]:
        layers = block(inputs, outputs)
        layers.insert(1 if pool == "before" else len(layers), nn.AvgPool2d(2))
        return layers

    stem = whitening(channels, 3, padding=1) if whiten else []
    model = nn.Sequential(
        *stem,
        *block(9 * channels if whiten else channels, a),
        *halved(a, b),
        Residual(*block(b, b), *block(b, b)),
        *halved(b, c),
        *halved(c, d),
        Residual(*block(d, d), *block(d, d)),
        GlobalAverage(),
        nn.Linear(d, classes),
        Scale(scale),
    )
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad]
    for number, kernel in enumerate(kernels):
        nn.init.normal_(kernel, std=gain / math.sqrt(kernel[0].numel()))
        if identity and number:
            hand_on(kernel, gain)
    return model


@torch.no_grad()
def hand_on(kernel: Tensor, gain: float) -> None:
    """The first channels out of a 3 × 3 kernel, [outputs, inputs, 3, 3], become the channels in, times `gain`."""
    count = min(kernel.shape[:2])
    kernel[:count] = 0
    kernel[range(count), range(count), 1, 1] = gain

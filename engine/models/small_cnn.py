"""A small convolutional network, and the parts that it shares with ResNet-9."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ModelError

# -- the models that ship: no max-pooling, BatchNorm before GELU, for smooth training

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(4, channels), channels),
    "none": lambda channels: nn.Identity(),
}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


def small_cnn(
    channels: int,
    height: int,
    width: int,
    classes: int,
    factor: float = 1.0,
    norm: str = "batch",
    activation: str = "gelu",
    scale: float = 0.5,
    whiten: bool = False,
) -> nn.Module:
    """Two convolutions; 23,578 parameters at factor 1 on 28 × 28 grey images.

    `height`, `width`: pixels. The first convolution takes 6 × 6 pixels in strides
    of 4: 49 positions keep a step cheap on a CPU, where the replay's cost is the memory traffic of the
    activations. Logits are multiplied by `scale`: a half took the LDS of the sample from 0.82 to 0.99 and
    its accuracy from 0.849 to 0.855. `whiten` takes those patches to uncorrelated numbers first (`whitening`).
    """
    if min(height, width) < 4:
        raise ModelError(f"small-cnn needs 4 pixels a side; these images have {height} × {width}.", "Enlarge them.")
    a, b = round(24 * factor), round(32 * factor)
    patches = {"kernel": 6, "stride": 4, "padding": 1}
    if whiten:
        first = [*whitening(channels, **patches), *conv(36 * channels, a, 1, norm, activation)]
    else:
        first = conv(channels, a, norm=norm, activation=activation, **patches)
    return nn.Sequential(
        *first,
        *conv(a, b, 3, norm, activation, padding=1),
        nn.Flatten(),
        nn.Linear(b * (height // 4) * (width // 4), classes),
        Scale(scale),
    )


def conv(inputs: int, outputs: int, kernel: int, norm: str, activation: str, **where: Any) -> list[nn.Module]:
    """A convolution of the pixels that `where` says, a norm of `NORMS` and one of `ACTIVATIONS`."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, bias=False, **where)]
    return [*layers, named(NORMS, norm, "norm")(outputs), named(ACTIVATIONS, activation, "activation")()]


def named(table: dict, name: str, option: str):
    """What a table has by that name. Raises `ModelError` with its names."""
    if name not in table:
        raise ModelError(f"There is no {option} «{name}».", f"Choose one of {', '.join(table)}.")
    return table[name]


def whitening(channels: int, kernel: int, **where: Any) -> list[nn.Module]:
    """Patches of kernel × kernel pixels as kernel² uncorrelated numbers a channel, of variance 1: a first layer that is
    not trained.

    Each channel's cosine transform (DCT-II), whose basis is close to the principal components of patches of any
    photographs, and BatchNorm without weights, which divides each by its deviation. After the whitening layer of
    airbench (arXiv 2404.00498), which takes the components of the very training images; these are the same numbers for
    any data, so that no image has an effect on them. What follows learns fine and coarse patterns equally fast at a
    rate that is safe for the coarse ones.
    """
    transform = nn.Conv2d(channels, channels * kernel**2, kernel, groups=channels, bias=False, **where)
    transform.weight = nn.Parameter(cosines(kernel).repeat(channels, 1, 1, 1), requires_grad=False)
    return [transform, nn.BatchNorm2d(channels * kernel**2, affine=False)]


def cosines(n: int) -> Tensor:
    """The orthonormal basis of the two-dimensional DCT-II, [n², 1, n, n]:
    b_uv(x, y) = c_u c_v cos(π u (x + ½) / n) cos(π v (y + ½) / n) with c_0 = √(1/n), else √(2/n)."""
    at = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi / n * at[:, None] * (at + 0.5)) * math.sqrt(2 / n)  # [u, x]
    rows[0] /= math.sqrt(2)
    basis = rows[:, None, :, None] * rows[None, :, None, :]  # [u, v, x, y]
    return basis.reshape(n * n, 1, n, n).float()


class Scale(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

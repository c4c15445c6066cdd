"""A small convolutional network."""

from torch import Tensor, nn

from engine.errors import ModelError

# -- the models that ship: no max-pooling, BatchNorm before GELU, for smooth training


def _conv(inputs: int, outputs: int, kernel: int, norm=nn.BatchNorm2d, activation=nn.GELU, **kwargs) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, bias=False, **kwargs), norm(outputs), activation()]


def small_cnn(
    channels: int,
    height: int,
    width: int,
    classes: int,
    factor: float = 1.0,
    norm=nn.BatchNorm2d,
    activation=nn.GELU,
    scale: float = 0.5,
) -> nn.Module:
    """Two convolutions; 23,578 parameters at factor 1 on 28 × 28 grey images.

    `height`, `width`: pixels. The first convolution takes 6 × 6 pixels in strides
    of 4: 49 positions keep a step cheap on a CPU, where the replay's cost is the memory traffic of the
    activations. Logits are multiplied by `scale`: a half took the LDS of the sample from 0.82 to 0.99 and
    its accuracy from 0.849 to 0.855.
    """
    if min(height, width) < 4:
        raise ModelError(f"small-cnn needs 4 pixels a side; these images have {height} × {width}.", "Enlarge them.")
    a, b = round(24 * factor), round(32 * factor)
    kind = {"norm": norm, "activation": activation}
    return nn.Sequential(
        *_conv(channels, a, 6, stride=4, padding=1, **kind),
        *_conv(a, b, 3, padding=1, **kind),
        nn.Flatten(),
        nn.Linear(b * (height // 4) * (width // 4), classes),
        Scale(scale),
    )


class Scale(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

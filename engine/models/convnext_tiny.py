"""ConvNeXt (arXiv 2201.03545), torchvision's blocks in a size for small images."""

from typing import Any

from torch import nn

from engine.errors import ModelError
from engine.models.torchvision_models import Pool, torchvision


def convnext_tiny(
    channels: int,
    height: int,
    width: int,
    classes: int,
    factor: float = 1.0,
    patch: int = 0,
    stochastic_depth: float = 0.0,
    layer_scale: float = 1e-6,
    full: bool = False,
) -> nn.Module:
    """Depthwise 7 × 7 convolutions with LayerNorm and GELU: smooth throughout.

    Stages of (2, 2, 4, 2) blocks with 32, 64, 128, 256 channels, times `factor`; `full` is the paper's tiny: (3, 3, 9,
    3) with 96 to 768, whose weights torchvision has. `patch` is the stride of the stem; 0 takes 2 on images up to 64
    pixels, else 4. Three stages halve the image further.
    """
    patch = patch or (4 if full or min(height, width) > 64 else 2)
    if patch < 1 or min(height, width) // patch < 8:
        raise ModelError(
            f"ConvNeXt takes {patch} pixels as one and halves the rest three times; these images have "
            f"{height} × {width}.",
            "Set the option patch=1, or choose small-cnn.",
        )
    if not 0 <= stochastic_depth < 1:
        raise ModelError(f"stochastic_depth is {stochastic_depth}.", "Take one from 0 to below 1.")
    torchvision()
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [max(1, round(w * factor)) for w in ((96, 192, 384, 768) if full else (32, 64, 128, 256))]
    blocks = (3, 3, 9, 3) if full else (2, 2, 4, 2)
    stages = [CNBlockConfig(w, after, n) for w, after, n in zip(widths, [*widths[1:], None], blocks, strict=True)]
    model: Any = ConvNeXt(stages, stochastic_depth_prob=stochastic_depth, layer_scale=layer_scale, num_classes=classes)
    if channels != 3 or patch != 4:
        model.features[0][0] = nn.Conv2d(channels, widths[0], patch, patch)
        nn.init.trunc_normal_(model.features[0][0].weight, std=0.02)
        nn.init.zeros_(model.features[0][0].bias)
    model.avgpool = Pool()
    return model

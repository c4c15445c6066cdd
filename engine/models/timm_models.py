"""Models of timm, where it is installed: `timm:NAME`, with random weights.

Its weights are files like any other's (`initial_weights`): nothing is downloaded.
"""

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from engine.errors import ModelError
from engine.models.torchvision_models import torchvision


class Mean(nn.Module):
    """Mean over the image's two dimensions. (Adaptive pooling has no batching rule in vmap.)"""

    def __init__(self, flatten: bool):
        super().__init__()
        self.flatten = flatten

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=not self.flatten)


class HardSigmoid(nn.Module):
    """As `nn.Hardsigmoid`, whose derivative torch cannot differentiate forwards."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 6 + 0.5).clamp(0, 1)


def builder(name: str) -> Callable[..., nn.Module]:
    """The function (channels, height, width, classes, **options) of timm's model `name`; options are those of
    `timm.create_model`. Raises `ModelError` where timm is not installed, or has no such model."""
    try:
        torchvision()  # timm imports it; see there for what may stand in the way
        import timm  # pyright: ignore[reportMissingImports]  # an extra
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{error.name} is not installed, which timm:{name} needs.", "Install it: pip install timm"
        ) from error
    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name[:6]}*")[:5]
        raise ModelError(
            f"timm has no model «{name}».",
            f"It has {', '.join(near)} and others." if near else "See timm.list_models().",
        )

    # By their places alone: timm's own options, such as `channels` of its residual networks, may have these names.
    def build(channels: int, height: int, width: int, classes: int, /, **options) -> nn.Module:
        sizes = {"img_size": (height, width)} if _takes_size(name) else {}
        try:
            model = timm.create_model(
                name, pretrained=False, in_chans=channels, num_classes=classes, **{**sizes, **options}
            )
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ModelError(
                f"timm:{name} cannot be made for images of {height} × {width} × {channels}: {error}",
                "Choose other options, or another model.",
            ) from error
        for part in list(model.modules()):
            for child, layer in list(part.named_children()):
                if type(layer).__name__ == "SelectAdaptivePool2d" and getattr(layer, "pool_type", "") == "avg":
                    setattr(part, child, Mean(flatten=not isinstance(layer.flatten, nn.Identity)))
                elif isinstance(layer, nn.Hardsigmoid):
                    setattr(part, child, HardSigmoid())
        return model

    return build


def _takes_size(name: str) -> bool:
    """Whether the model's size is fixed when it is made, as a transformer's is."""
    import timm  # pyright: ignore[reportMissingImports]  # an extra

    entry = timm.model_entrypoint(name.partition(".")[0])
    module = inspect.getmodule(entry)
    return "vision_transformer" in getattr(module, "__name__", "") or "img_size" in inspect.signature(entry).parameters

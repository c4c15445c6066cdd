"""Weight normalisation and spectral normalisation, in both of torch's forms: hooks and parametrisations.

Weight norm, w = g · v / ‖v‖ (arXiv 1602.07868): torch's kernel has no forward derivative, so it is computed here in
elementary operations. Spectral norm, w / σ(w) (arXiv 1802.05957): in training its power iteration moves u and v by the
weights themselves without telling the gradient, so that the step is not the gradient of anything; it is refused. In
evaluation mode u and v rest, and it is exact.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from engine.errors import ModelError


def _weight(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """g · v / ‖v‖, the norm over all dimensions but `dim`, or over all where it is −1."""
    dims = [d for d in range(v.dim()) if dim == -1 or d != dim % v.dim()]
    return v * (g / torch.sqrt(v.square().sum(dims, keepdim=dim != -1)))


class ParametrizedWeightNorm(parametrizations._WeightNorm):
    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return _weight(weight_v, weight_g, self.dim)


class HookedWeightNorm(WeightNorm):
    def compute_weight(self, module: nn.Module) -> Any:
        return _weight(getattr(module, f"{self.name}_v"), getattr(module, f"{self.name}_g"), self.dim)


def make_replayable(module: nn.Module, trains: dict[nn.Module, bool]) -> None:
    """Changes the class of every weight norm in `module`. `trains` says of each module whether training runs it in
    training mode. Raises `ModelError` for a spectral norm that would be."""
    for path, part in module.named_modules():
        if type(part) is parametrizations._WeightNorm:
            part.__class__ = ParametrizedWeightNorm
        iterates = isinstance(part, parametrizations._SpectralNorm) and hasattr(part, "_u")
        for hook in part._forward_pre_hooks.values():
            if type(hook) is WeightNorm:
                hook.__class__ = HookedWeightNorm
            iterates = iterates or isinstance(hook, SpectralNorm)
        if iterates and trains[part]:
            raise ModelError(
                f"The module «{path or type(part).__name__}» has a spectral_norm whose power iteration runs in "
                "training, out of the gradient's sight.",
                f"Call .eval() on «{path or 'it'}», which keeps the direction that it has, or use weight_norm.",
            )

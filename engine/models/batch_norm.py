"""Batch normalisation whose running statistics can be replayed."""

import torch
from torch import Tensor, nn

from engine.errors import ModelError

NATIVE_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) over all dimensions but 1, in elementary operations.

    As `nn.BatchNorm*d`: normalises with the biased variance, and
    running' = (1 − momentum) · running + momentum · batch, with the unbiased variance.
    """

    def __init__(self, native: nn.modules.batchnorm._BatchNorm):
        super().__init__()
        self.eps, self.momentum = native.eps, native.momentum
        self.weight, self.bias = native.weight, native.bias
        self.register_buffer("running_mean", native.running_mean)
        self.register_buffer("running_var", native.running_var)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if self.training:
            dims = [d for d in range(x.dim()) if d != 1]
            var, mean = torch.var_mean(x, dim=dims, correction=0)
            n = x.numel() // x.shape[1]
            if n < 2:
                raise ModelError(
                    "BatchNorm needs at least two values per channel in training.", "Use a larger batch size."
                )
            keep = 1 - self.momentum
            self.running_mean = keep * self.running_mean + self.momentum * mean
            self.running_var = keep * self.running_var + self.momentum * n / (n - 1) * var
        else:
            mean, var = self.running_mean, self.running_var
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        # One multiply-add over the activations, as the fused kernels do.
        return torch.addcmul(shift.view(shape), x, scale.view(shape))


def _replace_batch_norms(module: nn.Module, path: str = "", done: dict | None = None) -> nn.Module:
    done = {} if done is None else done
    if module in done:
        return done[module]
    if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
        where = f"The module «{path or type(module).__name__}»"
        if type(module) not in NATIVE_BATCH_NORMS:
            raise ModelError(
                f"{where} is a {type(module).__name__}, whose running statistics cannot be replayed.",
                "Use nn.BatchNorm1d, 2d or 3d itself, or a norm without running statistics such as nn.GroupNorm.",
            )
        if module.momentum is None:
            raise ModelError(
                f"{where} averages its statistics cumulatively (momentum=None).", "Give it a momentum, such as 0.1."
            )
        done[module] = BatchNorm(module).train(module.training)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise ModelError(
            f"The module «{path}» has track_running_stats=False, so an evaluation would "
            "depend on the images beside the target.",
            "Track the statistics, or use nn.GroupNorm.",
        )
    else:
        done[module] = module
        for name, child in module.named_children():
            setattr(module, name, _replace_batch_norms(child, f"{path}.{name}".strip("."), done))
    return done[module]

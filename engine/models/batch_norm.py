"""Batch normalisation whose running statistics can be replayed.

torch's fused kernel updates the running statistics out of autograd's sight, and its second derivative
through `grad` of `jvp` is wrong (torch 2.13). The classes below compute the same in elementary
operations. They subclass what they replace, and an existing module becomes one by its class alone:
whoever holds it (two places of a model, a list, an `isinstance` in an overridden `train`) holds the
same module as before.
"""

import functools

import torch
from torch import Tensor, nn

from engine.errors import ModelError


class _Replayable(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation (arXiv 1502.03167) over all dimensions but 1, in elementary operations.

    As `nn.BatchNorm*d`: normalises with the biased variance, and
    running' = (1 − momentum) · running + momentum · batch, with the unbiased variance. Statistics are float32 at least.
    """

    momentum: float  # never None, and statistics that are tracked: others are refused
    running_mean: Tensor
    running_var: Tensor

    @property
    def num_batches_tracked(self) -> Tensor:
        """torch's counter of steps, which is not kept here: it would be a state without a derivative."""
        raise ModelError(
            f"The model reads num_batches_tracked of a {type(self).__name__}, which a replayed step does not count.",
            "Count in a floating-point buffer of the model's own, or leave it out.",
        )

    def reset_running_stats(self) -> None:
        self.running_mean = torch.zeros_like(self.running_mean)
        self.running_var = torch.ones_like(self.running_var)

    def forward(self, input: Tensor) -> Tensor:
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        self._check_input_dim(x)
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
        return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(input.dtype)


class BatchNorm1d(_Replayable, nn.BatchNorm1d):
    pass


class BatchNorm2d(_Replayable, nn.BatchNorm2d):
    pass


class BatchNorm3d(_Replayable, nn.BatchNorm3d):
    pass


class SyncBatchNorm(_Replayable, nn.SyncBatchNorm):
    """On one device, where there is nobody to synchronise with."""


class _ThenActs(_Replayable):
    """timm's norms with dropout and activation inside."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


REPLAYABLE = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.SyncBatchNorm: SyncBatchNorm,
}

WITH_ACTIVATION = ("timm.layers.norm_act.BatchNormAct2d", "timm.layers.norm_act.SyncBatchNormAct")


@functools.cache
def _replacement(kind: type[nn.Module]) -> type[nn.Module] | None:
    if f"{kind.__module__}.{kind.__qualname__}" in WITH_ACTIVATION:
        return type(kind.__name__, (_ThenActs, kind), {"__module__": __name__})
    return REPLAYABLE.get(kind)


def make_replayable(module: nn.Module, trains: dict[nn.Module, bool]) -> None:
    """Changes the class of every native BatchNorm in `module`, wherever it hangs.

    `trains` says of each module whether training runs it in training mode. Raises `ModelError` for a
    norm whose statistics cannot be replayed.
    """
    for path, norm in module.named_modules():
        if not isinstance(norm, nn.modules.batchnorm._NormBase) or isinstance(norm, _Replayable):
            continue
        where = f"The module «{path or type(norm).__name__}»"
        if not norm.track_running_stats:
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                raise ModelError(
                    f"{where} has track_running_stats=False, so an evaluation would "
                    "depend on the images beside the target.",
                    "Track the statistics, or use nn.GroupNorm.",
                )
            continue
        replacement = _replacement(type(norm))
        if replacement is None:
            raise ModelError(
                f"{where} is a {type(norm).__name__}, whose running statistics cannot be replayed.",
                "Use nn.BatchNorm1d, 2d or 3d itself, or a norm without running statistics such as nn.GroupNorm.",
            )
        if norm.momentum is None and trains[norm]:
            raise ModelError(
                f"{where} averages its statistics cumulatively (momentum=None).", "Give it a momentum, such as 0.1."
            )
        norm.__class__ = replacement  # type: ignore[assignment]


def resting_buffers(module: nn.Module, trains: dict[nn.Module, bool]) -> set[str]:
    """Names of the running statistics that training reads and never changes: those of norms in evaluation mode."""
    return {
        f"{path}.{name}" if path else name
        for path, norm in module.named_modules()
        if isinstance(norm, _Replayable) and not trains[norm]
        for name in ("running_mean", "running_var")
    }

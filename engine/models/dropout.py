"""Dropout and stochastic depth that can be replayed: masks are a pure function of (step, example, layer).

    u_n = uniform(key, n)            key of (step, example, layer, call), n the number of the element in its example
    mask_n = (u_n ≥ p) / (1 − p)

by `engine.core.random`: no state, no generator, the same bits on every device. An example's mask depends on nothing
else in its batch. As in batch_norm.py, classes subclass what they replace, and modules change by their class alone.

Not the numbers of `torch.manual_seed`: a training with dropout is repeatable here, and not equal to one elsewhere.
Costs about fifteen integer operations an element, so that a wide layer's dropout is not free on a CPU.
Functional calls (`F.dropout`) stay random, and are refused by the check.
"""

import functools
import math

import torch
from torch import Tensor, nn

from engine.core.random import DROPOUT, example_keys, fold_in, uniform
from engine.errors import ModelError

ALPHA = -1.7580993408473766  # −λα of SELU (arXiv 1706.02515): what dropped units are set to by alpha dropout


class Noise:
    """What the masks of one pass are drawn from: set by `begin` before each pass, read by every layer of a model.

    In slots, not in a dictionary: it is no state of the model, which the check would look for.
    """

    __slots__ = ("key", "index_B", "calls")

    def __init__(self) -> None:
        self.begin(0, torch.arange(0))

    def begin(self, key: int, index_B: Tensor) -> None:
        """`key`: of the step, from 0 to 2⁶³ − 1. `index_B` int64: which example each row of the batch is."""
        self.key, self.index_B, self.calls = key, index_B, dict[int, int]()

    def keep(self, layer: int, p: float, shape: tuple[int, ...], like: Tensor, whole: bool = False) -> Tensor:
        """Tensor of `shape`, 1 with probability 1 − p and else 0, of the dtype and device of `like`.

        The first dimension is the batch, or a multiple of it: then rows of one example stand together. `whole`:
        one for the whole batch, `shape` [1, ...]. A layer's second call in a pass draws other numbers.
        """
        call = self.calls[layer] = self.calls.get(layer, -1) + 1
        rows, count = shape[0], math.prod(shape[1:])
        index_B = self.index_B.new_zeros(1) if whole else self.index_B
        index_B = index_B.to(like.device)
        if rows % max(1, len(index_B)):
            raise ModelError(
                f"Dropout meets a tensor of {rows} rows, in a batch of {len(index_B)}.",
                "Its first dimension must be the batch's: use batch_first=True in attention.",
            )
        if rows != len(index_B):
            count *= rows // len(index_B)
        keys_B = fold_in(fold_in(fold_in(example_keys(self.key, 0, index_B), DROPOUT), layer), call)
        # In one precision, so that the check in float64 sees the masks of the training.
        u_Bn = uniform(keys_B[:, None], torch.arange(count, device=like.device), torch.float32)
        return (u_Bn >= p).to(like.dtype).view(shape)


class _Replayed(nn.Module):
    """What the replacements share: where their numbers come from."""

    noise: Noise
    layer: int

    def _mask(self, x: Tensor, p: float, shape: tuple[int, ...], scaled: bool = True, whole: bool = False) -> Tensor:
        keep = self.noise.keep(self.layer, p, shape, x, whole)
        return keep / (1 - p) if scaled and p < 1 else keep


def _channels(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:2], *([1] * (x.dim() - 2)))


class _Elements(_Replayed):
    """Zeroes elements with probability p, and scales the others by 1 / (1 − p)."""

    p: float

    def forward(self, input: Tensor) -> Tensor:
        return input * self._mask(input, self.p, tuple(input.shape)) if self.training and self.p else input


class _Channels(_Replayed):
    """The same with whole channels."""

    p: float

    def forward(self, input: Tensor) -> Tensor:
        return input * self._mask(input, self.p, _channels(input)) if self.training and self.p else input


class _Alpha(_Replayed):
    """Sets elements (or `channels`) to ALPHA, and keeps mean and variance (arXiv 1706.02515)."""

    p: float
    channels = False

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p:
            return input
        shape = _channels(input) if self.channels else tuple(input.shape)
        keep = self._mask(input, self.p, shape, scaled=False)
        if self.p == 1:
            return input * keep
        scale = ((1 - self.p) * (1 + self.p * ALPHA**2)) ** -0.5
        return scale * (input * keep + ALPHA * (1 - keep)) - scale * ALPHA * self.p


class _FeatureAlpha(_Alpha):
    channels = True


class _StochasticDepth(_Replayed):
    """torchvision's: a residual branch is left out for an example, or for the batch (arXiv 1603.09382)."""

    p: float
    mode: str

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p:
            return input
        whole = self.mode == "batch"
        shape = (1 if whole else input.shape[0], *([1] * (input.dim() - 1)))
        return input * self._mask(input, self.p, shape, whole=whole)


class _DropPath(_Replayed):
    """timm's, for an example."""

    drop_prob: float
    scale_by_keep: bool

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        shape = (x.shape[0], *([1] * (x.dim() - 1)))
        return x * self._mask(x, self.drop_prob, shape, scaled=self.scale_by_keep)


class _Attention(_Replayed):
    """`nn.MultiheadAttention` with dropout of its attention weights, in training. Else it is the module itself."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        own: nn.MultiheadAttention = self  # type: ignore[assignment]
        if not own.training or not own.dropout:
            return nn.MultiheadAttention.forward(
                own, query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if query.dim() != 3:
            raise ModelError("Attention with dropout meets inputs without a batch.", "Give them one, or set dropout=0.")
        if not own.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if own.in_proj_weight is not None:
            weights = own.in_proj_weight.chunk(3)
        else:
            weights = (own.q_proj_weight, own.k_proj_weight, own.v_proj_weight)
        biases = (None,) * 3 if own.in_proj_bias is None else own.in_proj_bias.chunk(3)
        q, k, v = (  # [B, heads, T, features of a head]
            nn.functional.linear(x, w, b).unflatten(-1, (own.num_heads, own.head_dim)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(own.head_dim)  # [B, heads, T, S]
        if attn_mask is not None:
            mask = attn_mask if attn_mask.dim() == 2 else attn_mask.view(scores.shape)
            scores = scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        if key_padding_mask is not None:
            mask = key_padding_mask[:, None, None]
            scores = scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        attention = torch.softmax(scores, -1)
        attention = attention * self._mask(attention, own.dropout, tuple(attention.shape))
        out = own.out_proj((attention @ v).transpose(1, 2).flatten(2))
        if not own.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        return out, attention.mean(1) if average_attn_weights else attention


# By the full names of the classes, so that neither library is imported for it.
KINDS: dict[str, type[_Replayed]] = {
    "torch.nn.modules.dropout.Dropout": _Elements,
    "torch.nn.modules.dropout.Dropout1d": _Channels,
    "torch.nn.modules.dropout.Dropout2d": _Channels,
    "torch.nn.modules.dropout.Dropout3d": _Channels,
    "torch.nn.modules.dropout.AlphaDropout": _Alpha,
    "torch.nn.modules.dropout.FeatureAlphaDropout": _FeatureAlpha,
    "torch.nn.modules.activation.MultiheadAttention": _Attention,
    "torchvision.ops.stochastic_depth.StochasticDepth": _StochasticDepth,
    "timm.layers.drop.DropPath": _DropPath,
}


@functools.cache
def _replacement(kind: type[nn.Module]) -> type[nn.Module] | None:
    replayed = KINDS.get(f"{kind.__module__}.{kind.__qualname__}")
    # The module is this project's, so that what the check looks for in a person's classes is not looked for here.
    return replayed and type(kind.__name__, (replayed, kind), {"__module__": __name__})


def make_replayable(module: nn.Module, noise: Noise) -> None:
    """Changes the class of every dropout in `module`, wherever it hangs, and has all draw from `noise`.

    Raises `ModelError` for attention with dropout that has biases of its own for keys.
    """
    for layer, (path, part) in enumerate(module.named_modules()):
        if getattr(part, "fused_attn", False) and getattr(getattr(part, "attn_drop", None), "p", 0):
            vars(part)["fused_attn"] = False  # timm's: its dropout is then a module
        if (kind := _replacement(type(part))) is not None:
            if isinstance(part, nn.MultiheadAttention):
                if not part.dropout:
                    continue
                if part.bias_k is not None or part.add_zero_attn:
                    raise ModelError(
                        f"The module «{path or type(part).__name__}» has dropout together with add_bias_kv or "
                        "add_zero_attn.",
                        "Set its dropout to 0, or leave those out.",
                    )
            part.__class__ = kind  # type: ignore[assignment]
        if isinstance(part, _Replayed):
            part.noise, part.layer = noise, vars(part).get("layer", layer)  # a part of a model keeps its numbers

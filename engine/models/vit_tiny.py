"""A small vision transformer (arXiv 2010.11929)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import ModelError


class Attention(nn.Module):
    """Self-attention over T tokens [B, T, D]; dropout of the weights is left out, which ViT does not use."""

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, T, D / heads]
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, features: int, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(features), Attention(features, heads)
        self.norm2 = nn.LayerNorm(features)
        self.mlp = nn.Sequential(nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    def __init__(
        self, channels: int, tokens: int, patch: int, classes: int, features: int, depth: int, heads: int, p: float
    ):
        super().__init__()
        self.patches = nn.Conv2d(channels, features, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, features))
        self.blocks = nn.Sequential(*(Block(features, heads, p) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(features), nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions  # [B, T, D]
        return self.head(self.norm(self.blocks(x)).mean(1))


def vit_tiny(
    channels: int,
    height: int,
    width: int,
    classes: int,
    factor: float = 1.0,
    patch: int = 0,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
) -> nn.Module:
    """`depth` blocks of 96 features (times `factor`) over patches of `patch` pixels a side, their mean to the logits.

    `patch` 0 takes the size nearest to an eighth of the shorter side that divides both. Raises `ModelError` where a
    patch does not.
    """
    if patch == 0:
        divisors = [p for p in range(1, math.gcd(height, width) + 1) if height % p == width % p == 0]
        patch = min(divisors, key=lambda p: (abs(p - min(height, width) / 8), p))
    if patch < 1 or height % patch or width % patch:
        raise ModelError(
            f"Patches of {patch} pixels do not divide images of {height} × {width}.", "Choose the option patch=N so."
        )
    if depth < 1 or heads < 1 or not 0 <= dropout < 1:
        raise ModelError(
            f"vit-tiny has no form with depth={depth}, heads={heads}, dropout={dropout}.",
            "Take at least 1 block and 1 head, and a dropout from 0 to below 1.",
        )
    features = heads * max(1, round(96 * factor / heads))
    tokens = (height // patch) * (width // patch)
    return VisionTransformer(channels, tokens, patch, classes, features, depth, heads, dropout)

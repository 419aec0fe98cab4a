"""A small vision transformer: patches, a class token, position table, joint q/k/v projection, LayerNorm, GELU."""

from __future__ import annotations

import torch
from export import main
from torch import Tensor, nn

INPUTS = {"image": (1, 3, 32, 32)}


class Attention(nn.Module):
    """Multi-head attention as timm writes it: one projection, unbind along a new first axis."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the joint projection and the output projection."""
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mixed tokens of the same shape."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = ((q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, count, width))


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the two halves."""
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Patches of 8 x 8, two layers."""

    def __init__(self, width: int = 32, heads: int = 4, classes: int = 10) -> None:
        """Build the layers."""
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.layers = nn.Sequential(Layer(width, heads), Layer(width, heads))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores [1, classes]."""
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(image.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.layers(tokens))[:, 0])


build = VisionTransformer

if __name__ == "__main__":
    main(build, INPUTS, __doc__)

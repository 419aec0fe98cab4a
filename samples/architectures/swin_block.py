"""A Swin block with a shifted window: cyclic shift, window partition, attention with a bias table and a mask."""

from __future__ import annotations

import torch
from export import main
from torch import Tensor, nn

SIDE, WINDOW, SHIFT = 8, 4, 2
INPUTS = {"image": (1, 3, 32, 32)}


def windows(image: Tensor) -> Tensor:
    """[1, side, side, C] -> [windows, window * window, C]."""
    channels, count = image.shape[-1], SIDE // WINDOW
    parts = image.reshape(1, count, WINDOW, count, WINDOW, channels).permute(0, 1, 3, 2, 4, 5)
    return parts.reshape(count * count, WINDOW * WINDOW, channels)


def image(parts: Tensor) -> Tensor:
    """The inverse of `windows`."""
    channels, count = parts.shape[-1], SIDE // WINDOW
    grid = parts.reshape(1, count, count, WINDOW, WINDOW, channels).permute(0, 1, 3, 2, 4, 5)
    return grid.reshape(1, SIDE, SIDE, channels)


def mask() -> Tensor:
    """0 where two positions of a shifted window were neighbours before the shift, -100 elsewhere."""
    regions, number = torch.zeros(1, SIDE, SIDE, 1), 0
    spans = (slice(0, -WINDOW), slice(-WINDOW, -SHIFT), slice(-SHIFT, None))
    for rows in spans:
        for columns in spans:
            regions[:, rows, columns, :] = number
            number += 1
    flat = windows(regions)[..., 0]
    return (flat[:, None, :] != flat[:, :, None]).float() * -100.0


class SwinBlock(nn.Module):
    """Patches of 4 x 4, one block with shifted windows, class scores."""

    def __init__(self, width: int = 24, heads: int = 3, classes: int = 10) -> None:
        """Build the block."""
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(1, heads, WINDOW**2, WINDOW**2) * 0.02)
        self.register_buffer("mask", mask()[:, None])
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, classes)

    def attention(self, tokens: Tensor) -> Tensor:
        """Attention inside each window."""
        count, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5 + self.bias + self.mask
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(count, length, width))

    def forward(self, picture: Tensor) -> Tensor:
        """Class scores [1, classes]."""
        x = self.patches(picture).permute(0, 2, 3, 1)
        shifted = torch.roll(self.norm1(x), (-SHIFT, -SHIFT), (1, 2))
        mixed = image(self.attention(windows(shifted)))
        x = x + torch.roll(mixed, (SHIFT, SHIFT), (1, 2))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean((1, 2)))


build = SwinBlock

if __name__ == "__main__":
    main(build, INPUTS, __doc__)

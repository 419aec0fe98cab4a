"""Sampling an image at offsets: the BPU's form of grid_sample, and the way to and from torch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_torch_grid(offsets: Tensor, height: int, width: int) -> Tensor:
    """Torch's normalized grid (align_corners=True) of offsets in input pixels.

    Args:
        offsets: [N, H_out, W_out, 2], (x, y) offset of each output pixel from its own index.
        height: rows of the sampled image.
        width: columns of the sampled image.
    """
    rows, columns = offsets.shape[1:3]
    y = torch.arange(rows, dtype=offsets.dtype, device=offsets.device).view(1, -1, 1)
    x = torch.arange(columns, dtype=offsets.dtype, device=offsets.device).view(1, 1, -1)
    absolute = torch.stack((offsets[..., 0] + x, offsets[..., 1] + y), dim=-1)
    size = torch.tensor([width - 1, height - 1], dtype=offsets.dtype, device=offsets.device).clamp(min=1)
    return absolute * 2 / size - 1


def from_torch_grid(grid: Tensor, height: int, width: int) -> Tensor:
    """Offsets in input pixels of a normalized grid (align_corners=True); inverse of `to_torch_grid`."""
    rows, columns = grid.shape[1:3]
    size = torch.tensor([width - 1, height - 1], dtype=grid.dtype, device=grid.device)
    absolute = (grid + 1) * size / 2
    y = torch.arange(rows, dtype=grid.dtype, device=grid.device).view(1, -1, 1)
    x = torch.arange(columns, dtype=grid.dtype, device=grid.device).view(1, 1, -1)
    return torch.stack((absolute[..., 0] - x, absolute[..., 1] - y), dim=-1)


class NormalizedGridSample(nn.Module):
    """torch.nn.functional.grid_sample with its settings fixed; the result keeps the scale of the image."""

    def __init__(self, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None) -> None:
        super().__init__()
        self.mode, self.padding_mode, self.align_corners = mode, padding_mode, bool(align_corners)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """Samples [N, C, H_out, W_out] of x [N, C, H, W] at `grid` [N, H_out, W_out, 2] in [-1, 1]."""
        return F.grid_sample(x, grid, self.mode, self.padding_mode, self.align_corners)


class GridSample(nn.Module):
    """Samples x at (index of the output pixel + offset).

    Args:
        mode: `bilinear` or `nearest`.
        padding_mode: `zeros` or `border`.
    """

    def __init__(self, mode: str = "bilinear", padding_mode: str = "zeros") -> None:
        super().__init__()
        self.mode = mode
        self.padding_mode = padding_mode

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """Samples [N, C, H_out, W_out] of x [N, C, H, W] at offsets `grid` [N, H_out, W_out, 2]."""
        normalized = to_torch_grid(grid, x.shape[2], x.shape[3])
        return F.grid_sample(x, normalized, self.mode, self.padding_mode, align_corners=True)

"""Anchors and base grids: constant boxes and coordinates of every position of a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hbtool.errors import UsageError


class AnchorGenerator(nn.Module):
    """Anchors of several feature maps, as torchvision's class of this name.

    Args:
        sizes: of each level, the square roots of the anchors' areas in pixels.
        aspect_ratios: of each level, height over width.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]] = ((128, 256, 512),),
        aspect_ratios: Sequence[Sequence[float]] = ((0.5, 1.0, 2.0),),
    ) -> None:
        super().__init__()
        if len(sizes) != len(aspect_ratios):
            raise UsageError("sizes and aspect_ratios have different lengths.", where="AnchorGenerator")
        self.sizes, self.aspect_ratios = sizes, aspect_ratios

    def num_anchors_per_location(self) -> list[int]:
        """Anchors of one position, for each level."""
        return [len(s) * len(a) for s, a in zip(self.sizes, self.aspect_ratios, strict=True)]

    def _cell(self, level: int, like: Tensor) -> Tensor:
        sizes, ratios = (torch.tensor(v[level], dtype=torch.float32) for v in (self.sizes, self.aspect_ratios))
        heights, widths = ratios.sqrt()[:, None] * sizes, (1 / ratios.sqrt())[:, None] * sizes
        half = torch.stack([-widths.flatten(), -heights.flatten(), widths.flatten(), heights.flatten()], 1) / 2
        return half.round().to(like.device)

    def forward(self, images: Any, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """[all levels' K, 4] for each image, row by row of each level.

        Args:
            images: [N, C, H, W], or an object with such `.tensors`.
            feature_maps: the levels, [N, C, h, w]; only their shapes are read.
        """
        tensor = images if isinstance(images, Tensor) else images.tensors
        levels = []
        for level, feature in enumerate(feature_maps):
            height, width = feature.shape[-2:]
            step_y, step_x = tensor.shape[-2] // height, tensor.shape[-1] // width
            y, x = torch.meshgrid(
                torch.arange(height, device=tensor.device) * step_y,
                torch.arange(width, device=tensor.device) * step_x,
                indexing="ij",
            )
            places = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4).float()
            levels.append((places + self._cell(level, tensor)).reshape(-1, 4))
        return [torch.cat(levels) for _ in range(tensor.shape[0])]


class BaseGridGenerator(nn.Module):
    """The coordinates of every pixel of an image.

    Args:
        size: (height, width).
        with_third_channel: a third coordinate that is 1 everywhere (homogeneous coordinates).
    """

    grid: Tensor

    def __init__(self, size: Sequence[int], with_third_channel: bool = False) -> None:
        super().__init__()
        self.size, self.with_third_channel = tuple(size), with_third_channel
        y, x = torch.meshgrid(*(torch.arange(int(n), dtype=torch.float32) for n in size), indexing="ij")
        parts = [x, y, torch.ones_like(x)] if with_third_channel else [x, y]
        self.register_buffer("grid", torch.stack(parts, -1), persistent=False)

    def forward(self) -> Tensor:
        """[H, W, 2] (or 3) coordinates (x, y) in pixels."""
        return self.grid

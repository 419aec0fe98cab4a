"""Boxes (left, top, right, bottom): decoding, clipping, overlap, suppression; float functions of post-processing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def decode(
    boxes: Tensor, deltas: Tensor, scale: Sequence[float] = (1.0, 1.0, 1.0, 1.0), absolute_shift: bool = False
) -> Tensor:
    """Boxes moved and resized by regressions (dx, dy, dw, dh), as in R-CNN.

    Args:
        boxes: [K, 4] anchors or proposals.
        deltas: [K, 4].
        scale: what the four regressions are divided by.
        absolute_shift: dx and dy are pixels instead of shares of the box's size.
    """
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + size / 2
    factor = torch.as_tensor(scale, dtype=deltas.dtype, device=deltas.device)
    deltas = deltas / factor
    centre = centre + deltas[:, :2] * (1.0 if absolute_shift else size)
    # e^4 of an anchor is beyond any image; above it a float16 product could overflow.
    half = size * torch.exp(deltas[:, 2:].clamp(max=4.0)) / 2
    return torch.cat([centre - half, centre + half], 1)


def clip_to_image(boxes: Tensor, height: float, width: float) -> Tensor:
    """Boxes [K, 4] inside an image."""
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limits)


def overlap(one: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of one box [4] and others [K, 4]."""
    size = (torch.minimum(one[2:], others[:, 2:]) - torch.maximum(one[:2], others[:, :2])).clamp(min=0)
    shared = size[:, 0] * size[:, 1]
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return shared / ((one[2] - one[0]) * (one[3] - one[1]) + areas - shared).clamp(min=1e-9)


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, margin: float = 0.0) -> Tensor:
    """Indices of the boxes that stay, best first: greedy suppression inside each class.

    Args:
        boxes: [K, 4].
        scores: [K].
        labels: [K] classes; boxes of different classes never suppress each other.
        threshold: overlap above which the weaker box goes.
        margin: the weaker box stays unless its score is lower by more than this.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    kept = []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        beaten = (overlap(boxes[best], boxes[rest]) > threshold) & (labels[rest] == labels[best])
        if margin > 0:
            beaten &= scores[best] - scores[rest] > margin
        order = rest[~beaten]
    return torch.stack(kept) if kept else order


def per_anchor(x: Tensor, count: int) -> Tensor:
    """[N, K, count] of a level: [N, anchors * count, H, W] row by row, or [N, K, count] as it is."""
    if x.dim() != 4:
        return x if x.dim() == 3 else x.unsqueeze(0)
    n, channels, height, width = x.shape
    return x.reshape(n, channels // count, count, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, count)

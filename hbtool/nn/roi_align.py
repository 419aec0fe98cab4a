"""Features inside boxes, resampled to one size: RoIAlign of one or several feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbtool.errors import UsageError


def roi_align(
    x: Tensor,
    boxes: Sequence[Tensor],
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 1,
    aligned: bool = False,
) -> Tensor:
    """[all boxes, C, *output_size]: means of bilinear samples in each bin.

    Args:
        x: [N, C, H, W].
        boxes: of each image, [R, 4] in input pixels (left, top, right, bottom).
        output_size: bins.
        spatial_scale: feature map size over image size.
        sampling_ratio: samples along each axis of a bin; 0 or less: 1.
        aligned: pixel centres lie at 0.5 (half a pixel is subtracted).
    """
    height, width = x.shape[2:]
    count = max(sampling_ratio, 1)
    rows, columns = output_size[0] * count, output_size[1] * count
    found = []
    for index, given in enumerate(boxes):
        places = given.reshape(-1, 4).to(x.dtype) * spatial_scale - (0.5 if aligned else 0.0)
        low, size = places[:, :2], places[:, 2:] - places[:, :2]
        size = size if aligned else size.clamp(min=1.0)
        shares = [(torch.arange(n, device=x.device, dtype=x.dtype) + 0.5) / n for n in (columns, rows)]
        xs, ys = (low[:, k, None] + size[:, k, None] * shares[k] for k in range(2))
        outside = ((xs < -1) | (xs > width))[:, None, :] | ((ys < -1) | (ys > height))[:, :, None]
        xs, ys = xs.clamp(0, width - 1), ys.clamp(0, height - 1)
        grid = torch.stack(
            [(xs * (2 / max(width - 1, 1)) - 1)[:, None, :].expand(-1, rows, -1),
             (ys * (2 / max(height - 1, 1)) - 1)[:, :, None].expand(-1, -1, columns)], -1
        )  # fmt: skip
        image = x[index : index + 1].expand(len(places), -1, -1, -1)
        samples = F.grid_sample(image, grid, "bilinear", "border", align_corners=True)
        samples = samples * (~outside)[:, None].to(x.dtype)
        found.append(F.avg_pool2d(samples, count) if len(places) else samples.new_zeros(0, x.shape[1], *output_size))
    return torch.cat(found)


class RoIAlign(nn.Module):
    """`roi_align` with its settings fixed."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 1,
        aligned: bool = False,
        interpolate_mode: str = "bilinear",
    ) -> None:
        super().__init__()
        if interpolate_mode != "bilinear":
            raise UsageError(f"interpolate_mode is {interpolate_mode!r}.", where="RoIAlign", hint="Use bilinear.")
        square = isinstance(output_size, int)
        self.output_size: tuple[int, int] = (output_size, output_size) if square else output_size  # type: ignore[assignment]
        self.spatial_scale, self.sampling_ratio, self.aligned = spatial_scale, sampling_ratio, aligned

    def forward(self, x: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """[all boxes, C, *output_size]."""
        return roi_align(x, boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)


class MultiScaleRoIAlign(nn.Module):
    """RoIAlign on the level that fits each box's size (feature pyramid networks).

    Args:
        output_size: bins.
        feature_strides: image pixels of one step of each level, finest first; powers of 2.
        sampling_ratio: samples along each axis of a bin.
        interpolate_mode: `bilinear`.
        canonical_box_size: size of a box that belongs to the canonical level.
        canonical_level: log2 of that level's stride.
        aligned: pixel centres lie at 0.5.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        feature_strides: Sequence[int],
        sampling_ratio: int = 1,
        interpolate_mode: str = "bilinear",
        canonical_box_size: int = 224,
        canonical_level: int = 4,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            RoIAlign(output_size, 1 / s, sampling_ratio, aligned, interpolate_mode) for s in feature_strides
        )
        self.first = int(math.log2(feature_strides[0]))
        self.canonical_box_size, self.canonical_level = canonical_box_size, canonical_level

    def forward(self, x: Sequence[Tensor], box_lists: Sequence[Tensor]) -> Tensor:
        """[all boxes, C, *output_size], in the order of the boxes.

        Args:
            x: the levels, [N, C, H, W] each.
            box_lists: of each image, [R, 4] (or [1, R, 4]) in image pixels.
        """
        boxes = [b.reshape(-1, 4) for b in box_lists]
        joined = torch.cat(boxes)
        size = ((joined[:, 2] - joined[:, 0]) * (joined[:, 3] - joined[:, 1])).clamp(min=0).sqrt()
        level = torch.floor(self.canonical_level + torch.log2(size / self.canonical_box_size + 1e-8)).long()
        level = level.clamp(self.first, self.first + len(self.levels) - 1) - self.first
        counts = [len(b) for b in boxes]
        out = None
        for number, align in enumerate(self.levels):
            chosen = [b[part == number] for b, part in zip(boxes, torch.split(level, counts), strict=True)]
            features: Tensor = align(x[number], chosen)
            if out is None:
                out = features.new_zeros(len(joined), *features.shape[1:])
            out = out.index_copy(0, torch.nonzero(level == number).flatten(), features)
        assert out is not None, "there is a level"
        return out

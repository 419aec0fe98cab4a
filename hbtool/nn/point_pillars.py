"""Point-cloud pillars to an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hbtool.errors import UsageError


class PointPillarsScatter(nn.Module):
    """Puts the features of each pillar at its place of an image.

    Args:
        output_shape: (N, C, H, W) or (H, W); may also be given in the call.
    """

    def __init__(self, output_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.output_shape = output_shape

    def forward(self, voxel_features: Tensor, coords: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """Image [N, C, H, W].

        Args:
            voxel_features: [M, ...] features of M pillars, C values each.
            coords: [M, (n, ..., y, x)] integer places.
            output_shape: overrides the constructor's.
        """
        shape = self.output_shape if output_shape is None else output_shape
        if shape is None:
            raise UsageError("no output_shape was given.", where="PointPillarsScatter", hint="Give it here or above.")
        features = voxel_features.reshape(voxel_features.shape[0], -1)
        height, width = (int(n) for n in shape[-2:])
        batch = int(shape[0]) if len(shape) == 4 else int(coords[:, 0].max()) + 1
        places = coords.long()
        index = (places[:, 0] * height + places[:, -2]) * width + places[:, -1]
        flat = torch.zeros(batch * height * width, features.shape[1], dtype=features.dtype, device=features.device)
        flat = flat.index_copy(0, index, features)
        return flat.reshape(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()

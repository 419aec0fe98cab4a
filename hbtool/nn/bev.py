"""Bird's-eye-view layers: deformable attention over several images, and pooling of lifted features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.nn.composite import Composite


class MultiScaleDeformableAttention(Composite):
    """Attention that samples a few points of each feature level around a reference (Deformable DETR).

    Args:
        embed_dims: size of queries and values, split among the heads.
        num_heads: heads.
        num_levels: feature levels.
        num_points: points of a level that a head samples.
        dropout: share that training drops.
        batch_first: [N, L, E] instead of [L, N, E].
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.1,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise UsageError(f"embed_dims {embed_dims} does not divide into {num_heads} heads.")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.embed_dims, self.batch_first = embed_dims, batch_first
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, points * 2)
        self.attention_weights = nn.Linear(embed_dims, points)
        self.value_proj, self.output_proj = nn.Linear(embed_dims, embed_dims), nn.Linear(embed_dims, embed_dims)
        self.softmax, self.dropout = nn.Softmax(-1), nn.Dropout(dropout)
        self._start()

    def _start(self) -> None:
        """Offsets start as rays in the heads' directions, weights as equal shares."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1).view(1, 1, -1, 1)
        bias = (rays.view(-1, 1, 1, 2) * steps).expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            for linear in (self.sampling_offsets, self.attention_weights):
                linear.weight.zero_()
                linear.bias.zero_()
            self.sampling_offsets.bias.copy_(bias.reshape(-1))

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
    ) -> Tensor:
        """The attended values plus the query, in the query's shape.

        Args:
            query: [L, N, E] (or [N, L, E] with batch_first).
            value: all levels joined, [sum of H * W, N, E] (or batch first).
            reference_points: [N, L, num_levels, 2] in [0, 1].
            spatial_shapes: (H, W) of each level, plain numbers.
            identity: added instead of the query.
            query_pos: added to the query.
        """
        kept = query if identity is None else identity
        if query_pos is not None:
            query = query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        sampled = self._attend(query, self.value_proj(value), reference_points, spatial_shapes)
        out = self.output_proj(sampled)
        if not self.batch_first:
            out = out.transpose(0, 1)
        return self.dropout(out) + kept

    def _attend(self, query: Tensor, value: Tensor, places: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        n, length = query.shape[0], query.shape[1]
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        offsets = self.sampling_offsets(query).reshape(n, length, heads, levels, points, 2)
        weights = self.softmax(self.attention_weights(query).reshape(n, length, heads, levels * points))
        weights = weights.transpose(1, 2).reshape(n * heads, 1, length, levels * points)
        start, samples = 0, []
        for level, (height, width) in enumerate(shapes):
            part = value[:, start : start + height * width]
            start += height * width
            image = part.transpose(1, 2).reshape(n * heads, self.embed_dims // heads, height, width)
            step = torch.tensor([2.0 / width, 2.0 / height])
            shift = offsets[:, :, :, level] * step
            grid = shift + (places[:, :, level] * 2 - 1).unsqueeze(2).unsqueeze(3)
            grid = grid.transpose(1, 2).reshape(n * heads, length, points, 2)
            samples.append(F.grid_sample(image, grid, "bilinear", "zeros", align_corners=False))
        mixed = (torch.cat(samples, 3) * weights).sum(3)
        return mixed.reshape(n, self.embed_dims, length).transpose(1, 2)


class BevPoolV2(nn.Module):
    """Sums lifted image features into the cells of a bird's-eye view.

    Args:
        bev_feat_shape: (N, D, H, W, C) of the result before it is permuted.
    """

    def __init__(self, bev_feat_shape: Sequence[int]) -> None:
        super().__init__()
        self.bev_feat_shape = tuple(int(n) for n in bev_feat_shape)

    def forward(
        self,
        depth: Tensor,
        feat: Tensor,
        ranks_depth: Tensor,
        ranks_feat: Tensor,
        ranks_bev: Tensor,
        interval_starts: Tensor | None = None,
        interval_lengths: Tensor | None = None,
    ) -> Tensor:
        """[N, C, D, H, W]: for each listed point, depth times feature is added to its cell.

        Args:
            depth: any shape; read as a flat list by `ranks_depth`.
            feat: [..., C]; read as rows by `ranks_feat`.
            ranks_depth: [P] places in depth.
            ranks_feat: [P] rows of feat.
            ranks_bev: [P] cells of the result.
            interval_starts: accepted for compatibility; cells are summed in any order.
            interval_lengths: accepted for compatibility.
        """
        channels = self.bev_feat_shape[-1]
        lifted = depth.reshape(-1)[ranks_depth.long(), None] * feat.reshape(-1, channels)[ranks_feat.long()]
        cells = lifted.new_zeros(math.prod(self.bev_feat_shape[:-1]), channels)
        cells = cells.index_add(0, ranks_bev.long(), lifted)
        return cells.reshape(self.bev_feat_shape).permute(0, 4, 1, 2, 3).contiguous()

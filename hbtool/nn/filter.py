"""`nn.functional` functions as modules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hbtool.nn import functional
from hbtool.utils.fx_helper import wrap


@wrap(skip_compile=True)
class FilterModule(nn.Module):
    """`nn.functional.filter` with its settings fixed.

    Args:
        threshold: positions not above it go.
        idx_range: channels of the first input that are compared.
    """

    def __init__(self, threshold: float = 0.0, idx_range: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.threshold, self.idx_range = threshold, idx_range

    def forward(self, *inputs: Tensor) -> list[list[Tensor]]:
        """As the function."""
        return functional.filter(*inputs, threshold=self.threshold, idx_range=self.idx_range)


Filter = FilterModule


@wrap(skip_compile=True)
class PointPillarsPreProcess(nn.Module):
    """`nn.functional.point_pillars_preprocess` with its settings fixed."""

    def __init__(
        self,
        pc_range: Sequence[float],
        voxel_size: Sequence[float],
        max_voxels: int,
        max_points_per_voxel: int,
        use_max: bool = True,
        norm_range: Sequence[float] | None = None,
        norm_dims: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.settings = (pc_range, voxel_size, max_voxels, max_points_per_voxel, use_max, norm_range, norm_dims)

    def forward(self, points_list: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As the function."""
        return functional.point_pillars_preprocess(points_list, *self.settings)

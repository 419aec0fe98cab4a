"""Functions of point clouds, masks and selections, in float on the CPU; elementwise functions are in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hbtool.errors import UsageError
from hbtool.nn.grid_sample import GridSample
from hbtool.nn.roi_align import roi_align
from hbtool.utils.fx_helper import wrap

__all__ = ["filter", "point_pillars_preprocess", "rle", "roi_align", "warp"]


@wrap(skip_compile=True)  # type: ignore[untyped-decorator]
def filter(*inputs: Tensor, threshold: float, idx_range: tuple[int, int] | None = None) -> list[list[Tensor]]:
    """The positions whose largest channel of the first input is above a threshold.

    The order is row by row; the vendor says that a board's order is another one.

    Args:
        inputs: [N, C, H, W] each, all of one N, H and W.
        threshold: positions not above it go.
        idx_range: (first, last) channels of the first input that are compared, both included; None = all.

    Returns:
        For each image: largest value [M], its channel [M], places [M, 2] (h, w), then the channels of each input
        [M, C] at these places.
    """
    if not inputs:
        raise UsageError("filter needs at least one input.")
    first = inputs[0] if idx_range is None else inputs[0][:, idx_range[0] : idx_range[1] + 1]
    values, indices = first.max(1)
    found = []
    for n in range(len(first)):
        places = torch.nonzero(values[n] > threshold)
        rows, columns = places.unbind(1)
        data = [x[n, :, rows, columns].T for x in inputs]
        found.append([values[n][rows, columns], indices[n][rows, columns], places, *data])
    return found


@wrap(skip_compile=True)  # type: ignore[untyped-decorator]
def point_pillars_preprocess(
    points_list: Sequence[Tensor],
    pc_range: Sequence[float],
    voxel_size: Sequence[float],
    max_voxels: int,
    max_points_per_voxel: int,
    use_max: bool = True,
    norm_range: Sequence[float] | None = None,
    norm_dims: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Points of clouds, grouped by voxel.

    Args:
        points_list: of each cloud, [P, D] with x, y, z first.
        pc_range: (x, y, z) lowest, then highest.
        voxel_size: (x, y, z).
        max_voxels: voxels of a cloud at most, in the order in which points reach them.
        max_points_per_voxel: points of a voxel at most.
        use_max: pad the result to `max_voxels` rows for each cloud.
        norm_range: lowest, then highest value of each dimension in `norm_dims`, which are mapped to [0, 1].
        norm_dims: dimensions to normalize.

    Returns:
        features [M, max_points_per_voxel, D], zero where there is no point; coords [M, 4] int64 (cloud, z, y, x), -1
        in padded rows.
    """
    features, coords = [], []
    for index, points in enumerate(points_list):
        low, high = (torch.as_tensor(v, dtype=points.dtype, device=points.device) for v in (pc_range[:3], pc_range[3:]))
        step = torch.as_tensor(voxel_size, dtype=points.dtype, device=points.device)
        inside = ((points[:, :3] >= low) & (points[:, :3] < high)).all(1)
        points = points[inside]
        cells = ((points[:, :3] - low) / step).long()
        grid = ((high - low) / step).round().long()
        keys = (cells[:, 2] * grid[1] + cells[:, 1]) * grid[0] + cells[:, 0]
        voxels, cells, members = _group(keys, cells, max_voxels, max_points_per_voxel)
        if norm_range is not None:
            points = _normalized(points, norm_range, norm_dims)
        rows = max_voxels if use_max else len(voxels)
        block = points.new_zeros(rows, max_points_per_voxel, points.shape[1])
        block[members[:, 0], members[:, 1]] = points[members[:, 2]]
        place = cells.new_full((rows, 4), -1)
        place[: len(voxels), 0] = index
        place[: len(voxels), 1:] = cells.flip(1)
        features.append(block)
        coords.append(place)
    return torch.cat(features), torch.cat(coords)


def _group(keys: Tensor, cells: Tensor, max_voxels: int, max_points: int) -> tuple[Tensor, Tensor, Tensor]:
    """(keys of the voxels in order of arrival, their cells, rows (voxel, slot, point) of the points that are kept)."""
    unique, voxel_of = torch.unique(keys, return_inverse=True)
    numbers = torch.arange(len(keys), device=keys.device)
    first = numbers.new_full((len(unique),), len(keys)).scatter_reduce(0, voxel_of, numbers, "amin")
    arrival = torch.argsort(first)
    rank = torch.empty_like(arrival)
    rank[arrival] = torch.arange(len(unique), device=keys.device)
    voxel_of = rank[voxel_of]
    order = torch.argsort(voxel_of, stable=True)
    ordered = voxel_of[order]
    start = torch.searchsorted(ordered, ordered)
    slot = torch.arange(len(order), device=keys.device) - start
    kept = (ordered < max_voxels) & (slot < max_points)
    chosen = arrival[:max_voxels]
    return unique[chosen], cells[first[chosen]], torch.stack([ordered, slot, order], 1)[kept]


def _normalized(points: Tensor, norm_range: Sequence[float], norm_dims: Sequence[int] | None) -> Tensor:
    count = len(norm_range) // 2
    dims = list(range(count)) if norm_dims is None else list(norm_dims)
    low, high = (
        torch.as_tensor(v, dtype=points.dtype, device=points.device) for v in (norm_range[:count], norm_range[count:])
    )
    points = points.clone()
    points[:, dims] = (points[:, dims] - low) / (high - low)
    return points


@wrap(skip_compile=True)  # type: ignore[untyped-decorator]
def rle(x: Tensor, dtype: torch.dtype = torch.int16) -> list[Tensor]:
    """Run-length encoding of each image of a batch, row by row.

    Args:
        x: [N, ...] integers.
        dtype: type of the result; longer runs than it holds are cut into several.

    Returns:
        For each image [runs, 2]: value, length.
    """
    longest, found = torch.iinfo(dtype).max, []
    for image in x.flatten(1):
        values, lengths = torch.unique_consecutive(image, return_counts=True)
        pieces = (lengths + longest - 1) // longest
        last = torch.cumsum(pieces, 0) - 1
        runs = torch.repeat_interleave(values, pieces)
        counts = torch.full_like(runs, longest, dtype=torch.int64)
        counts[last] = lengths - (pieces - 1) * longest
        found.append(torch.stack([runs.to(torch.int64), counts], 1).to(dtype))
    return found


def warp(x: Tensor, offsets: Tensor, mode: str = "bilinear", padding_mode: str = "zeros") -> Tensor:
    """x [N, C, H, W] sampled at each pixel's own place plus `offsets` [N, H, W, 2] (x, y) in pixels."""
    return GridSample(mode, padding_mode)(x, offsets)

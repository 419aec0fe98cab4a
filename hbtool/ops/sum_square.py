"""Sum of squares over axes: exact integer sum, then one requantization (inside normalizations)."""

from __future__ import annotations

from hbtool.ops.reduce_mean import ReduceSum


class ReduceSumSquare(ReduceSum):
    """y = clamp(saturate(round_half_even(float32(sum((x - zp_x)^2)) * m) + zp_y))."""

    name = "ReduceSumSquare"
    squared = True

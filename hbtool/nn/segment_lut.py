"""Any function of one variable on the BPU: a module around it, evaluated from a table after conversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class SegmentLUT(nn.Module):
    """A function that the fixed-point model reads from a table with one entry for each input integer.

    A table of all 256 (int8) or 65536 (int16) entries needs no segments, so the arguments that place segments change
    nothing; they are kept for scripts that pass them.

    Args:
        simulated_func: elementwise float function.
        is_centrosymmetric: accepted for compatibility.
        dividing_points: accepted for compatibility.
        input_range: (low, high) that the input is clipped to, None = not clipped.
        auto_divide_strategy: accepted for compatibility.
        inverse_func: accepted for compatibility.
    """

    def __init__(
        self,
        simulated_func: Callable[[Tensor], Tensor],
        is_centrosymmetric: bool = False,
        dividing_points: Sequence[float] | None = None,
        input_range: tuple[float, float] | None = None,
        auto_divide_strategy: str = "evenly",
        inverse_func: Callable[[Tensor], Tensor] | None = None,
        **ignored: Any,
    ) -> None:
        super().__init__()
        self.simulated_func = simulated_func
        self.input_range = input_range

    def forward(self, x: Tensor) -> Tensor:
        """simulated_func(x), any shape."""
        return self.simulated_func(x if self.input_range is None else torch.clamp(x, *self.input_range))


class LookUpTable(SegmentLUT):
    """`SegmentLUT` with the function alone."""

    def __init__(self, func: Callable[[Tensor], Tensor]) -> None:
        super().__init__(func)

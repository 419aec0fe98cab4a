"""Functions whose integer form keeps the scale of its input, as modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hbtool.utils.fx_helper import wrap


class Abs(nn.Module):
    """|x|; the smallest integer, which has no positive counterpart, saturates."""

    def forward(self, x: Tensor) -> Tensor:
        """|x|, any shape."""
        return torch.abs(x)


class Clamp(nn.Module):
    """min(max(x, low), high) for numbers.

    Args:
        min: low limit, None for none.
        max: high limit, None for none.
    """

    def __init__(self, min: float | None = None, max: float | None = None) -> None:
        super().__init__()
        self.low = None if min is None else float(min)
        self.high = None if max is None else float(max)

    def forward(self, x: Tensor) -> Tensor:
        """x inside the limits, any shape."""
        return torch.clamp(x, self.low, self.high)

    def extra_repr(self) -> str:
        """The limits."""
        return f"min={self.low}, max={self.high}"


@wrap()  # type: ignore[untyped-decorator]
def fill_unselected(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """x where the boolean mask (broadcast) is set, `value` elsewhere."""
    return torch.where(mask, x, torch.as_tensor(value, dtype=x.dtype, device=x.device))


class MaskedFill(nn.Module):
    """A number in place of the elements that a mask selects; it saturates at the range of x.

    Args:
        value: the number.
        keep: the mask says which elements stay instead.
    """

    def __init__(self, value: float, keep: bool = False) -> None:
        super().__init__()
        self.value, self.keep = float(value), keep

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x with `value` where the boolean mask (broadcast) is set."""
        return fill_unselected(x, mask, self.value) if self.keep else torch.masked_fill(x, mask, self.value)

    def extra_repr(self) -> str:
        """The number."""
        return f"value={self.value}"

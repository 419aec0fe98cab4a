"""FloatFunctional: tensor functions as a module, so that the result can own a scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def _scalar(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) else value


METHODS: dict[str, Callable[..., Tensor]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "add_scalar": lambda x, y: x + _scalar(y),
    "mul_scalar": lambda x, y: x * _scalar(y),
    "add_relu": lambda x, y: torch.relu(x + y),
    "cat": lambda x, dim=0: torch.cat(list(x), dim),
    "sum": lambda x, dim=None, keepdim=False: x.sum() if dim is None else torch.sum(x, dim, keepdim),
    "mean": lambda x, dim=None, keepdim=False: x.mean() if dim is None else torch.mean(x, dim, keepdim),
    "matmul": lambda x, y, x_trans=False, y_trans=False: torch.matmul(
        x.transpose(-1, -2) if x_trans else x, y.transpose(-1, -2) if y_trans else y
    ),
    "where": torch.where,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
"""What each method computes, on float tensors."""


class FloatFunctional(nn.Module):
    """Functions of several tensors whose result is quantized: one instance, one call per forward.

    The result passes through `activation_post_process` (nothing in a float model).
    """

    def __init__(self) -> None:
        super().__init__()
        self.activation_post_process: nn.Module | None = nn.Identity()

    def forward(self, *args: Any, method: str = "add", **kwargs: Any) -> Tensor:
        """Result of `method` (what a traced model calls)."""
        y = METHODS[method](*args, **kwargs)
        return y if self.activation_post_process is None else self.activation_post_process(y)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        return self(x, y, method="add")

    def sub(self, x: Tensor, y: Tensor) -> Tensor:
        """x - y."""
        return self(x, y, method="sub")

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """x * y."""
        return self(x, y, method="mul")

    def div(self, x: Tensor, y: Tensor) -> Tensor:
        """x / y."""
        return self(x, y, method="div")

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """x + y for a number y."""
        return self(x, y, method="add_scalar")

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """x * y for a number y."""
        return self(x, y, method="mul_scalar")

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """max(x + y, 0)."""
        return self(x, y, method="add_relu")

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        """The tensors joined along `dim`."""
        return self(x, dim, method="cat")

    def sum(self, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Sum over `dim`."""
        return self(x, dim, keepdim, method="sum")

    def mean(self, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Mean over `dim`."""
        return self(x, dim, keepdim, method="mean")

    def matmul(self, x: Tensor, y: Tensor, x_trans: bool = False, y_trans: bool = False) -> Tensor:
        """Matrix product, either operand transposed on request."""
        return self(x, y, x_trans, y_trans, method="matmul")

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """x where the condition is set, else y."""
        return self(condition, x, y, method="where")

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:
        """Elementwise maximum."""
        return self(x, y, method="maximum")

    def minimum(self, x: Tensor, y: Tensor) -> Tensor:
        """Elementwise minimum."""
        return self(x, y, method="minimum")


class Matmul(nn.Module):
    """Matrix product as a module with a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.product = FloatFunctional()

    def forward(self, x: Tensor, y: Tensor, x_trans: bool = False, y_trans: bool = False) -> Tensor:
        """x @ y, either operand transposed on request."""
        return self.product.matmul(x, y, x_trans, y_trans)

"""Functions the BPU evaluates from a table, as modules: drop-in for the torch function of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class LUTModule(nn.Module):
    """Base of the modules whose integer form is a table: one output for each integer input."""

    function: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """f(x), any shape."""
        return type(self).function(x)


def _module(name: str, function: Callable[[Tensor], Tensor]) -> Any:
    doc = f"torch.{function.__name__} as a module."
    return type(name, (LUTModule,), {"function": staticmethod(function), "__module__": __name__, "__doc__": doc})


Acos = _module("Acos", torch.acos)
Acosh = _module("Acosh", torch.acosh)
Asin = _module("Asin", torch.asin)
Asinh = _module("Asinh", torch.asinh)
Atan = _module("Atan", torch.atan)
Atanh = _module("Atanh", torch.atanh)
Ceil = _module("Ceil", torch.ceil)
Cos = _module("Cos", torch.cos)
Cosh = _module("Cosh", torch.cosh)
Erf = _module("Erf", torch.erf)
Exp = _module("Exp", torch.exp)
Floor = _module("Floor", torch.floor)
HardLog = _module("HardLog", torch.log)
Reciprocal = _module("Reciprocal", torch.reciprocal)
Round = _module("Round", torch.round)
Rsqrt = _module("Rsqrt", torch.rsqrt)
Selu = _module("Selu", torch.selu)
Sign = _module("Sign", torch.sign)
Sin = _module("Sin", torch.sin)
Sinh = _module("Sinh", torch.sinh)
Sqrt = _module("Sqrt", torch.sqrt)
Tan = _module("Tan", torch.tan)


class Pow(nn.Module):
    """x ** exponent for a constant exponent."""

    def __init__(self, exponent: float | None = None) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, x: Tensor, exponent: float | None = None) -> Tensor:
        """x ** exponent, any shape."""
        power = self.exponent if exponent is None else exponent
        return torch.pow(x, 2.0 if power is None else power)


class Div(nn.Module):
    """x / y for two tensors."""

    def forward(self, x: Tensor, y: Tensor, rounding_mode: str | None = None) -> Tensor:
        """x / y, broadcast."""
        return torch.div(x, y, rounding_mode=rounding_mode)

"""Paths that scripts import for fixed-point forms; the fixed-point model is one module in hbtool."""

from hbtool.nn.functional_module import FloatFunctional
from hbtool.quantization.fixed_point import QuantizedGraphModule

__all__ = ["FloatFunctional", "QuantizedGraphModule"]

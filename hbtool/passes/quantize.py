"""The ordered list from a placed float graph with known ranges to integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from hbtool.numerics.ranges import Range
from hbtool.ops.op import Family
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.to_standard_onnx import to_standard_onnx


@dataclass(frozen=True)
class Quantized:
    """One quantization of a model, in its three forms.

    Attributes:
        ranged: float nodes, values with their meaning.
        integer: the INTEGER graph.
        standard: the same integers in standard ONNX.
    """

    ranged: ir.Model
    integer: ir.Model
    standard: ir.Model


def quantize(
    placed: ir.Model, ranges: Mapping[str, Range], options: RangeOptions, family: Family, multiplier_bits: int
) -> Quantized:
    """Attach ranges to a copy of `placed`, lower it, write it as standard ONNX."""
    ranged = placed.clone()
    attach_ranges(ranged, ranges, options)
    return from_ranged(ranged, family, multiplier_bits)


def from_ranged(ranged: ir.Model, family: Family, multiplier_bits: int) -> Quantized:
    """The integer forms of a RANGED graph."""
    integer = lower_to_integer(ranged, family, multiplier_bits)
    return Quantized(ranged, integer, to_standard_onnx(integer))

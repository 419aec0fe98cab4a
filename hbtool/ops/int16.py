"""Which operators can read or write int16, per BPU family: the vendor's lists and logs, as data of the operators.

Sources: reference notes on int16 (plugin 2.14, operator lists) and the published refusal of MatMul's second input.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.op import Family, FloatOp

LARGEST_WEIGHT_SUM = (1 << 16) - 1
"""2^15 * sum |w| < 2^31: above it some int16 input can drive the exact sum out of int32."""


def int16_refusal(op: FloatOp, node: ir.Node, family: Family, position: int | None) -> str | None:
    """Why input `position` (None: an output) of `node` cannot be int16 on `family`, None if it can.

    Multiply-accumulate operators with constant weights read int16 only where no input can drive their exact sum out
    of int32.
    """
    if (reason := kind_refusal(op, node.op_type, family, position)) is not None or position != 0:
        return reason
    for index, axis in op.weight_axes(node).items():
        weight = graph.constant(node.inputs[index])
        if weight is not None and (reason := weight_sum_refusal(weight, axis)) is not None:
            return reason
    return None


def kind_refusal(op: FloatOp, op_type: str, family: Family, position: int | None) -> str | None:
    """Why no operator of this kind takes int16 at `position`, None if it depends on the node."""
    if family == "bernoulli2":
        return "bernoulli2 has no int16"
    if family in op.int8_only:
        return f"{op_type} reads and writes int8 only on {family}"
    if position is not None and position in op.int8_positions.get(family, ()):
        return f"input {position} of {op_type} is int8 on {family}"
    return None


def weight_sum_refusal(weight: np.ndarray, axis: int) -> str | None:
    """Why constant weights (output channels on `axis`) cannot meet int16 inputs, None if they can."""
    if (largest := largest_weight_sum(weight, axis)) <= LARGEST_WEIGHT_SUM:
        return None
    return (
        f"its sums could leave int32 (the int8 weights of one output add up to {largest}, "
        f"int16 inputs allow {LARGEST_WEIGHT_SUM})"
    )


def largest_weight_sum(weight: np.ndarray, axis: int) -> int:
    """The largest sum of absolute int8 weights of any channel along `axis` (each quantized to +-127)."""
    rows = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).astype(np.float64)
    top = rows.max(axis=1, initial=0.0)
    used = top > 0
    return int(np.ceil((rows.sum(axis=1)[used] / top[used] * 127).max(initial=0.0)))

"""FLOAT with Q/DQ -> RANGED: the road of a model whose ranges come from training or from another tool.

Before: a float graph with QuantizeLinear / DequantizeLinear pairs.
After: float nodes with devices, values with meanings; ready for `lower_to_integer`.
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.ops.op import Family
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.fuse_elementwise import fuse_elementwise
from hbtool.passes.matmul_to_gemm import matmul_to_gemm
from hbtool.passes.place import PlacementRequest, place
from hbtool.passes.place_trained import place_trained
from hbtool.passes.read_qdq import read_qdq


def range_trained(
    model: ir.Model, family: Family, request: PlacementRequest | None = None, options: RangeOptions | None = None
) -> ir.Model:
    """`model` itself, RANGED in place.

    Only rewrites that leave trained weights and ranges alone are applied.

    Args:
        model: every shape known, one opset the operators understand.
        family: BPU family.
        request: what the user asks of placement; it comes before what training says.
        options: types of outputs.

    Raises:
        ModelError: a Q/DQ pair cannot be read, or a BPU node has no range.
    """
    read_qdq(model)
    matmul_to_gemm(model)
    fuse_elementwise(model)
    place(model, family, place_trained(model, request))
    fuse_clamps(model)
    attach_ranges(model, {}, options)
    return model

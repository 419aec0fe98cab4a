"""Standard Q/DQ -> meanings on values: how ranges come in from quantization-aware training or another tool.

Before: x -> QuantizeLinear -> DequantizeLinear -> Conv, weights -> DequantizeLinear -> Conv.
After: x -> Conv with `QParams` on x; float weights with `QParams`; no Q/DQ nodes around float values.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.errors import ModelError
from hbtool.ir import graph, meta
from hbtool.numerics import qtype
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType, QParams
from hbtool.passes.transpose_trained import transpose_trained

_TYPES: dict[str, tuple[IntType, int]] = {
    "int8": (INT8, 0),
    "uint8": (INT8, -128),
    "int16": (INT16, 0),
    "int32": (INT32, 0),
}
"""Storage type -> (machine type, what to add to its integers)."""


def has_qdq(model: ir.Model) -> bool:
    """Whether the model carries ranges as DequantizeLinear nodes."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph)


def read_qdq(model: ir.Model) -> None:
    """Turn every Q/DQ pair and every dequantized constant of `model` into `QParams`, in place.

    Raises:
        ModelError: a scale is computed, or a pair does not fit together (names the node).
    """
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear":
            _read(model, node)
    for node in reversed(list(model.graph)):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not any(
            v.uses() or v.is_graph_output() for v in node.outputs
        ):
            model.graph.remove(node, safe=True)
    transpose_trained(model)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def _read(model: ir.Model, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None, "DequantizeLinear has an input"
    integers = graph.constant(source)
    if integers is not None:
        q, offset = _meaning(node, integers.dtype)
        real = qtype.dequantize(integers.astype(np.int64) + offset, q)
        _fold(model, node, real, q)
        return
    quantize = source.producer()
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return
    q, _ = _meaning(node, None)
    if _meaning(quantize, None)[0] != q:
        raise ModelError(
            "QuantizeLinear and DequantizeLinear of one pair differ in scale or zero point",
            where=graph.node_name(node),
            hint="Export the model again; hbtool reads pairs that quantize and dequantize alike.",
        )
    value = quantize.inputs[0]
    assert value is not None, "QuantizeLinear has an input"
    real_constant = graph.constant(value)
    if real_constant is not None:
        _fold(model, node, real_constant.astype(np.float32), q)
        return
    known = meta.qparams(value)
    if (known is not None and known != q) or (value.is_graph_input() and node.outputs[0].is_graph_output()):
        value = _identity(model, node, value)
    meta.set_qparams(value, q)
    _take_over(node.outputs[0], value)


def _meaning(node: ir.Node, stored: np.dtype | None) -> tuple[QParams, int]:
    """(meaning, what to add to the stored integers) of a Q or DQ node."""
    scale, zero_point = graph.constant(node.inputs[1]), graph.constant(graph.input_at(node, 2))
    if scale is None or (zero_point is None and graph.input_at(node, 2) is not None):
        raise ModelError("the scale or zero point is computed", where=graph.node_name(node))
    name = str(zero_point.dtype if zero_point is not None else stored if stored is not None else "uint8")
    if name not in _TYPES:
        raise ModelError(f"quantized type {name} is not supported", where=graph.node_name(node))
    type_, offset = _TYPES[name]
    zeros = np.zeros(1, np.int64) if zero_point is None else zero_point.reshape(-1).astype(np.int64)
    shifted = zeros + offset
    scales = tuple(float(s) for s in np.asarray(scale, np.float32).reshape(-1))
    if len(scales) == 1:
        return QParams(type_, scales, int(shifted[0])), offset
    if np.any(shifted != 0):
        raise ModelError("per-channel zero points are not supported", where=graph.node_name(node))
    rank = _rank(node)
    axis = int(graph.attribute(node, "axis", 1))
    return QParams(type_, scales, 0, axis + rank if axis < 0 else axis), offset


def _rank(node: ir.Node) -> int:
    value = node.inputs[0]
    return len(value.shape) if value is not None and value.shape is not None else 0


def _fold(model: ir.Model, node: ir.Node, real: np.ndarray, q: QParams) -> None:
    """The node's result as a float constant with a meaning."""
    name = f"{node.outputs[0].name}_folded"
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(real), name=name))
    value.shape, value.dtype = ir.Shape(real.shape), ir.DataType.FLOAT
    meta.set_qparams(value, q)
    model.graph.register_initializer(value)
    node.outputs[0].replace_all_uses_with(value)


def _identity(model: ir.Model, before: ir.Node, value: ir.Value) -> ir.Value:
    """A copy of the value that can carry a second meaning."""
    out = ir.Value(name=f"{before.outputs[0].name}_requantized")
    out.shape, out.type = value.shape, value.type
    node = ir.Node("", "Identity", [value], outputs=[out], name=f"{graph.node_name(before)}_Identity")
    model.graph.insert_before(before, node)
    return out


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand wherever `old` stood, also as a graph output (whose name it takes)."""
    if old.is_graph_output():
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = f"{name}_dequantized"
        new.name = name
    else:
        old.replace_all_uses_with(new)

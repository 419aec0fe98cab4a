"""INTEGER -> standard ONNX: every integer operator written as operators that stock onnxruntime runs.

Before: nodes of the domain `hbtool`.
After: only standard (and com.microsoft) nodes; int8 values travel as uint8, int16 as float32 (see `onnx_builder`).
Graph inputs and outputs keep their names and types.
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics.qtype import INT8, INT16, IntType
from hbtool.ops.onnx_builder import OFFSET, OnnxBuilder, Operand, encoded_type
from hbtool.ops.op import integer_op, is_integer, read_attributes

_TYPES: dict[ir.DataType | None, IntType] = {ir.DataType.INT8: INT8, ir.DataType.INT16: INT16}


def to_standard_onnx(integer: ir.Model) -> ir.Model:
    """The standard form of an INTEGER graph (which is left untouched)."""
    model = integer.clone()
    builder = OnnxBuilder(model.graph)
    encoded: dict[ir.Value, ir.Value] = {}
    nodes = [n for n in model.graph if is_integer(n)]
    for value in model.graph.inputs:
        if value.dtype in _TYPES:
            _encode_input(model, builder, value, encoded)
    for node in nodes:
        _write_node(builder, node, encoded)
    for index, value in enumerate(model.graph.outputs):
        if value in encoded:
            _decode_output(model, builder, index, value, encoded[value])
    model.graph.remove(reversed(nodes), safe=True)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
    model.opset_imports.pop(graph.INTEGER_DOMAIN, None)
    model.opset_imports["com.microsoft"] = 1
    return model


def _write_node(builder: OnnxBuilder, node: ir.Node, encoded: dict[ir.Value, ir.Value]) -> None:
    builder.start(graph.node_name(node), before=node)
    operands = [_operand(value, encoded) for value in node.inputs]
    types = [t for v in node.outputs if (t := _int_type(v)) is not None]
    op = integer_op(node)
    results = op.to_onnx(builder, read_attributes(node), operands, types)
    for value, result in zip(node.outputs, results, strict=True):
        result.metadata_props.update(value.metadata_props)
        own = _int_type(value)
        if own is None:
            result.shape, result.type = value.shape, value.type
            name, value.name = value.name, f"{value.name}_replaced"
            value.replace_all_uses_with(result, replace_graph_outputs=True)
            result.name = name
        else:
            result.shape, result.dtype = value.shape, encoded_type(own)
            encoded[value] = result


def _operand(value: ir.Value | None, encoded: dict[ir.Value, ir.Value]) -> Operand | None:
    if value is None:
        return None
    array = graph.constant(value)
    return Operand(
        _int_type(value), graph.static_shape(value), None if array is not None else encoded.get(value, value), array
    )


def _int_type(value: ir.Value) -> IntType | None:
    q = meta.qparams(value)
    if q is not None and value.dtype != ir.DataType.FLOAT:
        return q.type
    return _TYPES.get(value.dtype)


def _encode_input(model: ir.Model, builder: OnnxBuilder, value: ir.Value, encoded: dict[ir.Value, ir.Value]) -> None:
    builder.start(f"{value.name}_encode", before=model.graph[0])
    real = builder.op("Cast", value, to=int(ir.DataType.FLOAT))
    if _int_type(value) is INT8:
        real = builder.op("QuantizeLinear", real, builder.const(1.0, "float32"), builder.const(OFFSET, "uint8"))
    encoded[value] = real


def _decode_output(model: ir.Model, builder: OnnxBuilder, index: int, value: ir.Value, travelling: ir.Value) -> None:
    """An integer graph output: back to its own type under its own name."""
    builder.start(f"{value.name}_decode", before=None)
    out = travelling
    if _int_type(value) is INT8:
        out = builder.op("Sub", builder.op("Cast", out, to=int(ir.DataType.INT16)), builder.const(OFFSET, "int16"))
    out = builder.op("Cast", out, to=int(value.dtype or ir.DataType.INT32))
    name, value.name = value.name, f"{value.name}_replaced"
    out.name, out.shape, out.type = name, value.shape, value.type
    out.metadata_props.update(value.metadata_props)
    model.graph.outputs[index] = out

"""RANGED -> standard Q/DQ: what any runtime and any other tool can read.

Before: values with `QParams`.
After: QuantizeLinear -> DequantizeLinear on every value that a BPU node reads as integers, integer weights behind a
DequantizeLinear. Fused clamps stay next to their producer, high-precision outputs carry no pair.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics import qtype
from hbtool.numerics.qtype import INT32, QParams
from hbtool.ops.op import float_op


def to_qdq(ranged: ir.Model) -> ir.Model:
    """The Q/DQ form of a RANGED graph (which is left untouched)."""
    model = ranged.clone()
    done: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        op = float_op(node)
        if not meta.on_bpu(node) or op is None:
            continue
        for index in op.weight_axes(node):
            _wrap_constant(model, node, index, done)
        if meta.fused_into(node) is None:
            for index in op.quantized_inputs(node):
                _wrap_input(model, node, index, done)
    for value in list(model.graph.outputs):
        _wrap_output(model, value)
    return model


def _scale_and_zero_point(model: ir.Model, stem: str, q: QParams) -> tuple[ir.Value, ir.Value]:
    scales = np.asarray(q.scales, np.float32)
    zeros = np.full(scales.shape, q.zero_point, q.type.dtype)
    if q.axis is None:
        scales, zeros = scales.reshape(()), zeros.reshape(())
    return _constant(model, f"{stem}_scale", scales), _constant(model, f"{stem}_zero_point", zeros)


def _constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    model.graph.register_initializer(value)
    return value


def _node(
    op_type: str, inputs: list[ir.Value], q: QParams, name: str, type_: ir.DataType, shape: ir.Shape | None
) -> ir.Node:
    attributes = [ir.AttrInt64("axis", q.axis)] if q.axis is not None else []
    out = ir.Value(name=f"{name}_output", shape=shape, type=ir.TensorType(type_))
    return ir.Node("", op_type, inputs, attributes, outputs=[out], name=name)


def _pair(model: ir.Model, value: ir.Value, q: QParams, before: ir.Node | None) -> ir.Value:
    stem = graph.value_name(value)
    parameters = _scale_and_zero_point(model, stem, q)
    integer = ir.DataType.from_numpy(np.dtype(q.type.dtype))
    quantize = _node("QuantizeLinear", [value, *parameters], q, f"{stem}_QuantizeLinear", integer, value.shape)
    back = _node(
        "DequantizeLinear",
        [quantize.outputs[0], *parameters],
        q,
        f"{stem}_DequantizeLinear",
        ir.DataType.FLOAT,
        value.shape,
    )
    for node in (quantize, back):
        if before is None:
            model.graph.append(node)
        else:
            model.graph.insert_before(before, node)
    return back.outputs[0]


def _wrap_input(model: ir.Model, node: ir.Node, index: int, done: dict[ir.Value, ir.Value]) -> None:
    value = node.inputs[index]
    q = meta.qparams(value) if value is not None else None
    if value is None or q is None or q.type is INT32:
        return
    if value not in done:
        done[value] = _pair(model, value, q, node)
    node.replace_input_with(index, done[value])


def _wrap_constant(model: ir.Model, node: ir.Node, index: int, done: dict[ir.Value, ir.Value]) -> None:
    value = node.inputs[index]
    array = graph.constant(value)
    q = meta.qparams(value) if value is not None else None
    if value is None or array is None or q is None:
        return
    if value not in done:
        stem = graph.value_name(value)
        integers = _constant(model, f"{stem}_quantized", qtype.quantize(array, q))
        parameters = _scale_and_zero_point(model, stem, q)
        back = _node(
            "DequantizeLinear", [integers, *parameters], q, f"{stem}_DequantizeLinear", ir.DataType.FLOAT, value.shape
        )
        model.graph.insert_before(node, back)
        done[value] = back.outputs[0]
    node.replace_input_with(index, done[value])
    if not value.uses():
        del model.graph.initializers[graph.value_name(value)]


def _wrap_output(model: ir.Model, value: ir.Value) -> None:
    """A quantized model output: the pair keeps the output's name."""
    q = meta.qparams(value)
    producer = value.producer()
    if q is None or q.type is INT32 or producer is None or not meta.on_bpu(producer):
        return
    name, value.name = graph.value_name(value), f"{value.name}_before_quantization"
    out = _pair(model, value, q, None)
    out.name = name
    for index, output in enumerate(model.graph.outputs):
        if output is value:
            model.graph.outputs[index] = out

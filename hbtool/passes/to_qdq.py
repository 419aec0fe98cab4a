"""RANGED -> standard Q/DQ: what any runtime and any other tool can read.

Before: values with `QParams`.
After: QuantizeLinear -> DequantizeLinear on every value that a BPU node reads as integers, integer weights behind a
DequantizeLinear. Fused clamps stay next to their producer, high-precision outputs carry no pair.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ir.names import FreshNames
from hbtool.numerics import qtype
from hbtool.numerics.qtype import INT32, QParams
from hbtool.ops.op import float_op


def to_qdq(ranged: ir.Model) -> ir.Model:
    """The Q/DQ form of a RANGED graph (which is left untouched)."""
    model = ranged.clone()
    writer = QdqWriter(model)
    for node in list(model.graph):
        op = float_op(node)
        if not meta.on_bpu(node) or op is None:
            continue
        for index in op.weight_axes(node):
            writer.wrap_constant(node, index)
        if meta.fused_into(node) is None:
            for index in op.quantized_inputs(node):
                writer.wrap_input(node, index)
    for value in list(model.graph.outputs):
        producer = value.producer()
        if producer is not None and meta.on_bpu(producer):
            writer.wrap_output(value)
    return model


class QdqWriter:
    """Puts the pairs into one model, one pair per value."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.names = FreshNames(model.graph)
        self.done: dict[ir.Value, ir.Value] = {}

    def wrap_input(self, node: ir.Node, index: int) -> None:
        """An activation that `node` reads."""
        value = node.inputs[index]
        q = meta.qparams(value) if value is not None else None
        if value is None or q is None or q.type is INT32:
            return
        if value not in self.done:
            self.done[value] = self._pair(value, q, node)
        node.replace_input_with(index, self.done[value])

    def wrap_constant(self, node: ir.Node, index: int) -> None:
        """A weight of `node`."""
        value = node.inputs[index]
        array = graph.constant(value)
        q = meta.qparams(value) if value is not None else None
        if value is None or array is None or q is None:
            return
        if value not in self.done:
            stem = graph.value_name(value)
            integers = self._constant(f"{stem}_quantized", qtype.quantize(array, q))
            parameters = self._scale_and_zero_point(stem, q)
            back = self._node("DequantizeLinear", [integers, *parameters], q, stem, ir.DataType.FLOAT, value.shape)
            self.model.graph.insert_before(node, back)
            self.done[value] = back.outputs[0]
        node.replace_input_with(index, self.done[value])
        if not value.uses():
            del self.model.graph.initializers[graph.value_name(value)]

    def wrap_output(self, value: ir.Value) -> None:
        """A quantized model output: the pair keeps the output's name."""
        q = meta.qparams(value)
        if q is None or q.type is INT32:
            return
        name, value.name = graph.value_name(value), self.names.take(f"{value.name}_before_quantization")
        out = self._pair(value, q, None)
        out.name = name
        for index, output in enumerate(self.model.graph.outputs):
            if output is value:
                self.model.graph.outputs[index] = out

    def _pair(self, value: ir.Value, q: QParams, before: ir.Node | None) -> ir.Value:
        stem = graph.value_name(value)
        parameters = self._scale_and_zero_point(stem, q)
        integer = ir.DataType.from_numpy(np.dtype(q.type.dtype))
        quantize = self._node("QuantizeLinear", [value, *parameters], q, stem, integer, value.shape)
        real = ir.DataType.FLOAT
        back = self._node("DequantizeLinear", [quantize.outputs[0], *parameters], q, stem, real, value.shape)
        for node in (quantize, back):
            if before is None:
                self.model.graph.append(node)
            else:
                self.model.graph.insert_before(before, node)
        return back.outputs[0]

    def _scale_and_zero_point(self, stem: str, q: QParams) -> tuple[ir.Value, ir.Value]:
        scales = np.asarray(q.scales, np.float32)
        zeros = np.full(scales.shape, q.zero_point, q.type.dtype)
        if q.axis is None:
            scales, zeros = scales.reshape(()), zeros.reshape(())
        return self._constant(f"{stem}_scale", scales), self._constant(f"{stem}_zero_point", zeros)

    def _constant(self, wanted: str, array: np.ndarray) -> ir.Value:
        name = self.names.take(wanted)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        self.model.graph.register_initializer(value)
        return value

    def _node(
        self, op_type: str, inputs: list[ir.Value], q: QParams, stem: str, type_: ir.DataType, shape: ir.Shape | None
    ) -> ir.Node:
        attributes = [ir.AttrInt64("axis", q.axis)] if q.axis is not None else []
        name = f"{stem}_{op_type}"
        out = ir.Value(name=self.names.take(f"{name}_output"), shape=shape, type=ir.TensorType(type_))
        return ir.Node("", op_type, inputs, attributes, outputs=[out], name=name)

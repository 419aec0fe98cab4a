"""RANGED -> INTEGER: every node on the BPU becomes integer operators, with Quantize and Dequantize at the borders.

Before: float nodes with a device each, values with ranges.
After: nodes of the domain `hbtool` on integer values; float nodes only on the CPU.
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.errors import HbError, ModelError
from hbtool.ir import graph, meta
from hbtool.ops.boundary import BoundaryAttributes, Decode, Dequantize, Quantize, leaving_operator
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.op import float_op, is_integer, write_attributes


def lower_to_integer(ranged: ir.Model, family: str, multiplier_bits: int) -> ir.Model:
    """The INTEGER graph of a RANGED one (which is left untouched).

    Args:
        ranged: placements on every node, `QParams` on every value that a BPU node reads or writes.
        family: BPU family, decides between forms of an operator.
        multiplier_bits: significant bits of the requantization multiplier.

    Raises:
        ModelError: an operator could not be lowered (names the node).
    """
    model = ranged.clone()
    builder = IntegerBuilder(model.graph, family, multiplier_bits, model.functions)
    absorbed = {root: node for node in model.graph if meta.on_bpu(node) and (root := meta.fused_into(node)) is not None}
    lowered: list[ir.Node] = []
    _adopt_integer_inputs(model, builder)
    for node in list(model.graph):
        if not meta.on_bpu(node) or is_integer(node):
            continue
        lowered.append(node)
        if meta.fused_into(node) is not None:
            continue
        _lower_node(node, builder, absorbed.get(graph.node_name(node)))
    _dequantize_what_leaves(model, builder, set(lowered))
    model.graph.remove(reversed(lowered), safe=True)
    _drop_unused_initializers(model)
    model.opset_imports[graph.INTEGER_DOMAIN] = 1
    return model


def _lower_node(node: ir.Node, builder: IntegerBuilder, clamp: ir.Node | None) -> None:
    op = float_op(node)
    if op is None:
        raise ModelError(f"{node.op_type} was placed on the BPU but has no integer form", where=graph.node_name(node))
    builder.start(node, clamp)
    for index in op.quantized_inputs(node):
        value = node.inputs[index]
        if value is not None and graph.constant(value) is None and builder.integer_of(value) is None:
            _quantize(value, node, builder)
    builder.start(node, clamp)
    try:
        op.lower(node, builder)
    except HbError:
        raise
    except Exception as error:
        raise ModelError(
            f"{node.op_type} could not be lowered to integers: {error}",
            where=graph.node_name(node),
            hint="Put the node on the CPU with run_on_cpu and report the model.",
        ) from error


def _adopt_integer_inputs(model: ir.Model, builder: IntegerBuilder) -> None:
    """Image inputs become int8 graph inputs: their integers are the camera's bytes minus 128."""
    for index, value in enumerate(list(model.graph.inputs)):
        q = meta.qparams(value)
        if not meta.integer_input(value) or q is None or not all(meta.on_bpu(n) for n in graph.consumers(value)):
            continue
        integer = ir.Value(name=value.name)
        integer.shape, integer.dtype = value.shape, ir.DataType.INT8
        integer.metadata_props.update(value.metadata_props)
        model.graph.inputs[index] = integer
        value.name = f"{value.name}_float"
        builder.bind(value, integer)


def _quantize(value: ir.Value, before: ir.Node, builder: IntegerBuilder) -> None:
    q = meta.qparams(value)
    if q is None:
        raise ModelError(
            f"value {value.name!r} reaches the BPU without a range",
            where=graph.node_name(before),
            hint="This is a bug in attach_ranges.",
        )
    out = builder.make_value(f"{value.name}_quantized", q, graph.static_shape(value))
    attributes = write_attributes(BoundaryAttributes.of(q))
    node = ir.Node(
        graph.INTEGER_DOMAIN, Quantize.name, [value], attributes, outputs=[out], name=f"{value.name}_HzQuantize"
    )
    meta.set_placement(node, meta.Placement("CPU", "quantizes at the entry of a BPU segment"))
    builder.insert(node)
    builder.bind(value, out)


def _dequantize_what_leaves(model: ir.Model, builder: IntegerBuilder, lowered: set[ir.Node]) -> None:
    for node in lowered:
        for value in node.outputs:
            leaving = [use for use in value.uses() if use.node not in lowered and not _is_boundary(use.node)]
            if not leaving and not value.is_graph_output():
                continue
            integer = builder.integer_of(value)
            if integer is None:
                raise ModelError(f"output {value.name!r} was not lowered", where=graph.node_name(node))
            _dequantize(model, value, integer, [use.node for use in leaving])


def _dequantize(model: ir.Model, value: ir.Value, integer: ir.Value, users: list[ir.Node]) -> None:
    q = meta.qparams(integer)
    assert q is not None, "integer values carry their meaning"
    real = ir.Value(name=value.name)
    value.name = f"{value.name}_float"
    real.shape, real.dtype = value.shape, value.dtype or ir.DataType.FLOAT
    op, attributes = leaving_operator(value, q)
    node = ir.Node(
        graph.INTEGER_DOMAIN,
        op.name,
        [integer],
        write_attributes(attributes),
        outputs=[real],
        name=f"{real.name}_HzDequantize",
    )
    meta.set_placement(node, meta.Placement("CPU", "dequantizes at the exit of a BPU segment"))
    producer = integer.producer()
    if producer is not None:
        model.graph.insert_after(producer, node)
    else:
        model.graph.insert_before(model.graph[0], node)
    for use in list(value.uses()):
        if use.node in users:
            use.node.replace_input_with(use.idx, real)
    for index, output in enumerate(model.graph.outputs):
        if output is value:
            model.graph.outputs[index] = real


def _is_boundary(node: ir.Node) -> bool:
    return is_integer(node) and node.op_type in (Quantize.name, Dequantize.name, Decode.name)


def _drop_unused_initializers(model: ir.Model) -> None:
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del model.graph.initializers[name]

"""One form for arithmetic with constants: what is subtracted is added negated, a divisor of several numbers multiplies.

Before: Sub(x, c); Div(x, c) with c a tensor; Mul(x, Reciprocal(y)); Mul(x, Div(1, y)); Neg(x); Mul(x, x) stays
After: Add(x, -c); Mul(x, 1 / c); Div(x, y); Div(x, y); Mul(x, -1)

Division by a single number stays: it is part of a table, and 1 / c would round once more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import insert, is_standard, number, producer_of, take_place


def unify_arithmetic(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.graph is None or not is_standard(node, *_RULES) or not graph.is_float(node.outputs[0]):
            continue
        changed |= _RULES[node.op_type](model, node)
    return changed


def _negated(model: ir.Model, node: ir.Node) -> bool:
    minus = new_constant(model, f"{graph.node_name(node)}_minus_one", np.asarray(-1.0, np.float32))
    return graph.constant(node.inputs[0]) is None and _replace(model, node, "Mul", minus)


def _by_constant(model: ir.Model, node: ir.Node) -> bool:
    second = node.inputs[1]
    array = graph.constant(second)
    if array is None or second is None or graph.constant(node.inputs[0]) is not None:
        return False
    if node.op_type == "Div":
        if array.size == 1 or np.any(array == 0):
            return False
        return _replace(model, node, "Mul", new_constant(model, f"{second.name}_inverse", 1 / array))
    return _replace(model, node, "Add", new_constant(model, f"{second.name}_negated", -array))


def _by_reciprocal(model: ir.Model, node: ir.Node) -> bool:
    for index in (0, 1):
        inverse = producer_of(node.inputs[index], "Reciprocal", "Div")
        if inverse is None or graph.sole_consumer(inverse.outputs[0]) is not node:
            continue
        if inverse.op_type == "Div" and number(inverse.inputs[0]) != 1.0:
            continue
        divisor, dividend = inverse.inputs[-1], node.inputs[1 - index]
        if divisor is None or dividend is None or graph.constant(dividend) is not None:
            continue
        node.replace_input_with(0, dividend)
        return _replace(model, node, "Div", divisor)
    return False


def _replace(model: ir.Model, node: ir.Node, op_type: str, second: ir.Value) -> bool:
    name, out = graph.node_name(node), node.outputs[0]
    shape = graph.known_shape(out)
    if shape is None:
        return False
    node.name = f"{name}_replaced"
    take_place(model, out, insert(node, op_type, [node.inputs[0], second], shape, name=name))
    return True


_RULES: dict[str, Callable[[ir.Model, ir.Node], bool]] = {
    "Sub": _by_constant,
    "Div": _by_constant,
    "Mul": _by_reciprocal,
    "Neg": _negated,
}

"""Removes copies that broadcasting makes unnecessary, and casts to a wider type and back.

Before: x -> Expand -> Add(., y) with y of the expanded shape; x -> Cast(double) -> Cast(float)
After: Add(x, y); x
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.replace import bypass, is_standard, producer_of

_BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "Equal", "Greater", "Less")
_WIDER = {
    ir.DataType.FLOAT: (ir.DataType.DOUBLE,),
    ir.DataType.FLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.INT32: (ir.DataType.INT64, ir.DataType.DOUBLE),
    ir.DataType.INT8: (ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
    ir.DataType.UINT8: (ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
    ir.DataType.BOOL: (ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT8, ir.DataType.INT8),
}


def remove_expands(model: ir.Model) -> bool:
    """Remove everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if node.graph is None or source is None:
            continue
        if is_standard(node, "Expand") and _broadcast_does_it(node, source):
            changed |= bypass(model, node.outputs[0], source)
        elif is_standard(node, "Cast"):
            first = _cast_there_and_back(node)
            changed |= first is not None and bypass(model, node.outputs[0], first)
    return changed


def _broadcast_does_it(node: ir.Node, source: ir.Value) -> bool:
    out, shape = node.outputs[0], graph.known_shape(source)
    users = graph.consumers(out)
    if shape is None or not users or out.is_graph_output():
        return False
    for user in users:
        others = [graph.known_shape(v) for v in user.inputs if v is not None and v is not out]
        wanted = graph.known_shape(user.outputs[0])
        if not is_standard(user, *_BROADCAST) or wanted is None or any(s is None for s in others):
            return False
        if _broadcast([shape, *(s for s in others if s is not None)]) != wanted:
            return False
    return True


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    rank = max(map(len, shapes))
    full = [(1,) * (rank - len(s)) + s for s in shapes]
    return tuple(max(column) for column in zip(*full, strict=True))


def _cast_there_and_back(node: ir.Node) -> ir.Value | None:
    before = producer_of(node.inputs[0], "Cast")
    first = before.inputs[0] if before is not None else None
    if before is None or first is None or first.dtype is None or first.dtype != node.outputs[0].dtype:
        return None
    return first if before.outputs[0].dtype in _WIDER.get(first.dtype, ()) else None

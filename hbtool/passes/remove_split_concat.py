"""Removes a tensor that is taken apart and put together again unchanged.

Before: x -> Split(axis) -> Concat of all parts in order; x -> Slice(0:k), Slice(k:n) -> Concat in order
After: x
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.replace import bypass, is_standard, producer_of


def remove_split_concat(model: ir.Model) -> bool:
    """Remove everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.graph is None or not is_standard(node, "Concat"):
            continue
        rank = len(graph.known_shape(node.outputs[0]) or ())
        if not rank:
            continue
        axis = graph.attribute(node, "axis", 0) % rank
        source = _split_source(node, axis, rank) or _sliced_source(node, axis, rank)
        if source is not None:
            changed |= bypass(model, node.outputs[0], source)
    return changed


def _split_source(concat: ir.Node, axis: int, rank: int) -> ir.Value | None:
    split = producer_of(concat.inputs[0], "Split")
    if split is None or graph.attribute(split, "axis", 0) % rank != axis:
        return None
    return split.inputs[0] if tuple(concat.inputs) == tuple(split.outputs) else None


def _sliced_source(concat: ir.Node, axis: int, rank: int) -> ir.Value | None:
    position, source = 0, None
    for value in concat.inputs:
        node = producer_of(value, "Slice")
        if node is None or (source is not None and node.inputs[0] is not source):
            return None
        source = node.inputs[0]
        found = _range(node, axis, rank)
        if found is None or found[0] != position:
            return None
        position = found[1]
    shape = graph.known_shape(source) if source is not None else None
    return source if shape is not None and position == shape[axis] else None


def _range(node: ir.Node, axis: int, rank: int) -> tuple[int, int] | None:
    """(start, end) of a Slice without steps along `axis` alone."""
    given = [graph.constant(graph.input_at(node, i)) for i in (1, 2, 3, 4)]
    starts, ends, axes, steps = given
    source = node.inputs[0]
    shape = graph.known_shape(source) if source is not None else None
    if starts is None or ends is None or shape is None or starts.size != 1:
        return None
    if (0 if axes is None else int(axes[0]) % rank) != axis or (steps is not None and int(steps[0]) != 1):
        return None
    size = shape[axis]
    start, end = (min(max(int(v) + size * (int(v) < 0), 0), size) for v in (starts[0], ends[0]))
    return start, end

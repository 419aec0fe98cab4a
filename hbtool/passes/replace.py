"""What rewrites do to a graph: a new node before an old one, a new value in an old one's place under its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.onnx_builder import attr


def insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    shape: Sequence[int],
    attributes: Mapping[str, Any] | None = None,
    name: str = "",
) -> ir.Value:
    """A new standard node in front of `before`, with its metadata; returns its one output, typed like input 0."""
    first = inputs[0]
    assert first is not None, "rewrites create nodes with a first input"
    out = ir.Value(name=f"{name}_output", shape=ir.Shape(tuple(shape)), type=first.type)
    attrs = [attr(key, value) for key, value in (attributes or {}).items()]
    node = ir.Node("", op_type, list(inputs), attrs, outputs=[out], name=name)
    node.metadata_props.update(before.metadata_props)
    assert before.graph is not None, "the node is part of a graph"
    before.graph.insert_before(before, node)
    return out


def take_place(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Every user of `old`, and the graph's outputs, read `new` from now on, under the name of `old`.

    The producer of `old` is removed when nothing else of it is used. `new` must be a value that the rewrite made.
    """
    name, old.name = old.name, f"{old.name}_before_rewriting"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name
    remove_unused(model, old.producer())


def bypass(model: ir.Model, old: ir.Value, source: ir.Value) -> bool:
    """Every user of `old` reads the existing value `source`; False where names of inputs or outputs forbid it."""
    if old.is_graph_output():
        producer = source.producer()
        if producer is None or source.is_graph_output() or producer.graph is not model.graph:
            return False
        take_place(model, old, source)
        return True
    old.replace_all_uses_with(source)
    remove_unused(model, old.producer())
    return True


def remove_unused(model: ir.Model, node: ir.Node | None) -> None:
    """Remove a node that nothing reads, and what only it read."""
    if node is None or node.graph is not model.graph or any(v.uses() or v.is_graph_output() for v in node.outputs):
        return
    before = [v.producer() for v in node.inputs if v is not None]
    model.graph.remove(node, safe=True)
    for producer in dict.fromkeys(before):
        remove_unused(model, producer)


def is_standard(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of the standard operators `op_types`."""
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types


def producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The standard node of one of `op_types` that computes `value`, else None."""
    node = value.producer() if value is not None else None
    return node if is_standard(node, *op_types) else None


def number(value: ir.Value | None) -> float | None:
    """The one number a constant holds, None where it is computed or holds more."""
    array = graph.constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def axes_of(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The axes of a reduction, squeeze or slice (attribute or constant input 1), not negative; None if unknown."""
    found = graph.attribute(node, "axes")
    if found is None:
        given = graph.input_at(node, 1)
        array = graph.constant(given)
        if array is None:
            all_axes = given is None and not graph.attribute(node, "noop_with_empty_axes", 0)
            return tuple(range(rank)) if all_axes else None
        found = array.reshape(-1)
    return tuple(sorted(int(a) % rank for a in np.asarray(found)))


def permutation(node: ir.Node) -> tuple[int, ...]:
    """The permutation of a Transpose; ONNX's default reverses the axes; empty where the rank is unknown."""
    perm = graph.attribute(node, "perm")
    if perm is not None:
        return tuple(perm)
    shape = next((v.shape for v in (*node.outputs, *node.inputs) if v is not None and v.shape is not None), None)
    return tuple(reversed(range(len(shape)))) if shape is not None else ()

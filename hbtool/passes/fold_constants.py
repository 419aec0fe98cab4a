"""Computes at compile time whatever does not depend on the inputs; onnxruntime does the computing.

Before: Shape -> Gather -> Concat -> Reshape, ConstantOfShape, Constant -> Cast, ...
After: initializers. Branches of conditions that are known are taken. Shapes are inferred again after each round, so
that shape computations fold in a few rounds.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ir.load import infer_shapes
from hbtool.ir.onnx_session import make_session
from hbtool.passes.extract import extract_nodes
from hbtool.passes.inline_branches import inline_branches

MAX_ELEMENTS = 1 << 24
"""A folded constant larger than this (64 MB of float32) stays a computation."""

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


def fold_constants(model: ir.Model) -> None:
    """Fold until nothing changes, in place."""
    while True:
        changed = _fold_shapes(model)
        changed |= _fold_round(model)
        changed |= inline_branches(model)
        if not changed:
            return
        infer_shapes(model)


def _fold_shapes(model: ir.Model) -> bool:
    """Shape and Size of values with known shapes."""
    changed = False
    for node in list(model.graph):
        if node.op_type not in ("Shape", "Size") or node.domain not in ("", "ai.onnx"):
            continue
        source = node.inputs[0]
        shape = graph.known_shape(source) if source is not None else None
        if shape is None:
            continue
        if node.op_type == "Size":
            array = np.asarray(graph.elements(shape), np.int64)
        else:
            array = np.asarray(shape[graph.attribute(node, "start", 0) : graph.attribute(node, "end")], np.int64)
        replace_by_constant(model, node.outputs[0], array)
        changed = True
    return changed


def _fold_round(model: ir.Model) -> bool:
    folded: dict[ir.Value, None] = {}
    nodes: list[ir.Node] = []
    for node in model.graph:
        if node.op_type in _RANDOM or next(graph.subgraphs(node), None) is not None or _is_constant_output(node):
            continue
        inputs = [v for v in node.inputs if v is not None]
        if all(graph.constant(v) is not None or v in folded for v in inputs) and _small(node):
            nodes.append(node)
            folded.update(dict.fromkeys(node.outputs))
    if not nodes:
        return False
    inside = set(nodes)
    frontier = [
        v for n in nodes for v in n.outputs if v.is_graph_output() or any(u.node not in inside for u in v.uses())
    ]
    results = []
    if frontier:
        part = extract_nodes(model, nodes, [], frontier)
        results = make_session(part, optimize=False).run(None, {})
    for value, array in zip(frontier, results, strict=True):
        replace_by_constant(model, value, np.asarray(array))
    model.graph.remove(reversed([n for n in nodes if n.graph is not None]), safe=True)
    return True


def _is_constant_output(node: ir.Node) -> bool:
    """An Identity that lets a constant leave the graph: already folded."""
    return (
        node.op_type == "Identity" and graph.constant(node.inputs[0]) is not None and node.outputs[0].is_graph_output()
    )


def _small(node: ir.Node) -> bool:
    if any(v.type is not None and not isinstance(v.type, ir.TensorType) for v in node.outputs):
        return False
    shapes = [graph.known_shape(v) for v in node.outputs]
    return all(s is None or graph.elements(s) <= MAX_ELEMENTS for s in shapes)


def replace_by_constant(model: ir.Model, value: ir.Value, array: np.ndarray) -> None:
    """Let every user of `value` read `array`; a graph output becomes an Identity of the constant."""
    name = f"{value.name}_folded"
    constant = ir.Value(name=name, const_value=ir.tensor(np.asarray(array, order="C"), name=name))
    constant.shape, constant.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    model.graph.register_initializer(constant)
    for use in tuple(value.uses()):
        use.node.replace_input_with(use.idx, constant)
    if value.is_graph_output():
        out = ir.Value(name=value.name, shape=constant.shape, type=constant.type)
        node = ir.Node("", "Identity", [constant], outputs=[out], name=f"{value.name}_identity")
        value.name = f"{value.name}_computed"
        model.graph.append(node)
        for index, output in enumerate(model.graph.outputs):
            if output is value:
                model.graph.outputs[index] = out
    producer = value.producer()
    if producer is not None and not any(v.uses() for v in producer.outputs):
        model.graph.remove(producer, safe=True)

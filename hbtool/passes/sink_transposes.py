"""Moves Transposes behind elementwise operators and reductions, where fewer Transposes are left afterwards.

Before: x -> Transpose -> Relu -> Transpose -> y; Add(Transpose(a), Transpose(b)); a Softmax in pieces between two
After: x -> Relu -> Transpose -> y (merge_transposes joins or removes it); Transpose(Add(a, b))

A region is grown from the Transposes of one permutation: nodes that compute element by element or reduce with axes
kept, fed by nothing but these Transposes and constants. Transposes that read the region are adapted for nothing; every
other value that leaves it needs one new Transpose.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.onnx_builder import attr
from hbtool.ops.op import float_op
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import axes_of, insert, is_standard, permutation, remove_unused

_REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2")
_ELEMENTWISE = ("Pow", "Max", "Min", "Where", "Cast", "PRelu")

Perm = tuple[int, ...]


def sink_transposes(model: ir.Model) -> bool:
    """Move wherever it removes a Transpose; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.graph is None or not is_standard(node, "Transpose"):
            continue
        perm = permutation(node)
        region = _grow(node, perm) if perm else []
        if region and _gain(region, perm) > 0:
            _move(model, region, perm)
            changed = True
    return changed


def _grow(start: ir.Node, perm: Perm) -> list[ir.Node]:
    """The nodes, in execution order, that can work before the Transposes of permutation `perm`."""
    inside: dict[ir.Node, None] = {}
    waiting = list(graph.consumers(start.outputs[0]))
    while waiting:
        node = waiting.pop(0)
        if node in inside or not _movable(node, perm):
            continue
        sources = graph.activations(node)
        if not all(v.producer() in inside or _enters(v, perm) for v in sources):
            continue
        inside[node] = None
        for value in sources:
            if _enters(value, perm):
                waiting.extend(graph.consumers(value))
        for value in node.outputs:
            waiting.extend(graph.consumers(value))
    return [] if any(_feeds_itself(n, inside, perm) for n in inside) else list(inside)


def _feeds_itself(node: ir.Node, inside: dict[ir.Node, None], perm: Perm) -> bool:
    """Whether a Transpose that feeds the node reads the region."""
    for value in graph.activations(node):
        producer = value.producer()
        source = producer.inputs[0] if producer is not None and _enters(value, perm) else None
        if source is not None and source.producer() in inside:
            return True
    return False


def _enters(value: ir.Value, perm: Perm) -> bool:
    producer = value.producer()
    return producer is not None and is_standard(producer, "Transpose") and permutation(producer) == perm


def _movable(node: ir.Node, perm: Perm) -> bool:
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return False
    shape = graph.known_shape(node.outputs[0])
    if shape is None or len(shape) != len(perm):
        return False
    if node.op_type in _REDUCTIONS:
        return bool(graph.attribute(node, "keepdims", 1)) and axes_of(node, len(perm)) is not None
    op = float_op(node)
    if not (node.op_type in _ELEMENTWISE or (op is not None and (op.elementwise or op.clamp(node) is not None))):
        return False
    ranks = [graph.known_shape(v) for v in graph.activations(node)]
    return all(s is not None and len(s) == len(perm) for s in ranks) and all(
        a is None or a.ndim <= len(perm) for a in map(graph.constant, node.inputs)
    )


def _edges(region: list[ir.Node], perm: Perm) -> tuple[list[ir.Node], list[ir.Value], list[ir.Node]]:
    """Transposes that vanish, values that need a Transpose behind them, Transposes that read the region."""
    inside = set(region)
    entries = dict.fromkeys(v for n in region for v in graph.activations(n) if v.producer() not in inside)
    vanishing = [
        p
        for v in entries
        if (p := v.producer()) is not None and not v.is_graph_output() and all(u in inside for u in graph.consumers(v))
    ]
    restored: list[ir.Value] = []
    readers: dict[ir.Node, None] = {}
    for node in region:
        value = node.outputs[0]
        outside = [u for u in graph.consumers(value) if u not in inside]
        others = [u for u in outside if not is_standard(u, "Transpose")]
        readers.update(dict.fromkeys(u for u in outside if is_standard(u, "Transpose")))
        if others or value.is_graph_output():
            restored.append(value)
    return vanishing, restored, list(readers)


def _gain(region: list[ir.Node], perm: Perm) -> int:
    vanishing, restored, readers = _edges(region, perm)
    cancelled = sum(_composed(perm, permutation(r)) == tuple(range(len(perm))) for r in readers)
    return len(vanishing) + cancelled - len(restored)


def _composed(first: Perm, second: Perm) -> Perm:
    return tuple(first[i] for i in second)


def _move(model: ir.Model, region: list[ir.Node], perm: Perm) -> None:
    _, restored, readers = _edges(region, perm)
    inside = set(region)
    for reader in readers:
        reader.attributes["perm"] = attr("perm", _composed(perm, permutation(reader)))
    entries: dict[ir.Node, None] = {}
    for node in region:
        _rewire(model, node, perm, inside, entries)
    for value in restored:
        _restore(value, perm, inside)
    for entry in entries:
        remove_unused(model, entry)


def _rewire(model: ir.Model, node: ir.Node, perm: Perm, inside: set[ir.Node], entries: dict[ir.Node, None]) -> None:
    """Let `node` compute in the layout before the Transposes."""
    reduction = node.op_type in _REDUCTIONS
    if reduction:
        axes = axes_of(node, len(perm))
        assert axes is not None
        node.attributes.pop("axes", None)
        moved = new_constant(model, f"{node.name}_axes", np.asarray([perm[a] for a in axes], np.int64))
        node.resize_inputs(2)
        node.replace_input_with(1, moved)
    for index, value in enumerate(node.inputs):
        if value is None or (reduction and index > 0):
            continue
        array, producer = graph.constant(value), value.producer()
        if array is not None and array.size > 1:
            full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
            turned = full.transpose([perm.index(i) for i in range(len(perm))])
            node.replace_input_with(index, new_constant(model, f"{value.name}_turned", turned))
        elif array is None and producer is not None and producer not in inside:
            entries[producer] = None
            node.replace_input_with(index, producer.inputs[0])
    out = node.outputs[0]
    shape = graph.static_shape(out)
    out.shape = ir.Shape([shape[perm.index(i)] for i in range(len(perm))])


def _restore(value: ir.Value, perm: Perm, inside: set[ir.Node]) -> None:
    """One Transpose for all users outside that expect the old layout."""
    node = value.producer()
    assert node is not None and node.graph is not None
    shape = graph.static_shape(value)
    name = graph.node_name(node)
    uses = [u for u in value.uses() if u.node not in inside and not is_standard(u.node, "Transpose")]
    leaves = value.is_graph_output()
    following = next((n for n in _after(node)), None)
    out = insert(following or node, "Transpose", [value], [shape[i] for i in perm], {"perm": perm}, f"{name}_transpose")
    created = out.producer()
    assert created is not None
    if following is None:
        node.graph.remove(created)
        node.graph.append(created)
    if leaves:
        value.name, out.name = f"{value.name}_before_transpose", value.name
        outputs = node.graph.outputs
        for index, output in enumerate(outputs):
            if output is value:
                outputs[index] = out
    for use in uses:
        use.node.replace_input_with(use.idx, out)


def _after(node: ir.Node) -> list[ir.Node]:
    nodes = list(node.graph) if node.graph is not None else []
    position = nodes.index(node) + 1
    return nodes[position : position + 1]

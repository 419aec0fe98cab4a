"""Takes q, k and v apart before they are transposed, along a channel axis instead of a new first axis.

Before: x [1, T, 3C] -> Reshape [1, T, 3, H, C/H] -> Transpose(2, 0, 3, 1, 4) -> Split or Slices of axis 0 -> Squeeze
After: x -> Slice of the last axis -> Reshape [1, T, H, C/H] -> Transpose(0, 2, 1, 3), for each of the three

The BPU does not split a first axis (it is the batch), and all tensors have four dimensions then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import insert, is_standard, permutation, producer_of, take_place

_DROPPING = ("Squeeze", "Reshape")


@dataclass(frozen=True)
class _Piece:
    """Entry `index` of the first axis, and the node that drops that axis."""

    index: int
    name: str
    dropping: ir.Node


@dataclass(frozen=True)
class _Source:
    """What is sliced instead: `size` entries along `axis` of `value` are one piece; `shape` is a piece's new shape."""

    value: ir.Value
    axis: int
    size: int
    shape: tuple[int, ...]


def slice_before_transpose(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.graph is None or not is_standard(node, "Transpose") or permutation(node)[:1] in ((), (0,)):
            continue
        pieces = _pieces(node)
        source = _source(node) if pieces else None
        if source is None or not pieces:
            continue
        for piece in pieces:
            _rewrite(model, node, piece, source)
        changed = True
    return changed


def _pieces(node: ir.Node) -> list[_Piece]:
    """The single entries of the first axis that are read; none where something else reads the Transpose."""
    if node.outputs[0].is_graph_output():
        return []
    pieces: list[_Piece] = []
    for user in graph.consumers(node.outputs[0]):
        for index, part in _parts(user).items():
            dropping = graph.sole_consumer(part)
            shape = graph.known_shape(part)
            if shape is None or shape[0] != 1 or dropping is None or not is_standard(dropping, *_DROPPING):
                return []
            if graph.known_shape(dropping.outputs[0]) != shape[1:]:
                return []
            pieces.append(_Piece(index, f"{graph.node_name(user)}_{index}", dropping))
        if not _parts(user):
            return []
    return pieces


def _parts(user: ir.Node) -> dict[int, ir.Value]:
    """Entry of the first axis -> the value that holds it, for a Split into single entries or a Slice of one."""
    if is_standard(user, "Split") and graph.attribute(user, "axis", 0) == 0:
        read = {i: v for i, v in enumerate(user.outputs) if v.uses() or v.is_graph_output()}
        single = all(graph.known_shape(v) is not None and graph.static_shape(v)[0] == 1 for v in user.outputs)
        return read if single else {}
    if is_standard(user, "Slice"):
        constants = [graph.constant(graph.input_at(user, i)) for i in (1, 3, 4)]
        starts, axes, steps = constants
        if starts is None or axes is None or axes.tolist() != [0] or (steps is not None and steps.tolist() != [1]):
            return {}
        source = user.inputs[0]
        count = graph.static_shape(source)[0] if source is not None else 0
        return {int(starts[0]) % count: user.outputs[0]} if count else {}
    return {}


def _source(node: ir.Node) -> _Source | None:
    value = node.inputs[0]
    shape = graph.known_shape(value) if value is not None else None
    if value is None or shape is None:
        return None
    axis = permutation(node)[0]
    kept = shape[:axis] + shape[axis + 1 :]
    reshape = producer_of(value, "Reshape")
    before = reshape.inputs[0] if reshape is not None else None
    flat = graph.known_shape(before) if before is not None else None
    if before is not None and flat is not None and len(flat) < len(shape):
        for j, length in enumerate(flat):
            same_start = graph.elements(flat[:j]) == graph.elements(shape[:axis])
            if j > 0 and same_start and length > 1 and length % shape[axis] == 0:
                return _Source(before, j, length // shape[axis], kept)
    return _Source(value, axis, 1, kept)


def _rewrite(model: ir.Model, node: ir.Node, piece: _Piece, source: _Source) -> None:
    shape = graph.static_shape(source.value)
    sliced = (*shape[: source.axis], source.size, *shape[source.axis + 1 :])
    first = piece.index * source.size
    ranges = {"starts": first, "ends": first + source.size, "axes": source.axis, "steps": 1}
    constants = [new_constant(model, f"{piece.name}_{key}", np.asarray([v], np.int64)) for key, v in ranges.items()]
    before, name = piece.dropping, graph.node_name(piece.dropping)
    value = insert(before, "Slice", [source.value, *constants], sliced, name=piece.name)
    before.name = f"{name}_replaced"
    target = new_constant(model, f"{name}_shape", np.asarray(source.shape, np.int64))
    value = insert(before, "Reshape", [value, target], source.shape, name=name)
    perm = permutation(node)
    order = [i - (i > perm[0]) for i in perm[1:]]
    if order != list(range(len(order))):
        turned = [source.shape[i] for i in order]
        value = insert(before, "Transpose", [value], turned, {"perm": order}, f"{name}_transpose")
    take_place(model, before.outputs[0], value)

"""A layer normalization that the exporter wrote in pieces becomes one node; the last piece gives the name.

Before: m = ReduceMean(x); d = Sub(x, m); v = ReduceMean(Pow(d, 2) or Mul(d, d)); Div(d, Sqrt(Add(v, eps)))
        -> Mul(scale) -> Add(bias), both optional
After: LayerNormalization(x, scale, bias); over the channels of NCHW with a Transpose before and one after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import axes_of, insert, is_standard, number, producer_of, take_place


@dataclass(frozen=True)
class _Pieces:
    """x and its shape, normalized axes, epsilon, and the value that is normalized but not scaled."""

    x: ir.Value
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    epsilon: float
    normal: ir.Value


def fuse_layer_norm(model: ir.Model) -> bool:
    """Fuse everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        pieces = _pieces(node) if node.graph is not None and is_standard(node, "Div") else None
        if pieces is None or (order := _order(pieces)) is None:
            continue
        scale, bias, last = _factors(pieces)
        _replace(model, pieces, order, scale, bias, last)
        changed = True
    return changed


def _pieces(div: ir.Node) -> _Pieces | None:
    centred = producer_of(div.inputs[0], "Sub")
    root = producer_of(div.inputs[1], "Sqrt")
    variance = producer_of(root.inputs[0], "Add") if root is not None else None
    if centred is None or variance is None:
        return None
    numbers = [number(v) for v in variance.inputs]
    epsilon = numbers[1] if numbers[0] is None else numbers[0]
    of_squares = producer_of(variance.inputs[0] if numbers[0] is None else variance.inputs[1], "ReduceMean")
    mean = producer_of(centred.inputs[1], "ReduceMean")
    x = centred.inputs[0]
    if epsilon is None or of_squares is None or mean is None or x is None or mean.inputs[0] is not x:
        return None
    shape = graph.known_shape(x)
    if shape is None or not _is_square(of_squares.inputs[0], centred.outputs[0]):
        return None
    axes = axes_of(mean, len(shape))
    if axes is None or axes != axes_of(of_squares, len(shape)) or not graph.is_float(x):
        return None
    kept = [graph.attribute(n, "keepdims", 1) for n in (mean, of_squares)]
    return _Pieces(x, shape, axes, epsilon, div.outputs[0]) if all(kept) else None


def _is_square(value: ir.Value | None, of: ir.Value) -> bool:
    power, product = producer_of(value, "Pow"), producer_of(value, "Mul")
    if power is not None:
        return power.inputs[0] is of and number(power.inputs[1]) == 2.0
    return product is not None and all(v is of for v in product.inputs)


def _order(pieces: _Pieces) -> tuple[int, ...] | None:
    """The permutation that brings the normalized axes to the end; None where they are already split up."""
    rank = len(pieces.shape)
    others = tuple(i for i in range(rank) if i not in pieces.axes)
    if pieces.axes == tuple(range(rank - len(pieces.axes), rank)):
        return tuple(range(rank))
    return others + pieces.axes if len(pieces.axes) == 1 else None


def _factors(pieces: _Pieces) -> tuple[np.ndarray, np.ndarray | None, ir.Value]:
    """Scale and bias over the normalized axes, and the value that the fused node gives."""
    ones = np.ones([pieces.shape[a] for a in pieces.axes], np.float32)
    found = _factor(pieces, pieces.normal, "Mul")
    scale, last = (ones, pieces.normal) if found is None else found
    found = _factor(pieces, last, "Add")
    return (scale, None, last) if found is None else (scale, *found)


def _factor(pieces: _Pieces, value: ir.Value, op_type: str) -> tuple[np.ndarray, ir.Value] | None:
    node = graph.sole_consumer(value)
    if node is None or not is_standard(node, op_type) or graph.known_shape(node.outputs[0]) != pieces.shape:
        return None
    array = graph.constant(node.inputs[1] if node.inputs[0] is value else node.inputs[0])
    if array is None or array.ndim > len(pieces.shape):
        return None
    full = array.reshape((1,) * (len(pieces.shape) - array.ndim) + array.shape)
    if any(n != 1 for i, n in enumerate(full.shape) if i not in pieces.axes):
        return None
    sizes = [pieces.shape[a] for a in pieces.axes]
    return np.broadcast_to(full.reshape([full.shape[a] for a in pieces.axes]), sizes).astype(np.float32), node.outputs[
        0
    ]


def _replace(
    model: ir.Model,
    pieces: _Pieces,
    order: tuple[int, ...],
    scale: np.ndarray,
    bias: np.ndarray | None,
    last: ir.Value,
) -> None:
    before = last.producer()
    assert before is not None
    name, shape = graph.node_name(before), tuple(pieces.shape[i] for i in order)
    moved = order != tuple(range(len(order)))
    x = pieces.x
    if moved:
        x = insert(before, "Transpose", [x], shape, {"perm": order}, f"{name}_channels_last")
    operands = [x, new_constant(model, f"{name}_scale", scale)]
    if bias is not None:
        operands.append(new_constant(model, f"{name}_bias", bias))
    attributes = {"axis": len(shape) - len(pieces.axes), "epsilon": pieces.epsilon}
    before.name = f"{name}_in_pieces"
    out = insert(before, "LayerNormalization", operands, shape, attributes, name)
    if moved:
        back = [order.index(i) for i in range(len(order))]
        out = insert(before, "Transpose", [out], pieces.shape, {"perm": back}, f"{name}_channels_first")
    take_place(model, last, out)

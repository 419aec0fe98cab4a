"""The work of removed head and tail nodes, for the application: prepare what goes in, finish what comes out.

`prepare_input` and `finish_output` do in numpy what the removed nodes did, with the same bits for Quantize, Dequantize,
Transpose, Reshape and Cast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbtool.numerics import qtype
from hbtool.numerics.qtype import QParams, int_type
from hbtool.passes.remove_border_nodes import RemovedNode


def meaning(node: RemovedNode) -> QParams:
    """What the integers at a removed Quantize or Dequantize mean."""
    a = node.attributes
    axis = int(a["axis"])
    scales = tuple(float(s) for s in a["scales"])
    return QParams(int_type(str(a["type"])), scales, int(a["zero_point"]), None if axis < 0 else axis)


def prepare_input(array: np.ndarray, name: str, removed: Sequence[RemovedNode]) -> np.ndarray:
    """What input `name` takes now, from what it took with its head nodes."""
    for node in removed:
        if node.side == "head" and node.value == name:
            array = _forward(array, node)
    return array


def original_input(array: np.ndarray, name: str, removed: Sequence[RemovedNode]) -> np.ndarray:
    """The inverse of `prepare_input` (up to rounding)."""
    for node in reversed([n for n in removed if n.side == "head" and n.value == name]):
        if node.type == "Quantize":
            array = qtype.dequantize(array, meaning(node))
        elif node.type == "Transpose":
            array = np.transpose(array, np.argsort(node.attributes["perm"]))
        elif node.type == "Reshape":
            array = array.reshape(node.in_shape)
        else:
            array = array.astype(node.in_dtype)
    return array


def finish_output(array: np.ndarray, name: str, removed: Sequence[RemovedNode]) -> np.ndarray:
    """What output `name` was with its tail nodes, from what it is now."""
    for node in reversed([n for n in removed if n.side == "tail" and n.value == name]):
        array = _forward(array, node)
    return array


def _forward(array: np.ndarray, node: RemovedNode) -> np.ndarray:
    if node.type == "Quantize":
        return qtype.quantize(array, meaning(node))
    if node.type == "Dequantize":
        return qtype.dequantize(array, meaning(node))
    if node.type == "Transpose":
        return np.transpose(array, node.attributes["perm"])
    if node.type == "Reshape":
        return array.reshape(node.out_shape)
    if node.type == "Softmax":
        axis = int(node.attributes["axis"])
        powers = np.exp(array - array.max(axis=axis, keepdims=True))
        return np.asarray(powers / powers.sum(axis=axis, keepdims=True), array.dtype)
    return array.astype(node.out_dtype)


def formula(node: RemovedNode) -> str:
    """What the application does instead of the node, one line of numpy for a tensor `x`."""
    if node.type in ("Quantize", "Dequantize"):
        q = meaning(node)
        scale = _scale_text(q, len(node.in_shape))
        if node.type == "Quantize":
            shift = f" + {q.zero_point}" if q.zero_point else ""
            return f"np.clip(np.rint(x / {scale}){shift}, {q.type.min}, {q.type.max}).astype(np.{q.type.name})"
        centred = f"(x.astype(np.float32) - {q.zero_point})" if q.zero_point else "x.astype(np.float32)"
        return f"{centred} * {scale}"
    if node.type == "Transpose":
        return f"np.transpose(x, {list(node.attributes['perm'])})"
    if node.type == "Reshape":
        return f"x.reshape({list(node.out_shape)})"
    if node.type == "Softmax":
        axis = node.attributes["axis"]
        return f"e / e.sum({axis}, keepdims=True) with e = np.exp(x - x.max({axis}, keepdims=True))"
    return f"x.astype(np.{node.out_dtype})"


def _scale_text(q: QParams, rank: int) -> str:
    if q.axis is None:
        return f"np.float32({np.float32(q.scale)})"
    shape = [1] * rank
    shape[q.axis] = -1
    return f"scale.reshape({shape})"

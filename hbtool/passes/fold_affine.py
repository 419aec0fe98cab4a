"""Folds what is affine per channel behind a convolution or matrix product into its weights.

Before: Conv -> BatchNormalization, Conv -> Mul(c) / Add(c) / Sub(c) / Div(c) with c one number per channel.
After: one Conv with other weights. It keeps its name; its output takes the name of the folded node's output.

y = a * (w x + b) + c = (a w) x + (a b + c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph


@dataclass(frozen=True)
class _Affine:
    """y = scale * x + shift per channel (axis 1), float64."""

    scale: np.ndarray
    shift: np.ndarray


def fold_affine(model: ir.Model) -> bool:
    """Fold everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        while (following := graph.sole_consumer(node.outputs[0])) is not None:
            folder = _FOLDERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            affine = _affine_of(following, node.outputs[0])
            if folder is None or affine is None or not folder(model, node, affine):
                break
            _take_over(model, node, following)
            changed = True
    return changed


def _affine_of(node: ir.Node, x: ir.Value) -> _Affine | None:
    shape = graph.known_shape(x)
    if shape is None or len(shape) < 2 or graph.known_shape(node.outputs[0]) != shape:
        return None
    channels = shape[1]
    if node.op_type == "BatchNormalization" and len(node.outputs) == 1:
        arrays = [graph.constant(v) for v in node.inputs[1:]]
        if any(a is None for a in arrays):
            return None
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        scale = gamma / np.sqrt(variance + graph.attribute(node, "epsilon", 1e-5))
        return _Affine(scale, beta - mean * scale)
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    second = node.inputs[0] is x
    array = graph.constant(node.inputs[1] if second else node.inputs[0])
    if array is None:
        return None
    padded = (1,) * (len(shape) - array.ndim) + array.shape
    if padded[0] != 1 or padded[1] not in (1, channels) or any(n != 1 for n in padded[2:]):
        return None
    constant = np.broadcast_to(np.asarray(array, np.float64).reshape(-1), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Add":
        return _Affine(one, constant)
    if node.op_type == "Mul":
        return _Affine(constant, zero)
    if node.op_type == "Sub":
        return _Affine(one, -constant) if second else _Affine(-one, constant)
    return _Affine(1 / constant, zero) if second and np.all(constant != 0) else None


def _fold_conv(model: ir.Model, node: ir.Node, affine: _Affine) -> bool:
    return _fold(model, node, affine, channel_axis=0)


def _fold_conv_transpose(model: ir.Model, node: ir.Node, affine: _Affine) -> bool:
    if graph.attribute(node, "group", 1) != 1:
        return False
    return _fold(model, node, affine, channel_axis=1)


def _fold_gemm(model: ir.Model, node: ir.Node, affine: _Affine) -> bool:
    if graph.attribute(node, "alpha", 1.0) != 1.0 or graph.attribute(node, "beta", 1.0) != 1.0:
        return False
    return _fold(model, node, affine, channel_axis=0 if graph.attribute(node, "transB", 0) else 1)


def _fold(model: ir.Model, node: ir.Node, affine: _Affine, channel_axis: int) -> bool:
    weight_value = node.inputs[1]
    weight, bias = graph.constant(weight_value), graph.constant(graph.input_at(node, 2))
    if weight is None or weight_value is None or (graph.input_at(node, 2) is not None and bias is None):
        return False
    channels = affine.scale.size
    if weight.shape[channel_axis] != channels:
        return False
    shape = [1] * weight.ndim
    shape[channel_axis] = channels
    new_weight = weight.astype(np.float64) * affine.scale.reshape(shape)
    old_bias = np.zeros(channels) if bias is None else np.broadcast_to(bias.astype(np.float64).reshape(-1), (channels,))
    new_bias = affine.scale * old_bias + affine.shift
    node.resize_inputs(3)
    node.replace_input_with(1, new_constant(model, f"{weight_value.name}_folded", new_weight.astype(np.float32)))
    node.replace_input_with(2, new_constant(model, f"{graph.node_name(node)}_bias", new_bias.astype(np.float32)))
    return True


_FOLDERS: dict[str, Callable[[ir.Model, ir.Node, _Affine], bool]] = {
    "Conv": _fold_conv,
    "ConvTranspose": _fold_conv_transpose,
    "Gemm": _fold_gemm,
}


def _take_over(model: ir.Model, node: ir.Node, following: ir.Node) -> None:
    """The node's output stands in for the following node's output, under its name."""
    old, new = following.outputs[0], node.outputs[0]
    name, old.name = old.name, f"{old.name}_before_folding"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name
    model.graph.remove(following, safe=True)


def new_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer; the name gets underscores until it is free."""
    while name in model.graph.initializers:
        name += "_"
    value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array, order="C"), name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    model.graph.register_initializer(value)
    return value

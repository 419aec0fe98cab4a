"""Puts the preprocessing of image inputs in front of the model: one 1x1 convolution per input.

Before: input (normalized training images) -> model
After: input (the runtime's bytes minus 128, as float) -> HZ_PREPROCESS_FOR_<input> -> model

The convolution undoes the -128, converts the colour space and applies mean and scale (hb_mapper reference 2.3). Its
input is an integer by nature: scale 1, threshold 127.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.errors import ModelError
from hbtool.ir import graph, meta
from hbtool.numerics.color import Affine
from hbtool.numerics.qtype import INT8, QParams
from hbtool.passes.fold_affine import new_constant

PREFIX = "HZ_PREPROCESS_FOR_"


def insert_preprocess(model: ir.Model, input_name: str, affine: Affine, layout: str, image: bool) -> None:
    """Insert the step for one input, in place.

    Args:
        model: FLOAT graph.
        input_name: a 4-D graph input.
        affine: weight and bias over the channels.
        layout: NCHW or NHWC, of the graph input.
        image: the input is an image (arrives as int8), not a feature map.
    """
    value = next((v for v in model.graph.inputs if v.name == input_name), None)
    if value is None:
        raise ModelError(f"there is no input {input_name!r}")
    shape = graph.static_shape(value)
    fed = ir.Value(name=input_name, shape=value.shape, type=value.type)
    index = list(model.graph.inputs).index(value)
    model.graph.inputs[index] = fed
    if image:
        meta.set_qparams(fed, QParams(INT8, (1.0,)))
        meta.set_integer_input(fed)
    nodes, out = _nodes(model, fed, input_name, affine, layout, shape)
    value.name = f"{input_name}_normalized_before"
    out.name = f"{input_name}_normalized"
    value.replace_all_uses_with(out, replace_graph_outputs=True)
    first = model.graph[0]
    for node in nodes:
        model.graph.insert_before(first, node)


def _nodes(
    model: ir.Model, fed: ir.Value, name: str, affine: Affine, layout: str, shape: tuple[int, ...]
) -> tuple[list[ir.Node], ir.Value]:
    float_type = ir.TensorType(ir.DataType.FLOAT)
    channels = shape[3] if layout == "NHWC" else shape[1]
    weight = affine.matrix() if affine.colour else affine.weight
    array = np.reshape(weight, (channels, -1, 1, 1))
    label = f"{PREFIX}{name}"
    constants = [new_constant(model, f"{label}/{role}", a) for role, a in (("weight", array), ("bias", affine.bias))]
    nodes: list[ir.Node] = []

    def append(
        op_type: str, inputs: list[ir.Value], suffix: str, out_shape: tuple[int, ...], **attributes: object
    ) -> ir.Value:
        out = ir.Value(name=f"{label}{suffix}_output", shape=ir.Shape(out_shape), type=float_type)
        attrs = [ir.AttrInt64(k, v) if isinstance(v, int) else ir.AttrInt64s(k, v) for k, v in attributes.items()]  # type: ignore[arg-type]
        nodes.append(ir.Node("", op_type, inputs, attrs, outputs=[out], name=f"{label}{suffix}"))
        return out

    x = fed
    nchw = shape
    if layout == "NHWC":
        nchw = (shape[0], shape[3], shape[1], shape[2])
        x = append("Transpose", [x], "_NHWC2NCHW", nchw, perm=(0, 3, 1, 2))
    x = append("Conv", [x, *constants], "", nchw, group=1 if affine.colour else channels, kernel_shape=(1, 1))
    if layout == "NHWC":
        x = append("Transpose", [x], "_NCHW2NHWC", shape, perm=(0, 2, 3, 1))
    return nodes, x

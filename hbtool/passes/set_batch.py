"""Gives a RANGED graph of batch 1 a larger batch (`input_batch`); meanings of values stay.

Before: x [1, C, H, W] -> ... -> y [1, K]
After: x [N, C, H, W] -> ... -> y [N, K]; a Reshape that states the batch 1 states N.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.errors import ModelError
from hbtool.ir import graph
from hbtool.ir.load import infer_shapes
from hbtool.passes.fold_affine import new_constant


def set_batch(ranged: ir.Model, batch: int) -> ir.Model:
    """A copy of the graph with `batch` images.

    Raises:
        ModelError: an input has no batch of 1, or a node mixes the batch with other axes (names it).
    """
    model = ranged.clone()
    for value in model.graph.inputs:
        shape = graph.static_shape(value)
        if not shape or shape[0] != 1:
            raise ModelError(f"input {value.name!r} has the shape {list(shape)}, no batch of 1", where=value.name)
        value.shape = ir.Shape((batch, *shape[1:]))
    before = {v: graph.known_shape(v) for n in model.graph for v in n.outputs}
    for node in model.graph:
        if node.op_type == "Reshape":
            _widen_reshape(model, node, batch)
    for value in before:
        value.shape = None
    try:
        infer_shapes(model)
    except ModelError as error:
        raise ModelError(f"the model cannot run {batch} images at once: {error.message}") from error
    for value, old in before.items():
        new, producer = graph.known_shape(value), value.producer()
        if old is not None and old[:1] == (1,) and new != (batch, *old[1:]):
            where = graph.node_name(producer) if producer is not None else value.name
            raise ModelError(
                f"{value.name!r} has the shape {list(new or ())} with {batch} images, not {[batch, *old[1:]]}",
                where=where,
            )
    return model


def _widen_reshape(model: ir.Model, node: ir.Node, batch: int) -> None:
    shape, source = graph.constant(graph.input_at(node, 1)), node.inputs[0]
    if shape is None or source is None or not shape.size or int(shape.reshape(-1)[0]) != 1:
        return
    wide = np.array(shape, np.int64)
    wide[0] = batch
    node.replace_input_with(1, new_constant(model, f"{graph.node_name(node)}_shape", wide))

"""A matrix product with constant weights and a bias per column becomes Gemm, so that the bias joins the accumulator.

Before: x [..., K] -> MatMul(w [K, N]) -> Add(b [N])
After: Reshape [rows, K] -> Gemm(w, b) -> Reshape [..., N]; the Gemm has the MatMul's name, no Reshape for rank 2.
A trained range of the sum holds for the Gemm.

Before: x [..., K] -> MatMul(w [K, N]) -> Reshape or Flatten to [rows, N] -> BatchNormalization
After: Reshape [rows, K] -> Gemm(w) -> BatchNormalization (which fold_affine folds)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import insert, is_standard, take_place


def matmul_to_gemm(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.op_type != "MatMul" or node.inputs[0] is None or graph.constant(node.inputs[0]) is not None:
            continue
        weight = graph.constant(node.inputs[1])
        shape = graph.known_shape(node.outputs[0])
        add = graph.sole_consumer(node.outputs[0])
        if weight is None or weight.ndim != 2 or shape is None or len(shape) < 2 or add is None:
            continue
        bias = _column_bias(add, node.outputs[0], weight.shape[1])
        if bias is None:
            changed |= _flatten_first(model, node, add)
            continue
        _rewrite(model, node, add, bias, shape)
        changed = True
    return changed


def _column_bias(add: ir.Node, product: ir.Value, columns: int) -> np.ndarray | None:
    if add.op_type != "Add" or graph.known_shape(add.outputs[0]) != graph.known_shape(product):
        return None
    array = graph.constant(add.inputs[1] if add.inputs[0] is product else add.inputs[0])
    if array is None or array.size not in (1, columns) or (array.size > 1 and array.shape[-1] != columns):
        return None
    return np.broadcast_to(array.reshape(-1), (columns,)).astype(np.float32)


def _flatten_first(model: ir.Model, node: ir.Node, flatten: ir.Node) -> bool:
    """Move the Reshape to [rows, N] in front of the product, where an affine operator that folds waits behind it."""
    shape, flat = graph.static_shape(node.outputs[0]), graph.known_shape(flatten.outputs[0])
    following = graph.sole_consumer(flatten.outputs[0])
    if not is_standard(flatten, "Reshape", "Flatten") or following is None or len(shape) < 3:
        return False
    if flat != (graph.elements(shape[:-1]), shape[-1]) or not is_standard(following, "BatchNormalization"):
        return False
    name, x = graph.node_name(node), node.inputs[0]
    assert x is not None
    inner = graph.static_shape(x)[-1]
    target = new_constant(model, f"{name}_rows", np.asarray([flat[0], inner], np.int64))
    node.name = f"{name}_replaced"
    rows = insert(node, "Reshape", [x, target], (flat[0], inner), name=f"{name}_reshape_input")
    take_place(model, flatten.outputs[0], insert(node, "Gemm", [rows, node.inputs[1]], flat, name=name))
    return True


def _rewrite(model: ir.Model, node: ir.Node, add: ir.Node, bias: np.ndarray, shape: tuple[int, ...]) -> None:
    name, old = graph.node_name(node), add.outputs[0]
    rows, columns = graph.elements(shape[:-1]), shape[-1]
    x = node.inputs[0]
    assert x is not None
    trained = meta.qparams(old)
    new_nodes: list[ir.Node] = []

    def append(op_type: str, inputs: list[ir.Value | None], label: str, out_shape: tuple[int, ...]) -> ir.Value:
        value = ir.Value(name=f"{label}_output", shape=ir.Shape(out_shape), type=old.type)
        created = ir.Node("", op_type, inputs, outputs=[value], name=label)
        created.metadata_props.update(node.metadata_props)
        if op_type == "Gemm" or len(new_nodes) > 1:
            meta.set_qparams(value, trained)
        new_nodes.append(created)
        return value

    if len(shape) > 2:
        target = new_constant(model, f"{name}_rows", np.asarray([rows, graph.static_shape(x)[-1]], np.int64))
        x = append("Reshape", [x, target], f"{name}_reshape_input", (rows, graph.static_shape(x)[-1]))
    out = append("Gemm", [x, node.inputs[1], new_constant(model, f"{name}_bias", bias)], name, (rows, columns))
    if len(shape) > 2:
        target = new_constant(model, f"{name}_shape", np.asarray(shape, np.int64))
        out = append("Reshape", [out, target], f"{name}_reshape_output", shape)
    out.name, old.name = old.name, f"{old.name}_before_folding"
    node.name = f"{name}_replaced"
    for created in new_nodes:
        model.graph.insert_before(add, created)
    old.replace_all_uses_with(out, replace_graph_outputs=True)
    model.graph.remove([add, node], safe=True)

"""Transposes of trained constants are carried out, their meaning included.

Before: W (int8 per channel on axis 0) -> Transpose -> MatMul, as exporters write a linear layer on more than two axes.
After: W transposed (per channel on axis 1) -> MatMul.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta


def transpose_trained(model: ir.Model) -> bool:
    """Carry out every Transpose of a constant that has `QParams`; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        array = graph.constant(source) if source is not None else None
        q = meta.qparams(source) if source is not None else None
        if array is None or q is None or node.outputs[0].is_graph_output():
            continue
        order = tuple(graph.attribute(node, "perm", tuple(reversed(range(array.ndim)))))
        name = f"{node.outputs[0].name}_constant"
        value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array.transpose(order)), name=name))
        value.shape, value.dtype = ir.Shape([array.shape[i] for i in order]), ir.DataType.FLOAT
        meta.set_qparams(value, q if q.axis is None else replace(q, axis=order.index(q.axis)))
        model.graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
        model.graph.remove(node, safe=True)
        changed = True
    return changed

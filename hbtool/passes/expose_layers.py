"""Makes every layer's result an output of the model (`layer_out_dump`), for debugging.

Before: [BPU] conv -> relu -> conv -> Dequantize -> y
After: the same, and a Dequantize and an output for every inner value that stands for a float value, under its name.
"""

from __future__ import annotations

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ops.boundary import leaving_operator
from hbtool.ops.op import write_attributes


def expose_layers(integer: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy of an INTEGER graph with all layers as outputs, and the names of the new outputs."""
    model = integer.clone()
    taken = {v.name for n in model.graph for v in n.outputs} | {v.name for v in model.graph.inputs}
    added: list[str] = []
    for node in list(model.graph):
        for value in node.outputs:
            if not meta.on_bpu(node) or value.is_graph_output():
                continue
            name, q = meta.float_value(value), meta.qparams(value)
            if name is None or q is None or name in taken:
                continue
            real = ir.Value(name=name, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
            op, attributes = leaving_operator(real, q)
            leaving = ir.Node(
                graph.INTEGER_DOMAIN,
                op.name,
                [value],
                write_attributes(attributes),
                outputs=[real],
                name=f"{name}_HzDequantize",
            )
            meta.set_placement(leaving, meta.Placement("CPU", "layer_out_dump keeps this layer's output"))
            model.graph.insert_after(node, leaving)
            model.graph.outputs.append(real)
            taken.add(name)
            added.append(name)
    return model, tuple(added)

"""Fused functions of one variable: a chain of elementwise operators that becomes one table.

The float graph holds each as a node of the domain `hbtool.fused` with a standard ONNX body (a model-local function),
so any runtime can run it; on the BPU it is one `Table`, whatever the chain was.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.errors import ModelError
from hbtool.ir import graph
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.op import ANY, FloatOp, float_op
from hbtool.ops.table import Unary, lower_table


class FusedFunction(Unary):
    """Any fused function; conditions on the BPU are those of every other table."""

    op_types = (ANY,)
    domain = graph.FUSED_DOMAIN
    elementwise = False

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        body = b.functions.get(node.op_identifier())
        x = node.inputs[0]
        if body is None or x is None:
            raise ModelError("the fused function has no body", where=graph.node_name(node))
        lower_table(node, b, x, lambda v: evaluate_body(body, v))

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        return FloatOp.evaluate(self, node, *x)

    def samples(self):  # type: ignore[no-untyped-def] # noqa: D102
        yield from ()


def evaluate_body(body: ir.Function, x: np.ndarray) -> np.ndarray:
    """The function at float64 points `x`, node by node."""
    values: dict[ir.Value, np.ndarray] = {body.inputs[0]: x}
    for node in body:
        if node.op_type == "Constant":
            values[node.outputs[0]] = np.asarray(node.attributes["value"].value.numpy(), np.float64).reshape(())
            continue
        op = float_op(node)
        assert op is not None and op.elementwise, "only elementwise operators are fused"
        with np.errstate(all="ignore"):
            arguments = [None if v is None else values[v] for v in node.inputs]
            values[node.outputs[0]] = np.asarray(op.evaluate(node, *arguments))
    return np.broadcast_to(values[body.outputs[0]], x.shape)

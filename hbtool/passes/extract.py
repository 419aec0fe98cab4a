"""Copies some nodes of a graph into a model of their own."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from hbtool.ir import graph


def extract_nodes(
    model: ir.Model, nodes: Sequence[ir.Node], inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]
) -> ir.Model:
    """A model of exactly `nodes`, with copies of the constants they read.

    Args:
        model: where the nodes are; it is left untouched.
        nodes: in execution order.
        inputs: values that become graph inputs, in order.
        outputs: values that become graph outputs, in order.
    """
    part = ir.convenience.extract(model.graph, list(inputs), list(outputs))
    names = {graph.node_name(n) for n in nodes}
    foreign = [n for n in part if graph.node_name(n) not in names]
    assert not foreign, f"extracting reaches nodes outside the set: {[n.name for n in foreign]}"
    extracted = ir.Model(part, ir_version=model.ir_version)
    extracted.opset_imports.update(model.opset_imports)
    for identifier, function in model.functions.items():
        extracted.functions[identifier] = function
    return extracted

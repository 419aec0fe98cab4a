"""Turns every chain of elementwise operators on one variable into one function node (which is one table on the BPU).

Before: x -> Sigmoid -> Mul(x, .), x -> Add(3) -> Clip(0, 6) -> Mul(x, .) -> Div(6), Where(x > 0, .), GELU, ...
After: one node of the domain `hbtool.fused` with the chain as its body; it keeps the name of the chain's last node.

No pattern is listed: a set of nodes is fused iff its only computed input from outside is one tensor, all its constants
are single numbers, only its last value is used outside, and it has at least two nodes. What the function is called is
found by comparing it with known formulas at some points.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ops.fused import evaluate_body
from hbtool.ops.op import float_op
from hbtool.ops.table import FUNCTIONS


def fuse_elementwise(model: ir.Model) -> bool:
    """Fuse all chains; returns whether anything changed."""
    changed = False
    # From the end, so that a chain is found from its last node and taken whole.
    for node in reversed(list(model.graph)):
        if node.graph is None or not _candidate(node) or not graph.is_float(node.outputs[0]):
            continue
        chain, source = _grow(node)
        if source is None or len(chain) < 2 or not graph.is_float(source):
            continue
        _replace(model, node, chain, source)
        changed = True
    return changed


def _candidate(node: ir.Node) -> bool:
    op = float_op(node)
    return (
        op is not None
        and op.elementwise
        and len(node.outputs) == 1
        and (graph.is_float(node.outputs[0]) or node.outputs[0].dtype == ir.DataType.BOOL)
        and graph.known_shape(node.outputs[0]) is not None
        and node.domain in ("", "ai.onnx")
    )


def _grow(last: ir.Node) -> tuple[list[ir.Node], ir.Value | None]:
    """The largest chain that ends in `last`, in execution order, and its one variable (None if there is none)."""
    shape = graph.known_shape(last.outputs[0])
    best: tuple[list[ir.Node], ir.Value | None] = ([], None)
    chain = [last]
    while True:
        outside = _outside(chain)
        if outside is None:
            return best
        if len(outside) == 1 and graph.known_shape(outside[0]) == shape:
            best = (list(chain), outside[0])
        grown = [p for v in outside if (p := _absorbable(v, chain)) is not None]
        if not grown:
            return best
        chain = [*dict.fromkeys(grown), *chain]
        chain = _in_order(chain)


def _outside(chain: list[ir.Node]) -> list[ir.Value] | None:
    """Computed values the chain reads from outside; None where a constant is more than one number."""
    inside = {n.outputs[0] for n in chain}
    values: dict[ir.Value, None] = {}
    for node in chain:
        for value in node.inputs:
            if value is None or value in inside:
                continue
            array = graph.constant(value)
            if array is None:
                values.setdefault(value)
            elif array.size != 1:
                return None
    return list(values)


def _absorbable(value: ir.Value, chain: list[ir.Node]) -> ir.Node | None:
    producer = value.producer()
    if producer is None or not _candidate(producer) or value.is_graph_output() or meta.qparams(value) is not None:
        # A value with a trained range of its own must stay visible.
        return None
    return producer if all(user in chain for user in graph.consumers(value)) else None


def _in_order(chain: list[ir.Node]) -> list[ir.Node]:
    ordered: dict[ir.Node, None] = {}

    def visit(node: ir.Node) -> None:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer in chain and producer not in ordered:
                visit(producer)
        ordered.setdefault(node)

    for node in chain:
        visit(node)
    return list(ordered)


def _replace(model: ir.Model, last: ir.Node, chain: list[ir.Node], source: ir.Value) -> None:
    function = _function(model, _body(chain, source, model))
    old = last.outputs[0]
    out = ir.Value(name=old.name, shape=old.shape, type=old.type)
    out.metadata_props.update(old.metadata_props)
    old.name = f"{old.name}_chain"
    node = ir.Node(graph.FUSED_DOMAIN, function.name, [source], outputs=[out], name=last.name)
    node.metadata_props.update(last.metadata_props)
    if (path := meta.torch_module(last)) is not None:
        meta.set_torch_module(node, path)
    model.graph.insert_before(last, node)
    old.replace_all_uses_with(out, replace_graph_outputs=True)
    model.graph.remove(reversed(chain), safe=True)


def _function(model: ir.Model, body: ir.Graph) -> ir.Function:
    """The model's function with this body: an equal one that is there already, else a new one."""
    kind, text = _name_of(body), _text(body)
    namesakes = [f for f in model.functions.values() if f.domain == graph.FUSED_DOMAIN and f.name.split("_")[0] == kind]
    for function in namesakes:
        if _text(function.graph) == text:
            return function
    name = f"{kind}_{len(namesakes)}" if namesakes else kind
    function = ir.Function(graph.FUSED_DOMAIN, name, "", graph=body, attributes=[])
    model.functions[function.identifier()] = function
    model.opset_imports[graph.FUSED_DOMAIN] = 1
    return function


def _text(body: ir.Graph) -> str:
    """What the body computes, as text: equal text, equal function."""
    lines = []
    for node in body:
        attributes = sorted(
            (name, a.value.numpy().tolist() if a.type == ir.AttributeType.TENSOR else graph.attribute(node, name))
            for name, a in node.attributes.items()
        )
        lines.append(f"{node.outputs[0].name} = {node.op_type}({[v and v.name for v in node.inputs]}, {attributes})")
    return "\n".join(lines)


def _body(chain: list[ir.Node], source: ir.Value, model: ir.Model) -> ir.Graph:
    x = ir.Value(name="x")
    mapped: dict[ir.Value, ir.Value] = {source: x}
    nodes: list[ir.Node] = []
    for index, node in enumerate(chain):
        for value in node.inputs:
            array = graph.constant(value)
            if value is None or array is None or value in mapped:
                continue
            tensor = ir.tensor(np.asarray(array).reshape(()), name=f"c{len(mapped)}")
            constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], name=f"constant_{len(mapped)}")
            constant.outputs[0].name = f"c{len(mapped)}"
            mapped[value] = constant.outputs[0]
            nodes.append(constant)
        inputs = [None if v is None else mapped[v] for v in node.inputs]
        copy = ir.Node(
            node.domain, node.op_type, inputs, list(node.attributes.values()), name=f"{node.op_type}_{index}"
        )
        copy.outputs[0].name = f"v{index}"
        mapped[node.outputs[0]] = copy.outputs[0]
        nodes.append(copy)
    return ir.Graph([x], [mapped[chain[-1].outputs[0]]], nodes=nodes, opset_imports={"": graph.main_opset(model)})


_POINTS = np.linspace(-5.0, 5.0, 41)


def _name_of(body: ir.Graph) -> str:
    """The known formula with the same values, else `Function`."""
    values = evaluate_body(ir.Function("", "probe", "", graph=body, attributes=[]), _POINTS)
    for name, formula in FUNCTIONS.items():
        with np.errstate(all="ignore"):
            known = formula(_POINTS, lambda _, default: default)
        if np.allclose(values, known, rtol=1e-4, atol=1e-4, equal_nan=True):
            return name
    return "Function"

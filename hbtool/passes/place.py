"""Decides for every float node whether it runs on the BPU or the CPU, and writes the sentence that says why.

Rules, in this order (reference: the vendor's documents on active, passive and manual quantization):

1. What the user asked for.
2. What the operator is: no BPU form, not on this BPU family, a constraint that is not met, kept on the CPU by default.
3. Passive nodes (they move values and take their scale from a neighbour) need an active BPU node before them, and
   somewhere on the BPU to go: at the head or tail of the model, or between CPU nodes, they stay on the CPU.
4. The tail: an operator behind a multiply-accumulate at the very end would cost it the int32 output; where the family
   has no int16 tables it stays on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ir.meta import Placement
from hbtool.numerics.qtype import IntType
from hbtool.ops.op import Family, FloatOp, float_op

INT16_FAMILIES: tuple[Family, ...] = ("bayes-e", "nash")
"""Families whose tables take int16, so that an operator at the tail loses nothing there."""


@dataclass(frozen=True)
class PlacementRequest:
    """What the user asks of placement.

    Attributes:
        run_on_cpu: node names, patterns or torch module paths forced to the CPU.
        run_on_bpu: node names, patterns or torch module paths wanted on the BPU although the tool prefers the CPU.
        kinds_on_bpu: op types wanted on the BPU (Softmax after set_Softmax_input_int8).
        quantized_outputs: type of the model's outputs where the user gave up the high-precision tail.
        cpu_reasons: node name -> the sentence why it stays on the CPU (what training left in float).
        trained: names of the nodes whose results training saw quantized.
    """

    run_on_cpu: tuple[str, ...] = ()
    run_on_bpu: tuple[str, ...] = ()
    kinds_on_bpu: tuple[str, ...] = ()
    quantized_outputs: IntType | None = None
    int16_nodes: Mapping[str, IntType] = field(default_factory=dict)
    cpu_reasons: Mapping[str, str] = field(default_factory=dict)
    trained: frozenset[str] = frozenset()


def place(model: ir.Model, family: Family, request: PlacementRequest | None = None) -> None:
    """Write a placement on every node of a FLOAT graph with known shapes."""
    request = request or PlacementRequest()
    for node in model.graph:
        meta.set_placement(node, _by_itself(node, family, request))
    _drop_until_stable(model, lambda node: _stranded(node, family, request))


def matches(node: ir.Node, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern names the node, by its name or its torch module path."""
    names = [graph.node_name(node), meta.torch_module(node) or ""]
    return any(name == p or fnmatchcase(name, p) for p in patterns for name in names if name)


def _by_itself(node: ir.Node, family: Family, request: PlacementRequest) -> Placement:
    if matches(node, request.run_on_cpu):
        return Placement("CPU", "run_on_cpu or node_info asks for it")
    trained_float = request.cpu_reasons.get(graph.node_name(node))
    if trained_float is not None and not matches(node, request.run_on_bpu):
        return Placement("CPU", trained_float)
    op = float_op(node)
    if op is None:
        return Placement("CPU", f"{node.op_type} has no BPU form")
    if (reason := _not_a_feature_map(node, op)) is not None:
        return Placement("CPU", reason)
    asked = matches(node, request.run_on_bpu) or node.op_type in request.kinds_on_bpu
    if op.manual and not asked:
        return Placement(
            "CPU",
            f"{node.op_type} runs in float for accuracy; ask for the BPU with run_on_bpu, node_info or "
            f"optimization: set_{node.op_type}_input_int8",
        )
    if (refusal := op.refusal(node, family, graph.node_name(node) in request.trained)) is not None:
        return Placement("CPU", refusal)
    return Placement("BPU", "asked for" if op.manual else "the BPU has it")


def _not_a_feature_map(node: ir.Node, op: FloatOp) -> str | None:
    if next(graph.subgraphs(node), None) is not None:
        return f"{node.op_type} is control flow"
    outputs = [value for _, value in graph.wanted_outputs(node)]
    for value in (*node.inputs, *outputs):
        if value is not None and graph.constant(value) is None and graph.known_shape(value) is None:
            return f"the shape of {value.name!r} is not known before it runs"
    quantized = op.quantized_inputs(node)
    if not quantized:
        return f"{node.op_type} has no float input that is computed"
    for index in quantized:
        value = node.inputs[index]
        if value is not None and not graph.is_float(value):
            return f"{node.op_type} works on {str(value.dtype).split('.')[-1].lower()} here, not on a feature map"
        if value is not None and graph.constant(value) is not None:
            return f"input {index} of {node.op_type} is a constant"
    if any(graph.elements(graph.static_shape(v)) == 0 for v in outputs):
        return "it produces an empty tensor"
    return None


def _drop_until_stable(model: ir.Model, reason_to_drop: Callable[[ir.Node], str | None]) -> None:
    changed = True
    while changed:
        changed = False
        for node in model.graph:
            if meta.on_bpu(node) and (reason := reason_to_drop(node)) is not None:
                meta.set_placement(node, Placement("CPU", reason))
                changed = True


def _stranded(node: ir.Node, family: Family, request: PlacementRequest) -> str | None:
    """Rules 3 and 4: why a BPU-capable node should not be there, given where its neighbours are."""
    op = float_op(node)
    assert op is not None, "only known operators are placed on the BPU"
    if matches(node, request.run_on_bpu):
        return None
    tail = all(_ends_here(v) for v in node.outputs)
    if op.passive:
        if not _has_active_source(node):
            return (
                f"{node.op_type} only moves values and has no quantized neighbour before it to take a scale from "
                "(a unit_conv, a depthwise 1x1 convolution with weights of 1, in front of it would bring one)"
            )
        if tail and not op.free_at_tail and request.quantized_outputs is None:
            return (
                f"{node.op_type} only moves values at the end of the model; on the BPU it would cost the node before "
                "it the high-precision output (set_model_output_int8 or run_on_bpu accepts that; a unit_conv "
                "behind it does, too)"
            )
        return None
    # A node that leaves an accumulator itself takes nothing from the one before it by being the last.
    if tail and not op.high_precision and request.quantized_outputs is None and _behind_accumulator(node):
        if op.clamp(node) is not None:
            return f"{node.op_type} at the end of the model: the BPU cannot clamp an int32 output, float keeps it exact"
        if family not in INT16_FAMILIES:
            return (
                f"{node.op_type} at the end of the model stays in float, so that the node before it keeps int32 output"
            )
    return None


def _ends_here(value: ir.Value) -> bool:
    """Whether nothing on the BPU reads the value, or only changes its layout on the way out."""
    for user in graph.consumers(value):
        op = float_op(user) if meta.on_bpu(user) else None
        if op is not None and not (op.passive and op.free_at_tail and all(_ends_here(v) for v in user.outputs)):
            return False
    return True


def _has_active_source(node: ir.Node) -> bool:
    """Whether a quantized value reaches a passive node: from an active BPU node or an integer graph input."""
    op = float_op(node)
    assert op is not None
    for index in op.quantized_inputs(node):
        value = node.inputs[index]
        if value is None:
            continue
        if value.is_graph_input():
            if meta.integer_input(value):
                return True
            continue
        producer = value.producer()
        if producer is None or not meta.on_bpu(producer):
            continue
        before = float_op(producer)
        if before is not None and (not before.passive or _has_active_source(producer)):
            return True
    return False


def _behind_accumulator(node: ir.Node) -> bool:
    """Whether the node alone reads what a multiply-accumulate operator on the BPU gives."""
    op = float_op(node)
    assert op is not None
    for index in op.quantized_inputs(node):
        value = node.inputs[index]
        producer = value.producer() if value is not None else None
        if producer is None or not meta.on_bpu(producer) or value is None:
            continue
        before = float_op(producer)
        if before is not None and before.high_precision and graph.sole_consumer(value) is node:
            return True
    return False

"""FLOAT with placements -> RANGED: every value that a BPU node reads or writes gets its `QParams`.

The order of decisions per value: a meaning that is already attached (quantization-aware training, image inputs), the
operator's rule (same as its input, fixed by the formula), the type the user asked for, then the observed range.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from hbtool.errors import ModelError
from hbtool.ir import graph, meta
from hbtool.numerics import qtype
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType, QParams
from hbtool.numerics.ranges import Range, to_qparams
from hbtool.ops.op import Fixed, FloatOp, SameAs, Unquantized, float_op


@dataclass(frozen=True)
class RangeOptions:
    """How ranges become meanings.

    Attributes:
        asymmetric: use zero points, so that a one-sided range keeps all 8 bits.
        int16_values: names of values wanted in int16.
        output_type: type of the model's outputs; None keeps the int32 accumulator where an operator has one.
        int16_tail: operators behind a multiply-accumulate at the tail read and write int16.
    """

    asymmetric: bool = False
    int16_values: Collection[str] = field(default_factory=frozenset)
    output_type: IntType | None = None
    int16_tail: bool = False


def attach_ranges(model: ir.Model, ranges: Mapping[str, Range], options: RangeOptions | None = None) -> None:
    """Write `QParams` on the values of a placed FLOAT graph.

    Args:
        model: every node has a placement; fused clamps are marked.
        ranges: observed range by value name.
        options: see `RangeOptions`.

    Raises:
        ModelError: a value needs a range that was not observed (names it).
    """
    options = options or RangeOptions()
    trained = {v for node in model.graph for v in node.outputs if meta.qparams(v) is not None}
    chooser = _Chooser(model, ranges, options)
    for node in model.graph:
        if meta.on_bpu(node):
            chooser.inputs(node)
            chooser.outputs(node)
    _share_scales(model, trained)


def values_to_observe(model: ir.Model) -> list[str]:
    """Names of the values whose range calibration must find (placements and fused clamps are written)."""
    names: dict[str, None] = {}
    fused_roots = {meta.fused_into(n) for n in model.graph} - {None}
    for node in model.graph:
        op = float_op(node)
        if not meta.on_bpu(node) or op is None:
            continue
        for index in op.quantized_inputs(node):
            value = node.inputs[index]
            if value is not None and meta.qparams(value) is None and _needs_own_range(value):
                names.setdefault(graph.value_name(value))
        if graph.node_name(node) in fused_roots:
            continue
        for index, value in graph.wanted_outputs(node):
            absorbed = meta.fused_into(node) is not None
            if (
                absorbed
                or not isinstance(op.output_rule(node, index), SameAs | Fixed | Unquantized)
                or op.unifies_inputs
            ):
                names.setdefault(graph.value_name(value))
    return list(names)


def _needs_own_range(value: ir.Value) -> bool:
    producer = value.producer()
    return graph.constant(value) is None and (producer is None or not meta.on_bpu(producer))


class _Chooser:
    def __init__(self, model: ir.Model, ranges: Mapping[str, Range], options: RangeOptions) -> None:
        self.ranges = ranges
        self.options = options
        self.fused = {root: node for node in model.graph if (root := meta.fused_into(node)) is not None}

    def inputs(self, node: ir.Node) -> None:
        if meta.fused_into(node) is not None:
            return
        op = self._op(node)
        for index in op.quantized_inputs(node):
            value = node.inputs[index]
            if value is not None and graph.constant(value) is None and meta.qparams(value) is None:
                meta.set_qparams(value, self._observed(value, node, self._wanted_type(value)))

    def outputs(self, node: ir.Node) -> None:
        op = self._op(node)
        if meta.fused_into(node) is not None:
            return
        clamp = self.fused.get(graph.node_name(node))
        self._weights(node, op)
        for index, value in graph.wanted_outputs(node):
            target = clamp.outputs[0] if clamp is not None else value
            if meta.qparams(target) is None:
                meta.set_qparams(target, self._decide(node, op, index, target))

    @staticmethod
    def _weights(node: ir.Node, op: FloatOp) -> None:
        for index, axis in op.weight_axes(node).items():
            value = node.inputs[index]
            weight = graph.constant(value)
            if value is None or weight is None or meta.qparams(value) is not None:
                continue
            others = tuple(i for i in range(weight.ndim) if i != axis)
            meta.set_qparams(value, qtype.per_channel(np.abs(weight).max(axis=others, initial=0.0), INT8, axis))

    def _decide(self, node: ir.Node, op: FloatOp, index: int, value: ir.Value) -> QParams | None:
        rule = op.output_rule(node, index)
        if isinstance(rule, Unquantized):
            return None
        if isinstance(rule, SameAs) and not op.unifies_inputs:
            source = node.inputs[rule.index]
            found = meta.qparams(source) if source is not None else None
            if found is None or (found.type is INT32 and not op.free_at_tail):
                raise ModelError("the input it takes its scale from has none", where=graph.node_name(node))
            return found
        leaves = _ends_here(value)
        if (
            leaves
            and op.high_precision
            and self.options.output_type is None
            and graph.node_name(node) not in self.fused
        ):
            return QParams(INT32, (1.0,))
        wanted = self._wanted_type(value)
        if leaves and _leaves(value) and self.options.output_type is not None:
            asked = graph.value_name(value) in self.options.int16_values
            wanted = INT16 if asked else self.options.output_type
        if isinstance(rule, Fixed):
            return to_qparams(Range((rule.low,), (rule.high,)), wanted, self.options.asymmetric)
        return self._observed(value, node, wanted)

    def _wanted_type(self, value: ir.Value) -> IntType:
        if graph.value_name(value) in self.options.int16_values:
            return INT16
        if self.options.int16_tail and (_at_table_tail(value) or _is_state_that_leaves(value)):
            return INT16
        if any(_needs_int16(user, value) for user in graph.consumers(value)):
            return INT16
        return INT8

    def _observed(self, value: ir.Value, node: ir.Node, wanted: IntType) -> QParams:
        found = self.ranges.get(graph.value_name(value))
        if found is None:
            raise ModelError(
                f"value {value.name!r} has no calibrated range",
                where=graph.node_name(node),
                hint="Calibrate it, or use a model whose Q/DQ nodes cover it (calibration_type: load).",
            )
        if found.axis is not None and not (wanted is INT8 and _takes_channel_scales(value)):
            found = found.per_tensor()
        return to_qparams(found, wanted, self.options.asymmetric)

    @staticmethod
    def _op(node: ir.Node) -> FloatOp:
        op = float_op(node)
        assert op is not None, "only known operators are placed on the BPU"
        return op


def _needs_int16(node: ir.Node, value: ir.Value) -> bool:
    op = float_op(node)
    return (
        meta.on_bpu(node)
        and op is not None
        and any(v is value for i, v in enumerate(node.inputs) if i in op.int16_inputs)
    )


def _is_state_that_leaves(value: ir.Value) -> bool:
    """Whether the value is a state that only the CPU reads and the application feeds back: errors would add up."""
    producer = value.producer()
    op = float_op(producer) if producer is not None and meta.on_bpu(producer) else None
    return op is not None and value.index() in op.int16_states and _ends_here(value)


def _takes_channel_scales(value: ir.Value) -> bool:
    """Whether producer and all consumers can work with one scale per channel of the value."""
    producer = value.producer()
    before = float_op(producer) if producer is not None and meta.on_bpu(producer) else None
    if producer is not None and meta.fused_into(producer) is not None:
        source = producer.inputs[0]
        root = source.producer() if source is not None else None
        before = float_op(root) if root is not None else None
    if before is None or not before.channel_scales_out:
        return False
    users = graph.consumers(value)
    return bool(users) and not value.is_graph_output() and all(_reads_channel_scales(n, value) for n in users)


def _reads_channel_scales(node: ir.Node, value: ir.Value) -> bool:
    op = float_op(node)
    return meta.on_bpu(node) and op is not None and op.channel_scales_in and node.inputs[0] is value


def _at_table_tail(value: ir.Value) -> bool:
    """Whether the value is a model output behind an elementwise tail, or feeds only that tail."""
    producer = value.producer()
    op = float_op(producer) if producer is not None and meta.on_bpu(producer) else None
    if op is not None and op.int16_tail:
        return _leaves(value) and _ends_here(value)
    user = graph.sole_consumer(value)
    after = float_op(user) if user is not None and meta.on_bpu(user) else None
    return (
        op is not None
        and op.high_precision
        and user is not None
        and after is not None
        and after.int16_tail
        and _leaves(user.outputs[0])
        and _ends_here(user.outputs[0])
    )


def _leaves(value: ir.Value) -> bool:
    """Whether the value is a model output that nothing on the BPU reads, possibly behind a layout change."""
    return (value.is_graph_output() and _ends_here(value)) or any(
        _leaves(moved) for user in _layout_changes(value) for moved in user.outputs
    )


def _ends_here(value: ir.Value) -> bool:
    """Whether nothing on the BPU reads the value, or only changes its layout on the way out."""
    moves = _layout_changes(value)
    others = [n for n in graph.consumers(value) if meta.on_bpu(n) and n not in moves]
    return not others and all(_ends_here(v) for n in moves for v in n.outputs)


def _layout_changes(value: ir.Value) -> list[ir.Node]:
    """The BPU nodes that read the value and cost nothing at the end of the model."""
    return [
        n for n in graph.consumers(value) if meta.on_bpu(n) and (op := float_op(n)) and op.passive and op.free_at_tail
    ]


def _share_scales(model: ir.Model, trained: Collection[ir.Value]) -> None:
    """Concat: one scale for all inputs. Active producers write at its scale directly, where nobody else minds.

    That is: every other reader of the value only moves it on, at whatever scale it arrives (the vendor's tables: a
    feature map that is resized for one branch and joined in another). If all inputs have one meaning already, the
    output keeps it and nothing is inserted. Meanings that were attached before (`trained`) stay: training saw the
    value rounded to them, and to the Concat's afterwards.
    """
    for node in model.graph:
        op = float_op(node)
        if not meta.on_bpu(node) or op is None or not op.unifies_inputs:
            continue
        values = [v for v in node.inputs if v is not None and graph.constant(v) is None]
        meanings = {meta.qparams(v) for v in values}
        one_meaning = len(meanings) == 1 and len(values) == len([v for v in node.inputs if v is not None])
        if one_meaning and node.outputs[0] not in trained:
            meta.set_qparams(node.outputs[0], meanings.pop())
            continue
        shared = meta.qparams(node.outputs[0])
        for value in values:
            producer = value.producer()
            writer = float_op(producer) if producer is not None and meta.on_bpu(producer) else None
            if (
                value in trained
                or producer is None
                or writer is None
                or not _only_moved_elsewhere(value, node, trained)
                or writer.unifies_inputs
            ):
                continue
            if writer.passive or (
                isinstance(writer.output_rule(producer, 0), SameAs) and meta.fused_into(producer) is None
            ):
                continue
            _carry(value, node, shared)


def _only_moved_elsewhere(value: ir.Value, concat: ir.Node, trained: Collection[ir.Value]) -> bool:
    """Whether all readers besides `concat` are on the BPU and keep whatever scale the value has."""
    if value.is_graph_output():
        return False
    for user in graph.consumers(value):
        op = float_op(user)
        if user is concat:
            continue
        if not meta.on_bpu(user) or op is None or not op.passive or op.unifies_inputs:
            return False
        if user.inputs[0] is not value or any(v in trained for v in user.outputs):
            return False
        if not all(isinstance(op.output_rule(user, i), SameAs) for i in range(len(user.outputs))):
            return False
    return True


def _carry(value: ir.Value, concat: ir.Node, meaning: QParams | None) -> None:
    """Give the value a meaning, and whatever moves it on to other nodes than `concat`."""
    before = meta.qparams(value)
    meta.set_qparams(value, meaning)
    for user in graph.consumers(value):
        op = float_op(user)
        if user is concat or op is None or not meta.on_bpu(user) or not op.passive or op.unifies_inputs:
            continue
        for moved in user.outputs:
            if meta.qparams(moved) == before:
                _carry(moved, concat, meaning)

"""Builds the INTEGER graph while float operators are lowered: values with their meaning, constants, boundaries.

`FloatOp.lower(node, b)` talks only to this class. It knows no operator by name except the three that change what
integers mean and that every graph needs: Quantize, Dequantize and Requantize (given by the caller as class names).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.errors import ModelError
from hbtool.ir import graph, meta
from hbtool.ir.names import FreshNames
from hbtool.numerics import qtype, rescale
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType, QParams
from hbtool.ops.op import IntegerOp, float_op, write_attributes

_DATA_TYPE = {INT8: ir.DataType.INT8, INT16: ir.DataType.INT16, INT32: ir.DataType.INT32}


@dataclass(frozen=True)
class Result:
    """Where a node's result goes once the clamp behind it is absorbed.

    Attributes:
        value: the float value that the integers stand for.
        q: their meaning; type int32 asks for the raw accumulator (the scales are then the lowering's to state).
        clamp: smallest and largest integer allowed.
    """

    value: ir.Value
    q: QParams
    clamp: tuple[int, int]

    @property
    def raw_accumulator(self) -> bool:
        """Whether the int32 accumulator is the result."""
        return self.q.type is INT32


@dataclass(frozen=True)
class Weight:
    """Quantized weights: integers (same shape as the float ones), one scale per output channel."""

    integers: np.ndarray
    scales: np.ndarray


class IntegerBuilder:
    """Appends integer nodes to `graph` and keeps which integer value stands for which float value.

    Args:
        graph: the INTEGER graph under construction.
        functions: bodies of the fused functions (`model.functions`).
        family: BPU family of the target (operators may lower differently).
        multiplier_bits: significant bits of the target's requantization multiplier.
    """

    def __init__(
        self,
        graph_: ir.Graph,
        family: str,
        multiplier_bits: int,
        functions: Mapping[ir.OperatorIdentifier, ir.Function] | None = None,
    ) -> None:
        self.graph = graph_
        self.family = family
        self.functions = functions or {}
        self.multiplier_bits = multiplier_bits
        self._integer: dict[ir.Value, ir.Value] = {}
        self._absorbed: dict[str, ir.Node] = {}
        self._node: ir.Node | None = None
        self._emitted = 0
        self._names = FreshNames(graph_)
        self._constants: dict[Any, ir.Value] = {}

    # ------------------------------------------------------------------------------------------ called by the pass

    def start(self, node: ir.Node, absorbed: ir.Node | None) -> None:
        """Begin lowering `node`; `absorbed` is the clamp behind it that becomes part of it."""
        self._node, self._emitted, self._constants = node, 0, {}
        if absorbed is not None:
            self._absorbed[graph.node_name(node)] = absorbed

    def integer_of(self, value: ir.Value) -> ir.Value | None:
        """The integer value that stands for a float value so far, None if there is none."""
        return self._integer.get(value)

    # ---------------------------------------------------------------------------------------- called by operators

    def x(self, value: ir.Value | None) -> ir.Value:
        """The integers of a float value."""
        if value is None or value not in self._integer:
            raise ModelError(
                f"value {value.name if value is not None else None!r} was not quantized before it was needed",
                where=graph.node_name(self._current()),
            )
        return self._integer[value]

    def q(self, value: ir.Value | None) -> QParams:
        """What the integers of a float value mean."""
        found = meta.qparams(self.x(value))
        assert found is not None, "integer values carry their meaning"
        return found

    def result(self, node: ir.Node, index: int = 0) -> Result:
        """Where output `index` goes, with the absorbed clamp applied."""
        value = node.outputs[index]
        low, high = -np.inf, np.inf
        clamp_node = self._absorbed.get(graph.node_name(node))
        if clamp_node is not None:
            op = float_op(clamp_node)
            bounds = op.clamp(clamp_node) if op else None
            assert bounds is not None, "only clamps are absorbed"
            value, (low, high) = clamp_node.outputs[0], bounds
        q = meta.qparams(value)
        if q is None:
            raise ModelError("the value has no range", where=value.name, hint="This is a bug in attach_ranges.")
        return Result(value, q, self.clamp_bounds(q, low, high))

    @staticmethod
    def clamp_bounds(q: QParams, low: float, high: float) -> tuple[int, int]:
        """Real bounds as integers of a per-tensor `q` (the whole type where unbounded)."""
        if q.type is INT32:
            return q.type.min, q.type.max
        flat = QParams(q.type, (min(q.scales),), q.zero_point)
        smallest = q.type.min if low == -np.inf else int(qtype.quantize(np.asarray(low), flat))
        largest = q.type.max if high == np.inf else int(qtype.quantize(np.asarray(high), flat))
        return smallest, largest

    def bind(self, value: ir.Value, integer: ir.Value) -> None:
        """State that `integer` stands for the float `value`."""
        self._integer[value] = integer
        if meta.float_value(integer) is None:
            meta.set_float_value(integer, graph.value_name(value))

    def emit(
        self,
        op: type[IntegerOp],
        inputs: Sequence[ir.Value | None],
        q: QParams,
        shape: Sequence[int],
        attributes: Any = None,
        name: str | None = None,
        represents: ir.Value | None = None,
    ) -> ir.Value:
        """Append integer operator `op` with one output of meaning `q` and `shape`; returns that output.

        The first node emitted for a float node takes its name, later ones get a suffix; `represents` is the float
        value the output stands for.
        """
        return self.emit_many(op, inputs, [(q, shape, represents)], attributes, name)[0]

    def emit_many(
        self,
        op: type[IntegerOp],
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[tuple[QParams, Sequence[int], ir.Value | None]],
        attributes: Any = None,
        name: str | None = None,
    ) -> list[ir.Value]:
        """Append integer operator `op` with several outputs, each (meaning, shape, float value it stands for)."""
        node = self._current()
        stem = graph.node_name(node)
        label = name or (stem if self._emitted == 0 else f"{stem}_{op.name.lower()}_{self._emitted}")
        # A node with a name of its own (Requantize) leaves the float node's name to the next one.
        self._emitted += name is None
        values = []
        for index, (q, shape, represents) in enumerate(outputs):
            own = f"{label}_output" if index == 0 else f"{label}_output_{index}"
            values.append(self.make_value(own if represents is None else f"{represents.name}_quantized", q, shape))
        attributes = op.Attributes() if attributes is None else attributes
        integer = ir.Node(
            graph.INTEGER_DOMAIN,
            op.name,
            list(inputs),
            write_attributes(attributes),
            outputs=values,
            name=label,
        )
        meta.set_float_node(integer, stem)
        meta.set_placement(integer, meta.placement(node))
        if (path := meta.torch_module(node)) is not None:
            meta.set_torch_module(integer, path)
        self.insert(integer)
        for value, (_, _, represents) in zip(values, outputs, strict=True):
            if represents is not None:
                self.bind(represents, value)
        return values

    def const(self, array: np.ndarray, role: str, q: QParams | None = None) -> ir.Value:
        """A constant of the current node; `role` names it (`weight`, `bias`, `multiplier`, `table`).

        What the node has already, under the same role, is used again.
        """
        data = np.asarray(array, order="C")
        key = (role, data.dtype.str, data.shape, data.tobytes(), q)
        if key in self._constants:
            return self._constants[key]
        name = self._names.take(f"{graph.node_name(self._current())}/{role}")
        value = ir.Value(name=name, const_value=ir.tensor(data, name=name))
        value.shape, value.dtype = ir.Shape(data.shape), ir.DataType.from_numpy(data.dtype)
        meta.set_qparams(value, q)
        self.graph.register_initializer(value)
        self._constants[key] = value
        return value

    def multiplier(self, input_scales: Any, weight_scales: Any, output_scale: Any) -> np.ndarray:
        """The target's requantization multiplier (see `rescale.multiplier`)."""
        return rescale.multiplier(input_scales, weight_scales, output_scale, self.multiplier_bits)

    def weight(self, value: ir.Value | None, float_weight: np.ndarray, axis: int | None) -> Weight:
        """Weights as int8: with the meaning attached to `value` (QAT), else symmetric, one threshold per channel."""
        given = meta.qparams(value) if value is not None else None
        if given is not None:
            # The lowering may have transposed the weights (Gemm); the scales still belong to the output channels.
            q = given if given.axis is None or axis is None else replace(given, axis=axis)
        elif axis is None:
            q = qtype.symmetric(float(np.abs(float_weight).max(initial=0.0)), INT8)
        else:
            others = tuple(i for i in range(float_weight.ndim) if i != axis)
            q = qtype.per_channel(np.abs(float_weight).max(axis=others, initial=0.0), INT8, axis)
        count = 1 if axis is None else float_weight.shape[axis]
        scales = np.asarray(q.scales, np.float32)
        return Weight(qtype.quantize(float_weight, q), np.broadcast_to(scales, (count,)).copy())

    def weight_with_bias(
        self, value: ir.Value | None, float_weight: np.ndarray, axis: int, bias: np.ndarray | None, input_scale: float
    ) -> tuple[Weight, np.ndarray]:
        """int8 weights and int32 bias (scale s_x * s_w).

        A weight scale is widened where the bias would not fit into int32 with room for the accumulator, and where a
        channel has no weights at all (its bias must still be exact to a millionth of itself).
        """
        channels = float_weight.shape[axis]
        real_bias = np.zeros(channels) if bias is None else np.asarray(bias, np.float64).reshape(-1)
        weight = self.weight(value, float_weight, axis)
        others = tuple(i for i in range(float_weight.ndim) if i != axis)
        empty = np.abs(float_weight).max(axis=others, initial=0.0) == 0
        room = np.where(empty, 2.0**20, 2.0**30)
        needed = np.abs(real_bias) / (float(input_scale) * room)
        needed[needed < np.finfo(np.float32).tiny] = 0.0  # a trace of a bias, for which float32 has no scale
        too_fine = needed > weight.scales
        if np.any(too_fine | (empty & (needed > 0))):
            scales = np.where(too_fine | (empty & (needed > 0)), needed, weight.scales).astype(np.float32)
            q = QParams(INT8, tuple(float(s) for s in scales), 0, axis)
            weight = Weight(qtype.quantize(float_weight, q), scales)
        step = np.float64(np.float32(input_scale)) * weight.scales.astype(np.float64)
        integers = np.clip(np.rint(real_bias / step), INT32.min, INT32.max).astype(np.int32)
        return weight, integers

    def constant_operand(self, value: ir.Value, type_: IntType = INT8) -> ir.Value:
        """A float constant used like an activation: quantized per tensor, symmetric."""
        array = graph.constant(value)
        assert array is not None, "the operand is a constant"
        q = meta.qparams(value) or qtype.symmetric(qtype.magnitude(array), type_)
        return self.const(qtype.quantize(array, q), f"constant_{value.name}", q)

    def insert(self, node: ir.Node) -> None:
        """Put an integer node into the graph, before the float node that is being lowered."""
        self.graph.insert_before(self._current(), node)

    def make_value(self, name: str, q: QParams, shape: Sequence[int]) -> ir.Value:
        """A new integer value of meaning `q`."""
        value = ir.Value(name=self._names.take(name))
        value.shape, value.dtype = ir.Shape(tuple(shape)), _DATA_TYPE[q.type]
        meta.set_qparams(value, q)
        return value

    def _current(self) -> ir.Node:
        assert self._node is not None, "start() comes first"
        return self._node

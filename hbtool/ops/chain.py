"""Operators that the BPU runs as a chain of simpler ones (Softmax, LayerNorm, Div): the links, on integer values.

A chain keeps int16 between its links where the family has int16. Nobody observes the values in between: every range
is derived from the range of the input and from the formula, by the operator that builds the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics import qtype
from hbtool.numerics.qtype import INT8, INT16, INT32, QParams
from hbtool.numerics.rescale import dyadic_ratios
from hbtool.ops.add import Add, AddAttributes
from hbtool.ops.boundary import requantized
from hbtool.ops.concat import Concat, ConcatAttributes
from hbtool.ops.int16 import LARGEST_WEIGHT_SUM, largest_weight_sum
from hbtool.ops.integer_builder import IntegerBuilder, Result
from hbtool.ops.matmul import MatMul, MatMulAttributes
from hbtool.ops.mul import Mul, MulAttributes
from hbtool.ops.reduce_max import ExtremeAttributes, ReduceExtreme
from hbtool.ops.reduce_mean import ReduceSum, SumAttributes
from hbtool.ops.reshape import Reshape, ReshapeAttributes
from hbtool.ops.slice import Slice, SliceAttributes
from hbtool.ops.sum_square import ReduceSumSquare
from hbtool.ops.table import Function, emit_table


@dataclass(frozen=True)
class Goal:
    """Where a link writes.

    Attributes:
        q: meaning of the integers it writes.
        value: the float value they stand for, None between two links.
        clamp: smallest and largest integer allowed.
    """

    q: QParams
    value: ir.Value | None = None
    clamp: tuple[int, int] = (INT32.min, INT32.max)

    @classmethod
    def of(cls, result: Result) -> Goal:
        """The end of the chain: the node's result."""
        return cls(result.q, result.value, result.clamp)


class Chain:
    """Emits links into the INTEGER graph; every method returns the integer value it made."""

    def __init__(self, b: IntegerBuilder) -> None:
        self.b = b
        self.wide = INT8 if b.family == "bernoulli2" else INT16

    def within(self, threshold: float) -> Goal:
        """A value between two links whose magnitude stays below `threshold`."""
        return Goal(qtype.symmetric(threshold, self.wide))

    @staticmethod
    def span(x: ir.Value) -> float:
        """The largest difference of two numbers that the integers of `x` can stand for."""
        low, high = _q(x).real_range
        return high - low

    @staticmethod
    def reach(x: ir.Value) -> float:
        """The largest magnitude that the integers of `x` can stand for."""
        return max(abs(v) for v in _q(x).real_range)

    @staticmethod
    def scale(x: ir.Value) -> float:
        """What one step of the integers of `x` stands for."""
        return _q(x).scale

    def table(self, x: ir.Value, function: Function, to: Goal) -> ir.Value:
        """function(x)."""
        return emit_table(self.b, x, function, to.q, to.clamp, to.value)

    def add(self, x: ir.Value, y: ir.Value, to: Goal, sign: float = 1.0) -> ir.Value:
        """x + sign * y, broadcast."""
        a, c = _q(x), _q(y)
        widest = max((a.type, c.type), key=lambda t: t.bits)
        left, right = dyadic_ratios([a.scale / to.q.scale, sign * c.scale / to.q.scale], widest)
        attributes = AddAttributes(left, right, a.zero_point, c.zero_point, to.q.zero_point, to.q.type.name, *to.clamp)
        return self.b.emit(Add, [x, y], to.q, _shape(x, y), attributes, represents=to.value)

    def mul(self, x: ir.Value, y: ir.Value, to: Goal) -> ir.Value:
        """x * y, broadcast."""
        a, c = _q(x), _q(y)
        factor = self.b.const(self.b.multiplier([a.scale], [c.scale], to.q.scale), "multiplier")
        attributes = MulAttributes(a.zero_point, c.zero_point, to.q.zero_point, to.q.type.name, *to.clamp)
        return self.b.emit(Mul, [x, y, factor], to.q, _shape(x, y), attributes, represents=to.value)

    def largest(self, x: ir.Value, axes: tuple[int, ...]) -> ir.Value:
        """The maximum over axes, which stay with size 1; the meaning stays."""
        q = _q(x)
        return self.b.emit(ReduceExtreme, [x], q, _reduced(x, axes), ExtremeAttributes("max", axes, 1))

    def sum(self, x: ir.Value, axes: tuple[int, ...], to: Goal, factor: float = 1.0) -> ir.Value:
        """factor * the sum over axes, which stay with size 1."""
        q = _q(x)
        m = self.b.multiplier([np.float32(q.scale * factor)], [1.0], to.q.scale)
        attributes = SumAttributes(axes, 1, q.zero_point, to.q.zero_point, to.q.type.name, *to.clamp)
        operands = [x, self.b.const(m, "multiplier")]
        return self.b.emit(ReduceSum, operands, to.q, _reduced(x, axes), attributes, represents=to.value)

    def sum_of_squares(self, x: ir.Value, axes: tuple[int, ...], to: Goal, factor: float = 1.0) -> ir.Value:
        """factor * the sum of squares over axes, which stay with size 1."""
        q = _q(x)
        m = self.b.multiplier([q.scale], [np.float32(q.scale * factor)], to.q.scale)
        attributes = SumAttributes(axes, 1, q.zero_point, to.q.zero_point, to.q.type.name, *to.clamp)
        operands = [x, self.b.const(m, "multiplier")]
        return self.b.emit(ReduceSumSquare, operands, to.q, _reduced(x, axes), attributes, represents=to.value)

    def reshape(self, x: ir.Value, shape: Sequence[int], represents: ir.Value | None = None) -> ir.Value:
        """The same elements under another shape."""
        sizes = tuple(shape)
        return self.b.emit(Reshape, [x], _q(x), sizes, ReshapeAttributes(sizes), represents=represents)

    def part(self, x: ir.Value, axis: int, first: int, last: int) -> ir.Value:
        """x[first:last] along an axis."""
        shape = graph.static_shape(x)
        if (first, last) == (0, shape[axis]):
            return x
        starts = tuple(first if i == axis else 0 for i in range(len(shape)))
        stops = tuple(last if i == axis else n for i, n in enumerate(shape))
        sizes = tuple(b - a for a, b in zip(starts, stops, strict=True))
        return self.b.emit(Slice, [x], _q(x), sizes, SliceAttributes(starts, stops, (1,) * len(shape)))

    def join(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Values one after another along an axis, at the coarsest of their scales."""
        if len(values) == 1:
            return values[0]
        q = max((_q(v) for v in values), key=lambda found: found.scale)
        parts = [requantized(self.b, v, q) for v in values]
        shapes = [graph.static_shape(v) for v in values]
        shape = tuple(sum(s[i] for s in shapes) if i == axis else n for i, n in enumerate(shapes[0]))
        return self.b.emit(Concat, parts, q, shape, ConcatAttributes(axis))

    def const(self, array: np.ndarray, role: str) -> ir.Value:
        """A constant operand, symmetric in the chain's width."""
        q = qtype.symmetric(qtype.magnitude(array), self.wide)
        return self.b.const(qtype.quantize(array, q), role, q)


class Matrix:
    """Constant weights [K, N] and a bias [N], for products with rows of any scale.

    Args:
        chain: where products are emitted.
        weights: float.
        bias: float; None for none.
        role: names the constants.
    """

    def __init__(self, chain: Chain, weights: np.ndarray, bias: np.ndarray | None, role: str) -> None:
        self._chain, self._weights, self._bias, self._role = chain, weights, bias, role
        reads_int16 = chain.b.family not in MATRICES_READ_INT8
        self._wide = chain.wide if reads_int16 and largest_weight_sum(weights, 1) <= LARGEST_WEIGHT_SUM else INT8

    def product(self, x: ir.Value, to: Goal) -> ir.Value:
        """x @ weights + bias of [M, K] integers; int16 ones are rounded to int8 where the sums need it."""
        b = self._chain.b
        if _q(x).type.bits > self._wide.bits:
            x = requantized(b, x, qtype.symmetric(self._chain.reach(x), self._wide))
        q = _q(x)
        weight, bias = b.weight_with_bias(None, self._weights, 1, self._bias, q.scale)
        operands = [x, b.const(weight.integers, self._role)]
        operands.append(b.const(b.multiplier([q.scale], weight.scales, to.q.scale), f"{self._role}_multiplier"))
        if self._bias is not None:
            operands.append(b.const(bias, f"{self._role}_bias"))
        shape = (graph.static_shape(x)[0], self._weights.shape[1])
        attributes = MatMulAttributes(q.zero_point, 0, to.q.zero_point, to.q.type.name, *to.clamp)
        return b.emit(MatMul, operands, to.q, shape, attributes, represents=to.value)


MATRICES_READ_INT8 = ("bernoulli2", "bayes")
"""Families whose matrix products with constant weights read int8 only."""


def _q(x: ir.Value) -> QParams:
    q = meta.qparams(x)
    assert q is not None, "integer values carry their meaning"
    return q


def _shape(*values: ir.Value) -> tuple[int, ...]:
    return tuple(np.broadcast_shapes(*(graph.static_shape(v) for v in values)))


def _reduced(x: ir.Value, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(graph.static_shape(x)))

"""Matrix products: MatMul of two activations, MatMul and Gemm with constant weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT32, IntType, QParams, int_type
from hbtool.ops.accumulator import clamped_onnx, exact_float_parts, finish, finish_onnx, int32_fits, int32_product
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.onnx_builder import EXACT_FLOAT32, OnnxBuilder, Operand
from hbtool.ops.op import Box, Family, FloatOp, IntegerOp, Sample, Tile, constraint
from hbtool.target.job import Work


@dataclass(frozen=True)
class MatMulAttributes:
    """Zero points, type of the result, and the absorbed clamp."""

    a_zero_point: int = 0
    b_zero_point: int = 0
    y_zero_point: int = 0
    y_type: str = "int8"
    clamp_min: int = INT32.min
    clamp_max: int = INT32.max


class MatMul(IntegerOp):
    """y = clamp(saturate(round_half_even(float32(sum((a - zp_a) * (b - zp_b)) + bias) * m[column]) + zp_y)).

    Operands: a [..., M, K], b [..., K, N] (weights or an activation), m float32 [N] or [1], bias int32 [N] or absent.
    """

    name = "MatMul"
    Attributes = MatMulAttributes
    parameters = (2, 3)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        left, right, factor, bias = (*x, None)[:4]
        acc = m.matmul(m.widen(left, a.a_zero_point), m.widen(right, a.b_zero_point))
        return finish(m, a, acc, bias, factor)

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        left, right, factor = x[0], x[1], x[2]
        bias = x[3] if len(x) > 3 else None
        assert left is not None and right is not None and factor is not None
        y_type = int_type(a.y_type)
        fast = left.type is INT8 and right.type is INT8 and y_type is INT8
        if fast and bias is not None and right.array is not None and len(right.shape) == 2:
            y = self._gemm(b, a, left, right, bias, factor)
        elif fast and bias is None:
            y = self._product(b, a, left, right, factor)
        else:
            return [self._exact(b, a, left, right, bias, factor)]
        return [clamped_onnx(b, a, y)]

    @staticmethod
    def _gemm(b: OnnxBuilder, a: Any, left: Operand, right: Operand, bias: Operand, factor: Operand) -> ir.Value:
        """com.microsoft QGemm: flat rows, one multiplier per column, int32 bias; requantizes in float32 like us."""
        columns = right.shape[1]
        one = b.const(1.0, np.float32)
        y = b.op(
            "QGemm",
            b.reshape(b.value(left), (-1, left.shape[-1])),
            one,
            b.zero_point(INT8, a.a_zero_point),
            b.const(right.constant()),
            b.const(np.broadcast_to(factor.constant(), (columns,))),
            b.const(np.full(columns, a.b_zero_point, np.int8)),
            b.const(bias.constant()),
            one,
            b.zero_point(INT8, a.y_zero_point),
            domain="com.microsoft",
        )
        return b.reshape(y, (*left.shape[:-1], columns))

    @staticmethod
    def _product(b: OnnxBuilder, a: Any, left: Operand, right: Operand, factor: Operand) -> ir.Value:
        """QLinearMatMul with y_scale = a_scale = 1 and b_scale = m, so that its own ratio is m exactly."""
        one = b.const(1.0, np.float32)
        if right.array is not None:
            weight = b.const(right.constant())
            scale, zero = factor.constant(), np.full(factor.shape, a.b_zero_point, np.int8)
            if factor.shape == (1,):
                scale, zero = scale.reshape(()), zero.reshape(())
            second = (weight, b.const(scale), b.const(zero))
        else:
            second = (b.value(right), b.const(factor.constant().reshape(())), b.zero_point(INT8, a.b_zero_point))
        first = (b.value(left), one, b.zero_point(INT8, a.a_zero_point))
        return b.op("QLinearMatMul", *first, *second, one, b.zero_point(INT8, a.y_zero_point))

    @staticmethod
    def _exact(
        b: OnnxBuilder, a: Any, left: Operand, right: Operand, bias: Operand | None, factor: Operand
    ) -> ir.Value:
        """Float products of integers: float32 pieces where weights bound the sum, float64 otherwise."""
        first = b.as_float(left, a.a_zero_point)
        if right.array is not None and len(right.shape) == 2 and left.type is INT8:
            weight = right.constant().astype(np.int64) - a.b_zero_point
            added = None if bias is None else bias.constant()
            if a.y_type == INT32.name and a.b_zero_point == 0 and int32_fits(weight.T, added):
                return int32_product(b, b.value(left), a.a_zero_point, right.constant(), added)
            sums = []
            for low, high, piece in exact_float_parts(np.ascontiguousarray(weight.T), INT8, axis=1):
                part = first
                if (low, high) != (0, right.shape[0]):
                    part = b.op(
                        "Slice", first, b.const([low], np.int64), b.const([high], np.int64), b.const([-1], np.int64)
                    )
                sums.append(b.op("MatMul", part, b.const(piece.T.astype(np.float32))))
        else:
            second = b.as_float(right, a.b_zero_point)
            if _widest_sum(left, right) >= EXACT_FLOAT32:
                first, second = (b.op("Cast", v, to=int(ir.DataType.DOUBLE)) for v in (first, second))
            sums = [b.op("MatMul", first, second)]
        return finish_onnx(b, a, sums, None if bias is None else bias.constant(), factor.constant())

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile | None:
        left, right, factor = shapes[0], shapes[1], shapes[2]
        assert left is not None and right is not None and factor is not None
        if len(left) < 2 or len(right) < 2:
            return None
        columns: Box = (box[-1],)
        boxes = (
            (*_batch_box(left, box), box[-2], (0, left[-1])),
            (*_batch_box(right, box), (0, right[-2]), box[-1]),
            columns if factor != (1,) else None,
            columns,
        )
        return Tile(boxes[: len(shapes)], a)

    def work(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        left = shapes[0]
        assert left is not None
        rows = out[-2] if len(out) > 1 else 1
        return Work(
            "matrix",
            rows=rows,
            repeats=graph.elements(out[:-2]),
            outputs=out[-1],
            inputs=left[-1],
            bits=max(types[0].bits, types[1].bits),
        )


def _widest_sum(left: Operand, right: Operand) -> int:
    """Largest magnitude the accumulator can reach."""
    assert left.type is not None and right.type is not None
    return left.shape[-1] << (left.type.bits + right.type.bits)


def _batch_box(shape: tuple[int, ...], box: Box) -> Box:
    """The box of the leading axes of an operand that broadcasts against the output."""
    lead = len(shape) - 2
    outer = box[len(box) - 2 - lead : len(box) - 2]
    return tuple((0, 1) if n == 1 else b for n, b in zip(shape[:lead], outer, strict=True))


class _Product(FloatOp):
    """What Gemm and MatMul share."""

    absorbs_clamp = True
    high_precision = True
    error_steps = 4.0
    rule_text = "int8 weights per output column or an int8 activation, int32 bias and accumulator, one float32 multiply"

    @constraint(bernoulli2=16384, nash=65536)
    def matrix_size(self, node: ir.Node, limit: int) -> bool | str:
        """rows and columns of both matrices at most {limit}"""
        largest = max(n for v in node.inputs[:2] if v is not None for n in graph.static_shape(v)[-2:])
        return largest <= limit or f"there are {largest}"

    @constraint(bayes=8192, bayes_e=8192)
    def matrix_size_as_conv(self, node: ir.Node, limit: int) -> bool | str:
        """rows and columns of both matrices at most {limit}; 8 times as many results of constant weights at the end"""
        first, second = (graph.static_shape(v)[-2:] for v in node.inputs[:2] if v is not None)
        columns = (1, *graph.static_shape(node.outputs[0]))[-1]
        inner = [*first, *(n for n in second if n != columns)]
        most = limit if node.outputs[0].uses() or graph.constant(node.inputs[1]) is None else 8 * limit
        return (max(inner) <= limit and columns <= most) or f"there are {max(*inner, columns)}"

    def _emit_constant(
        self,
        node: ir.Node,
        b: IntegerBuilder,
        weight_value: ir.Value | None,
        weight: np.ndarray,
        bias: np.ndarray | None,
    ) -> None:
        """x @ weight + bias with weight [K, N] constant."""
        x = node.inputs[0]
        assert x is not None
        qx = b.q(x)
        input_scale = 1.0
        if qx.axis is None:
            input_scale = qx.scale
        else:
            weight, weight_value = weight * np.asarray(qx.scales, np.float32)[:, None], None
        quantized, integer_bias = b.weight_with_bias(weight_value, weight, 1, bias, input_scale)
        operands = [b.x(x), b.const(quantized.integers, "weight")]
        _finish(node, b, operands, [input_scale], quantized.scales, integer_bias if bias is not None else None)


def _finish(
    node: ir.Node,
    b: IntegerBuilder,
    operands: list[ir.Value],
    input_scales: Any,
    weight_scales: Any,
    bias: np.ndarray | None,
) -> None:
    result = b.result(node)
    rank = len(graph.static_shape(node.outputs[0]))
    raw = result.raw_accumulator
    q = result.q
    if raw:
        scales = np.float32(input_scales) * np.asarray(weight_scales, np.float32)
        q = QParams(INT32, tuple(float(s) for s in scales), 0, rank - 1 if len(scales) > 1 else None)
    factor = b.multiplier(input_scales, weight_scales, 1.0 if raw else np.asarray(q.scales))
    zero_points = [found.zero_point for v in operands if (found := meta.qparams(v)) is not None]
    a_zero, b_zero = (*zero_points, 0, 0)[:2]
    attributes = MatMulAttributes(a_zero, b_zero, q.zero_point, q.type.name, *result.clamp)
    inputs = [*operands, b.const(factor, "multiplier")]
    if bias is not None:
        inputs.append(b.const(bias, "bias"))
    b.emit(MatMul, inputs, q, graph.static_shape(node.outputs[0]), attributes, represents=result.value)


class GemmFloat(_Product):
    """ONNX Gemm with constant B and C."""

    op_types = ("Gemm",)
    int8_only = ("bayes",)

    @constraint()
    def constant_weights(self, node: ir.Node, limit: Any) -> bool | str:
        """constant weights and bias, and an activation that is not transposed"""
        fixed = all(v is None or graph.constant(v) is not None for v in node.inputs[1:])
        return (fixed and not graph.attribute(node, "transA", 0)) or "they are computed or transposed"

    def bias(self, node: ir.Node) -> tuple[int, int] | None:  # noqa: D102
        return (2, 1) if graph.attribute(node, "beta", 1.0) == 1.0 else None

    def weight_axes(self, node: ir.Node) -> Mapping[int, int]:  # noqa: D102
        return {1: 0 if graph.attribute(node, "transB", 0) else 1}

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        weight_value = node.inputs[1]
        assert weight_value is not None
        weight = graph.constant(weight_value)
        assert weight is not None
        alpha = np.float32(graph.attribute(node, "alpha", 1.0))
        weight = weight * alpha
        weight = weight.T if graph.attribute(node, "transB", 0) else weight
        bias = graph.constant(graph.input_at(node, 2))
        if bias is not None:
            bias = np.broadcast_to(bias * np.float32(graph.attribute(node, "beta", 1.0)), (1, weight.shape[1]))[0]
        self._emit_constant(node, b, weight_value if alpha == 1 else None, np.ascontiguousarray(weight), bias)

    @constraint()
    def bias_per_column(self, node: ir.Node, limit: Any) -> bool | str:
        """a bias of one value or one value per output column"""
        bias = graph.constant(graph.input_at(node, 2))
        return bias is None or bias.size == 1 or bias.size == bias.shape[-1] or f"its shape is {bias.shape}"

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(3)
        x = rng.standard_normal((5, 20)).astype(np.float32)
        w = rng.standard_normal((20, 7)).astype(np.float32)
        c = rng.standard_normal(7).astype(np.float32)
        yield Sample("plain", "Gemm", (x,), {1: w, 2: c}, steps=4.0)
        yield Sample(
            "transposed B, alpha, beta",
            "Gemm",
            (x,),
            {1: w.T.copy(), 2: c},
            {"transB": 1, "alpha": 0.5, "beta": 2.0},
            steps=4.0,
        )
        yield Sample("no bias", "Gemm", (x,), {1: w}, steps=4.0)


def _batch_pairs(node: ir.Node) -> list[tuple[int, int]]:
    """Sizes of the batch axes of two computed operands, pairwise; empty where the second is constant."""
    if graph.constant(node.inputs[1]) is not None:
        return []
    first, second = (graph.static_shape(v)[:-2] for v in node.inputs[:2] if v is not None)
    rank = max(len(first), len(second))
    full = [(1,) * (rank - len(s)) + s for s in (first, second)]
    return list(zip(*full, strict=True))


class MatMulFloat(_Product):
    """ONNX MatMul: an activation times constant weights, or two activations."""

    op_types = ("MatMul",)
    int8_positions: ClassVar[Mapping[Family, tuple[int, ...]]] = {"bayes": (1,), "bayes-e": (1,)}

    @constraint("bernoulli2")
    def second_of_one_matrix(self, node: ir.Node, limit: Any) -> bool | str:
        """a second operand that is a constant, or computed and of shape 1x1xKxN with a first one of 1xBxMxK"""
        if graph.constant(node.inputs[1]) is not None:
            return True
        first, second = (graph.static_shape(v) for v in node.inputs if v is not None)
        fits = len(first) == len(second) == 4 and first[0] == 1 and second[:2] == (1, 1)
        return fits or f"the shapes are {'x'.join(map(str, first))} and {'x'.join(map(str, second))}"

    @constraint(bayes=4096, bayes_e=4096)
    def batch_size(self, node: ir.Node, limit: int) -> bool | str:
        """of two computed operands: batch axes of at most {limit}"""
        largest = max((n for a, b in _batch_pairs(node) for n in (a, b)), default=1)
        return largest <= limit or f"one is {largest}"

    @constraint("bayes", "bayes-e")
    def batch_broadcast(self, node: ir.Node, limit: Any) -> bool | str:
        """of two computed operands: a first that broadcasts along all batch axes or none, a second along last ones"""
        pairs = [(a, b) for a, b in _batch_pairs(node) if (a, b) != (1, 1)]
        first, second = [a < b for a, b in pairs], [b < a for a, b in pairs]
        if any(first) and not all(first):
            return "the first broadcasts along some"
        # False before True: the axes that do not broadcast come first.
        return second == sorted(second) or "the second broadcasts along an earlier one"

    @constraint()
    def activation_first(self, node: ir.Node, limit: Any) -> bool | str:
        """a computed first operand of rank 2 or more"""
        first = node.inputs[0]
        second = node.inputs[1]
        if graph.constant(first) is not None:
            return "it is a constant"
        ranks = [len(graph.static_shape(v)) for v in (first, second) if v is not None]
        return min(ranks) >= 2 or "an operand has rank 1"

    @constraint()
    def plain_constant(self, node: ir.Node, limit: Any) -> bool | str:
        """constant weights, if any, of rank 2"""
        weight = graph.constant(node.inputs[1])
        return weight is None or weight.ndim == 2 or f"the rank is {weight.ndim}"

    def weight_axes(self, node: ir.Node) -> Mapping[int, int]:  # noqa: D102
        return {1: 1}

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        first, second = node.inputs[0], node.inputs[1]
        assert first is not None and second is not None
        weight = graph.constant(second)
        if weight is not None:
            self._emit_constant(node, b, second, weight, None)
            return
        operands = [b.x(first), b.x(second)]
        _finish(node, b, operands, [b.q(first).scale], [b.q(second).scale], None)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(4)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        yield Sample("constant weights, rank 3", "MatMul", (normal(2, 5, 16),), {1: normal(16, 9)}, steps=4.0)
        yield Sample("two activations", "MatMul", (normal(1, 3, 6, 8), normal(1, 3, 8, 5)), steps=4.0)
        yield Sample("broadcast batch", "MatMul", (normal(2, 3, 6, 8), normal(3, 8, 5)), steps=4.0)


__all__ = ["INT8", "GemmFloat", "MatMul", "MatMulFloat"]

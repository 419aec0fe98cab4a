"""What every multiply-accumulate operator does with its exact integer sum: bias, requantize, clamp.

In standard ONNX an exact sum is built from float32 operators over pieces small enough to be exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT8, INT32, IntType, int_type
from hbtool.ops.onnx_builder import EXACT_FLOAT32, OnnxBuilder, Operand


def finish(m: IntMath, a: Any, acc: Array, bias: Array | None, factor: Array) -> Array:
    """bias, requantization and clamp of an accumulator; `a` has y_type, y_zero_point, clamp_min, clamp_max."""
    total = acc if bias is None else m.add(acc, bias)
    y_type = int_type(a.y_type)
    if y_type is INT32:
        return m.narrow(total, INT32)
    return clamped(m, a, m.requantize(total, factor, y_type, a.y_zero_point))


def clamped(m: IntMath, a: Any, y: Array) -> Array:
    """The clamp an operator absorbed; `a` has y_type, clamp_min, clamp_max."""
    y_type = int_type(a.y_type)
    return m.clamp(y, max(a.clamp_min, y_type.min), min(a.clamp_max, y_type.max))


def clamped_onnx(b: OnnxBuilder, a: Any, y: ir.Value) -> ir.Value:
    """The same in standard ONNX."""
    y_type = int_type(a.y_type)
    return b.clamp(y, y_type, max(a.clamp_min, y_type.min), min(a.clamp_max, y_type.max))


def finish_onnx(
    b: OnnxBuilder, a: Any, sums: Sequence[ir.Value], bias: np.ndarray | None, factor: np.ndarray
) -> ir.Value:
    """The same in standard ONNX; `sums` are float32 tensors of exact integers that add up to the accumulator."""
    y_type = int_type(a.y_type)
    # float64 holds every int32 sum exactly; one piece below 2^24 with its bias needs no detour.
    total = b.op("Cast", sums[0], to=int(ir.DataType.DOUBLE))
    for piece in sums[1:]:
        total = b.op("Add", total, b.op("Cast", piece, to=int(ir.DataType.DOUBLE)))
    if bias is not None:
        total = b.op("Add", total, b.const(bias.astype(np.float64)))
    if y_type is INT32:
        clipped = b.op("Clip", total, b.const(INT32.min, np.float64), b.const(INT32.max, np.float64))
        return b.op("Cast", clipped, to=int(ir.DataType.INT32))
    real = b.op("Cast", total, to=int(ir.DataType.FLOAT))
    y = b.from_float(b.op("Mul", real, b.const(factor.astype(np.float32))), y_type, a.y_zero_point)
    return b.clamp(y, y_type, max(a.clamp_min, y_type.min), min(a.clamp_max, y_type.max))


def int32_fits(weight: np.ndarray, bias: np.ndarray | None) -> bool:
    """Whether sums of int8 products and their bias stay inside int32 whatever the input; output channels on axis 0."""
    reach = 255 * np.abs(weight.reshape(weight.shape[0], -1).astype(np.int64)).sum(axis=1)
    return bool(np.all(reach + (0 if bias is None else np.abs(bias.astype(np.int64))) < INT32.max))


def int32_product(
    b: OnnxBuilder, left: ir.Value, zero_point: int, weight: np.ndarray, bias: np.ndarray | None
) -> ir.Value:
    """Encoded int8 rows [..., K] times int8 weights [K, N] plus bias [N], as int32: onnxruntime's integer kernel.

    2 to 3 times faster than the float32 form; the caller has made sure of `int32_fits`.
    """
    total = b.op("MatMulInteger", left, b.const(weight), b.zero_point(INT8, zero_point))
    return total if bias is None else b.op("Add", total, b.const(bias.astype(np.int32)))


def exact_convolutions(
    b: OnnxBuilder, data: Operand, zero_point: int, weight: np.ndarray, window: Mapping[str, Any]
) -> list[ir.Value]:
    """Convolutions of float32 integers that add up to the accumulator, each exact in float32.

    A product of int16 and int8 leaves no room for a sum, so int16 goes as 256 * high + low, two bytes.
    """
    real = b.as_float(data, zero_point)
    planes = [(real, 1.0)]
    if data.type is not INT8:
        high = b.op("Floor", b.op("Mul", real, b.const(1.0 / 256, np.float32)))
        low = b.op("Sub", real, b.op("Mul", high, b.const(256.0, np.float32)))
        planes = [(high, 256.0), (low, 1.0)]
    sums = []
    for plane, factor in planes:
        for first, last, piece in exact_float_parts(weight, INT8, axis=1, groups=window["group"]):
            source = plane
            if (first, last) != (0, weight.shape[1]):
                source = b.op("Slice", plane, *(b.const([v], np.int64) for v in (first, last, 1)))
            for kernel in _by_taps(piece):
                y = b.op("Conv", source, b.const(kernel.astype(np.float32)), **window)
                sums.append(y if factor == 1.0 else b.op("Mul", y, b.const(factor, np.float32)))
    return sums


def _by_taps(weight: np.ndarray) -> Iterator[np.ndarray]:
    """Weights as a sum of kernels, each with taps few enough that an int8 sum stays below 2^24."""
    cost = 256 * np.abs(weight.astype(np.int64)).sum(axis=1).reshape(weight.shape[0], -1)
    if cost.sum(axis=1).max(initial=0) < EXACT_FLOAT32:
        yield weight
        return
    # One tap of one piece of channels always fits: the pieces were cut by channels before.
    part = np.zeros(cost.shape[1], np.int64)
    spent = np.zeros(cost.shape[0], np.int64)
    for tap in range(cost.shape[1]):
        if (spent + cost[:, tap]).max() >= EXACT_FLOAT32:
            part[tap:] += 1
            spent = np.zeros_like(spent)
        spent = spent + cost[:, tap]
    for index in range(int(part[-1]) + 1):
        yield weight * (part == index).reshape(1, 1, *weight.shape[2:])


def exact_float_parts(
    weight: np.ndarray, x_type: IntType, axis: int, groups: int = 1
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Weights cut along the summed axis `axis` so that no partial sum of a piece reaches 2^24.

    Args:
        weight: integers, output channels on axis 0.
        x_type: type of the other operand.
        axis: the axis that is summed over together with all axes but 0.
        groups: with groups the cut would mix channels of different groups; then the pieces are taken from the *values*
            (weights of other input channels set to zero), the input stays whole.

    Yields:
        (first, last, piece): the slice of the axis that the piece covers, and its weights.
    """
    # x - zero_point spans up to the type's full width when the zero point sits at one end.
    reach = (1 << x_type.bits) * np.abs(weight.astype(np.int64))
    others = tuple(i for i in range(weight.ndim) if i not in (0, axis))
    cost = reach.sum(axis=others).max(axis=0) if weight.size else np.zeros(weight.shape[axis], np.int64)
    if groups == 1 and reach.sum(axis=tuple(range(1, weight.ndim))).max(initial=0) < EXACT_FLOAT32:
        yield 0, weight.shape[axis], weight
        return
    first, spent = 0, 0
    for index in range(weight.shape[axis] + 1):
        if index < weight.shape[axis] and (spent + cost[index] < EXACT_FLOAT32 or index == first):
            spent += int(cost[index])
            continue
        piece = np.take(weight, range(first, index), axis=axis)
        if groups > 1 and (first, index) != (0, weight.shape[axis]):
            whole = np.zeros_like(weight)
            whole[:, first:index] = piece
            piece = whole
            yield 0, weight.shape[axis], piece
        else:
            yield first, index, piece
        first, spent = index, int(cost[index]) if index < weight.shape[axis] else 0

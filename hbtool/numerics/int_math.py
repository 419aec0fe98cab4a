"""The primitives that integer kernels are written with, and their definition in numpy.

A kernel receives an `IntMath` and arrays and calls only these methods and the arrays' own `shape`. That lets one
kernel text run on numpy (the reference, the simulator) and on torch tensors (the fixed-point model), bit for bit.
Accumulators are exact integers. Only `requantize` and `weighted_sum` round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hbtool.numerics import piecewise, qtype
from hbtool.numerics.qtype import IntType, QParams

Array = Any
"""A numpy array or a torch tensor, whichever the `IntMath` in use works on."""


class IntMath(Protocol):
    """What a machine must be able to compute on integers."""

    def conv(
        self,
        x: Array,
        w: Array,
        *,
        zero_point: int,
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        group: int,
    ) -> Array:
        """Exact sum over (x - zero_point) * w; x [N, C, *spatial], w [M, C/group, *kernel]; padding counts as 0."""

    def matmul(self, a: Array, b: Array) -> Array:
        """Exact integer product of [..., M, K] and [..., K, N], broadcast as numpy."""

    def requantize(self, acc: Array, multiplier: Array, type_: IntType, zero_point: int) -> Array:
        """saturate(round_half_even(float32(acc) * multiplier) + zero_point); one float32 multiply."""

    def weighted_sum(self, terms: Sequence[tuple[Array, int, float]], type_: IntType, zero_point: int) -> Array:
        """saturate(round_half_even(sum of (x - zero_point_x) * ratio) + zero_point), exact before the one rounding."""

    def widen(self, x: Array, zero_point: int = 0) -> Array:
        """x - zero_point in the accumulator type."""

    def narrow(self, x: Array, type_: IntType) -> Array:
        """x saturated to `type_`."""

    def clamp(self, x: Array, low: int, high: int) -> Array:
        """x limited to [low, high], same type."""

    def quantize(self, x: Array, q: QParams) -> Array:
        """Real numbers to integers, as `qtype.quantize`."""

    def dequantize(self, x: Array, q: QParams) -> Array:
        """Integers to real numbers (float32), as `qtype.dequantize`."""

    def table(self, x: Array, table: Array, type_: IntType) -> Array:
        """table[x - type_.min], elementwise; `type_` is the type of x, `table` has one entry per value of it."""

    def segment_table(self, x: Array, blocks: Array, entries: Array) -> Array:
        """A piecewise-linear table over int16, elementwise, as `piecewise.evaluate`."""

    def window_max(
        self,
        x: Array,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        pad_value: int,
    ) -> Array:
        """Maximum over sliding windows of the trailing `len(kernel)` axes."""

    def window_sum(
        self,
        x: Array,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        pad_value: int,
    ) -> Array:
        """Exact sum over sliding windows of the trailing `len(kernel)` axes."""

    def pad(self, x: Array, pads: Sequence[tuple[int, int]], value: int) -> Array:
        """x with (before, after) elements of `value` added on each axis."""

    def spread(self, x: Array, strides: Sequence[int], value: int) -> Array:
        """x with `stride - 1` elements of `value` between neighbours on the trailing `len(strides)` axes."""

    def reduce(self, x: Array, kind: str, axes: Sequence[int], keepdims: bool) -> Array:
        """`sum` (exact), `max` or `min` over axes."""

    def argreduce(self, x: Array, kind: str, axis: int, keepdims: bool, last: bool) -> Array:
        """Index of the `max` or `min` along an axis; of equals the first, or the last."""

    def top(self, x: Array, count: int, axis: int, largest: bool) -> tuple[Array, Array]:
        """The `count` largest (smallest) elements along an axis in order, and their indices; of equals the first."""

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """x with another shape."""

    def transpose(self, x: Array, perm: Sequence[int]) -> Array:
        """x with its axes permuted."""

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        """The parts joined along an axis."""

    def slice(self, x: Array, slices: Sequence[tuple[int, int, int]]) -> Array:
        """(start, stop, step) per axis, as Python slices; step may be negative, stop -1 - n included."""

    def take(self, x: Array, indices: Array, axis: int) -> Array:
        """x gathered along an axis; `indices` of any shape."""

    def sample(self, x: Array, columns: Array, rows: Array, bits: int, nearest: bool, border: bool) -> Array:
        """2^(2 * bits) times x [N, C, H, W] at fixed-point positions [N, H', W'] in 2^-bits pixels, exactly.

        Linear: the four neighbours by the low bits of the position; nearest: half to even. Outside counts 0, with
        `border` the position is clamped to the image first.
        """

    def expand(self, x: Array, shape: Sequence[int]) -> Array:
        """x broadcast to `shape`."""

    def where(self, condition: Array, x: Array, y: Array) -> Array:
        """x where the condition is not 0, else y."""

    def compare(self, kind: str, x: Array, y: Array) -> Array:
        """1 where x `kind` y (`gt`, `ge`, `eq`, `lt`, `le`), else 0, as int8."""

    def maximum(self, x: Array, y: Array) -> Array:
        """Elementwise maximum, broadcast."""

    def minimum(self, x: Array, y: Array) -> Array:
        """Elementwise minimum, broadcast."""

    def add(self, x: Array, y: Array) -> Array:
        """Exact sum of accumulators, broadcast."""

    def multiply(self, x: Array, y: Array) -> Array:
        """Exact product of accumulators, broadcast."""


LARGEST_ELEMENTS = 1 << 31
"""No feature map comes near; attributes of a damaged file may ask for more, and would get it page by page."""


def _bounded(shape: Sequence[int]) -> Sequence[int]:
    if math.prod(shape) > LARGEST_ELEMENTS:
        raise ValueError(f"an array of shape {tuple(shape)} is larger than any feature map")
    return shape


def _padded(x: np.ndarray, pads: Sequence[tuple[int, int]], value: int) -> np.ndarray:
    _bounded([n + before + after for n, (before, after) in zip(x.shape, pads, strict=True)])
    return np.pad(x, pads, constant_values=value)


def _windows(
    x: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    pad_value: int,
) -> np.ndarray:
    """[..., *out, *kernel] view of all windows over the trailing axes."""
    rank = len(kernel)
    width = [(0, 0)] * (x.ndim - rank) + [(pads[i], pads[rank + i]) for i in range(rank)]
    x = _padded(x, width, pad_value)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    axes = tuple(range(x.ndim - rank, x.ndim))
    view = sliding_window_view(x, spans, axis=axes)
    lead = (slice(None),) * (x.ndim - rank)
    steps = tuple(slice(None, None, s) for s in strides)
    taps = tuple(slice(None, None, d) for d in dilations)
    return np.asarray(view[lead + steps + taps])


class NumpyMath:
    """The definition of every primitive, in numpy. Accumulators are int64 (never out of range)."""

    def conv(  # noqa: D102 - the protocol documents each primitive
        self,
        x: np.ndarray,
        w: np.ndarray,
        *,
        zero_point: int,
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        group: int,
    ) -> np.ndarray:
        batch, outputs, inputs = x.shape[0], w.shape[0], w.shape[1]
        # float64 products and sums of integers are exact below 2^53, and use the fast matrix product.
        windows = _windows(x, w.shape[2:], strides, pads, dilations, zero_point)
        rank = w.ndim - 2
        spatial = windows.shape[2 : 2 + rank]
        taps = int(np.prod(w.shape[2:]))
        order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
        columns = windows.transpose(order).reshape(batch, -1, group, inputs * taps)
        columns = columns.astype(np.float64) - zero_point
        kernel = w.reshape(group, outputs // group, inputs * taps).astype(np.float64)
        acc = (
            np.einsum("npgk,gok->ngop", columns, kernel, optimize=group == 1)
            if group > 1
            else np.matmul(kernel, columns[:, :, 0].transpose(0, 2, 1))
        )
        return np.rint(acc).astype(np.int64).reshape(batch, outputs, *spatial)

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.rint(np.matmul(a.astype(np.float64), b.astype(np.float64))).astype(np.int64)

    def requantize(  # noqa: D102
        self, acc: np.ndarray, multiplier: np.ndarray, type_: IntType, zero_point: int
    ) -> np.ndarray:
        scaled = np.rint(acc.astype(np.float32) * np.asarray(multiplier, np.float32))
        return np.clip(scaled.astype(np.float64) + zero_point, type_.min, type_.max).astype(type_.dtype)

    def weighted_sum(  # noqa: D102
        self, terms: Sequence[tuple[np.ndarray, int, float]], type_: IntType, zero_point: int
    ) -> np.ndarray:
        total = sum((x.astype(np.float64) - zp) * ratio for x, zp, ratio in terms)
        return np.clip(np.rint(total) + zero_point, type_.min, type_.max).astype(type_.dtype)

    def widen(self, x: np.ndarray, zero_point: int = 0) -> np.ndarray:  # noqa: D102
        return x.astype(np.int64) - zero_point

    def narrow(self, x: np.ndarray, type_: IntType) -> np.ndarray:  # noqa: D102
        return np.clip(x, type_.min, type_.max).astype(type_.dtype)

    def clamp(self, x: np.ndarray, low: int, high: int) -> np.ndarray:  # noqa: D102
        return np.clip(x, low, high).astype(x.dtype)

    def quantize(self, x: np.ndarray, q: QParams) -> np.ndarray:  # noqa: D102
        return qtype.quantize(x, q)

    def dequantize(self, x: np.ndarray, q: QParams) -> np.ndarray:  # noqa: D102
        return qtype.dequantize(x, q)

    def table(self, x: np.ndarray, table: np.ndarray, type_: IntType) -> np.ndarray:  # noqa: D102
        return np.asarray(np.asarray(table)[x.astype(np.int64) - type_.min])

    def segment_table(self, x: np.ndarray, blocks: np.ndarray, entries: np.ndarray) -> np.ndarray:  # noqa: D102
        return piecewise.evaluate(x, np.asarray(blocks), np.asarray(entries))

    def window_max(  # noqa: D102
        self,
        x: np.ndarray,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        pad_value: int,
    ) -> np.ndarray:
        view = _windows(x, kernel, strides, pads, dilations, pad_value)
        return np.asarray(view.max(axis=tuple(range(view.ndim - len(kernel), view.ndim))))

    def window_sum(  # noqa: D102
        self,
        x: np.ndarray,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        pad_value: int,
    ) -> np.ndarray:
        view = _windows(x.astype(np.int64), kernel, strides, pads, dilations, pad_value)
        return np.asarray(view.sum(axis=tuple(range(view.ndim - len(kernel), view.ndim))))

    def pad(self, x: np.ndarray, pads: Sequence[tuple[int, int]], value: int) -> np.ndarray:  # noqa: D102
        return _padded(x, list(pads), value)

    def spread(self, x: np.ndarray, strides: Sequence[int], value: int) -> np.ndarray:  # noqa: D102
        lead = x.ndim - len(strides)
        shape = [*x.shape[:lead], *((n - 1) * s + 1 for n, s in zip(x.shape[lead:], strides, strict=True))]
        out = np.full(_bounded(shape), value, x.dtype)
        out[(slice(None),) * lead + tuple(slice(None, None, s) for s in strides)] = x
        return out

    def reduce(self, x: np.ndarray, kind: str, axes: Sequence[int], keepdims: bool) -> np.ndarray:  # noqa: D102
        axis = tuple(axes)
        if kind == "sum":
            return np.asarray(x.astype(np.int64).sum(axis=axis, keepdims=keepdims))
        return np.asarray((x.max if kind == "max" else x.min)(axis=axis, keepdims=keepdims))

    def argreduce(  # noqa: D102
        self, x: np.ndarray, kind: str, axis: int, keepdims: bool, last: bool
    ) -> np.ndarray:
        source = np.flip(x, axis) if last else x
        index = source.argmax(axis=axis) if kind == "max" else source.argmin(axis=axis)
        index = x.shape[axis] - 1 - index if last else index
        return np.asarray(np.expand_dims(index, axis) if keepdims else index, np.int64)

    def top(  # noqa: D102
        self, x: np.ndarray, count: int, axis: int, largest: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        key = -x.astype(np.int64) if largest else x.astype(np.int64)
        order = np.argsort(key, axis=axis, kind="stable").take(range(count), axis=axis)
        return np.take_along_axis(x, order, axis), order.astype(np.int64)

    def reshape(self, x: np.ndarray, shape: Sequence[int]) -> np.ndarray:  # noqa: D102
        return x.reshape(tuple(shape))

    def transpose(self, x: np.ndarray, perm: Sequence[int]) -> np.ndarray:  # noqa: D102
        return x.transpose(tuple(perm))

    def concat(self, parts: Sequence[np.ndarray], axis: int) -> np.ndarray:  # noqa: D102
        return np.concatenate(list(parts), axis=axis)

    def slice(self, x: np.ndarray, slices: Sequence[tuple[int, int, int]]) -> np.ndarray:  # noqa: D102
        # A negative step that runs past the first element has no Python stop but None.
        return x[tuple(slice(a, None if s < 0 and b < 0 else b, s) for a, b, s in slices)]

    def take(self, x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:  # noqa: D102
        return np.asarray(np.take(x, indices, axis=axis))

    def sample(  # noqa: D102
        self, x: np.ndarray, columns: np.ndarray, rows: np.ndarray, bits: int, nearest: bool, border: bool
    ) -> np.ndarray:
        one, (height, width) = 1 << bits, x.shape[2:]
        if border:
            columns, rows = np.clip(columns, 0, (width - 1) * one), np.clip(rows, 0, (height - 1) * one)
        if nearest:
            columns, rows = (np.rint(p / one).astype(np.int64) * one for p in (columns, rows))
        image = np.arange(x.shape[0])[:, None, None]
        total = np.zeros((*columns.shape, x.shape[1]), np.int64)
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = (columns >> bits) + dx, (rows >> bits) + dy
                right, below = columns & (one - 1), rows & (one - 1)
                weight = (right if dx else one - right) * (below if dy else one - below)
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                picked = x[image, :, np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
                total += picked.astype(np.int64) * (weight * inside)[..., None]
        return total.transpose(0, 3, 1, 2)

    def expand(self, x: np.ndarray, shape: Sequence[int]) -> np.ndarray:  # noqa: D102
        return np.asarray(np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape))))

    def where(self, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.where(condition != 0, x, y)

    def compare(self, kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:  # noqa: D102
        functions = {
            "gt": np.greater,
            "ge": np.greater_equal,
            "eq": np.equal,
            "lt": np.less,
            "le": np.less_equal,
        }
        return np.asarray(functions[kind](x, y)).astype(np.int8)

    def maximum(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.asarray(np.maximum(x, y))

    def minimum(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.asarray(np.minimum(x, y))

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.asarray(x.astype(np.int64) + y)

    def multiply(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:  # noqa: D102
        return np.asarray(x.astype(np.int64) * y)

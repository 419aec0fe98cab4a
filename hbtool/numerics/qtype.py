"""Integer types and what their values mean: real value = (integer - zero_point) * scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hbtool.errors import ModelError


@dataclass(frozen=True)
class IntType:
    """A signed two's-complement integer type of the machine."""

    name: str
    bits: int

    @property
    def min(self) -> int:
        """Smallest value."""
        return -(1 << (self.bits - 1))

    @property
    def max(self) -> int:
        """Largest value."""
        return (1 << (self.bits - 1)) - 1

    @property
    def bytes(self) -> int:
        """Bytes of one element in memory."""
        return self.bits // 8

    @property
    def dtype(self) -> DTypeLike:
        """The numpy dtype that holds it."""
        return np.dtype(self.name)


INT8 = IntType("int8", 8)
INT16 = IntType("int16", 16)
INT32 = IntType("int32", 32)

_BY_NAME = {t.name: t for t in (INT8, INT16, INT32)}


def int_type(name: str) -> IntType:
    """The type called `name` (`int8`, `int16`, `int32`)."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ModelError(f"unknown integer type {name!r}", hint=f"Known types: {', '.join(_BY_NAME)}.") from None


@dataclass(frozen=True)
class QParams:
    """What the integers of one tensor mean.

    Attributes:
        type: the integer type.
        scales: one float32 value per tensor, or one per index of `axis`.
        zero_point: the integer that stands for 0.0 (always 0 for int16, int32 and per-channel scales).
        axis: the channel axis of `scales`, None for one scale per tensor.
    """

    type: IntType
    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int | None = None

    @property
    def scale(self) -> float:
        """The scale of a per-tensor quantization."""
        if self.axis is not None:
            raise ModelError("this tensor has one scale per channel, a single one was asked for")
        return self.scales[0]

    def scale_array(self, rank: int) -> NDArray[np.float32]:
        """The scales as float32, shaped to broadcast against a tensor of `rank` dimensions."""
        flat = np.asarray(self.scales, np.float32)
        if self.axis is None:
            return flat.reshape(())
        shape = [1] * rank
        shape[self.axis] = flat.size
        return flat.reshape(shape)

    @property
    def real_range(self) -> tuple[float, float]:
        """Smallest and largest real value the type can hold (the widest channel)."""
        scale = max(self.scales)
        return (self.type.min - self.zero_point) * scale, (self.type.max - self.zero_point) * scale


def float32(value: float) -> float:
    """`value` rounded to float32, as a Python float (the form in which scales are kept and compared)."""
    return float(np.float32(value))


# A scale below this would make float32 multipliers subnormal; a tensor that is zero everywhere ends up here.
SMALLEST_SCALE = float32(2.0**-100)


def magnitude(values: NDArray[np.floating]) -> float:
    """The largest finite magnitude (masks hold -inf, which saturates instead of stretching the scale); 0 if none."""
    return float(np.abs(values).max(initial=0.0, where=np.isfinite(values)))


def symmetric(threshold: float, type_: IntType, *, steps: float | None = None) -> QParams:
    """Symmetric quantization of [-threshold, threshold].

    `steps` is the integer that `threshold` maps to: the type's maximum (127, 32767) after training,
    `max + 0.5` where a QAT plugin divides by 127.5.
    """
    scale = float32(threshold / (type_.max if steps is None else steps))
    return QParams(type_, (max(scale, SMALLEST_SCALE) if threshold > 0 else 1.0,))


def asymmetric(low: float, high: float, type_: IntType) -> QParams:
    """Quantization of [low, high], widened to hold 0; the zero point is even.

    Adding an even number commutes with rounding half to even, so stock runtimes that add the zero point of a sum before
    they round it (onnxruntime's QLinearAdd) compute the definition. It costs at most one step of the range.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return QParams(type_, (1.0,))
    ideal = type_.min - low * (type_.max - type_.min) / (high - low)
    below = 2 * math.floor(ideal / 2)
    candidates = [even for even in (below, below + 2) if even <= type_.max]
    scale, zero_point = min((_scale_to_cover(low, high, type_, even), even) for even in candidates)
    return QParams(type_, (max(float32(scale), SMALLEST_SCALE),), zero_point)


def _scale_to_cover(low: float, high: float, type_: IntType, zero_point: int) -> float:
    """The smallest scale with which the integers of a type reach from low to high; infinite where none does."""
    steps = ((-low, zero_point - type_.min), (high, type_.max - zero_point))
    return max(0.0 if reach == 0 else reach / count if count > 0 else math.inf for reach, count in steps)


def per_channel(thresholds: NDArray[np.floating], type_: IntType, axis: int) -> QParams:
    """Symmetric quantization with one threshold per index of `axis` (weights: the output channel)."""
    scales = np.asarray(thresholds, np.float64) / type_.max
    scales = np.where(scales > 0, np.maximum(scales, SMALLEST_SCALE), 1.0).astype(np.float32)
    return QParams(type_, tuple(float(s) for s in scales), 0, axis)


def quantize(values: NDArray[np.floating], q: QParams) -> NDArray[np.signedinteger]:
    """saturate(round_half_even(x / scale) + zero_point), float32, as ONNX QuantizeLinear.

    Args:
        values: real values, any shape.
        q: what the result means.

    Returns:
        Integers of `q.type`, same shape. NaN becomes the zero point.
    """
    ratio = np.rint(np.asarray(values, np.float32) / q.scale_array(np.ndim(values)))
    shifted = np.nan_to_num(ratio.astype(np.float64), nan=0.0) + q.zero_point
    return np.clip(shifted, q.type.min, q.type.max).astype(q.type.dtype)


def dequantize(values: NDArray[np.integer], q: QParams) -> NDArray[np.float32]:
    """float32(q - zero_point) * scale, as ONNX DequantizeLinear."""
    centred = (values.astype(np.int64) - q.zero_point).astype(np.float32)
    return np.asarray(centred * q.scale_array(values.ndim), np.float32)

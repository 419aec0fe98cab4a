"""Quantized data types as scripts name them: `qint8`, `"qint8"` and `torch.qint8` mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from hbtool.errors import UsageError
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType


@dataclass(frozen=True, repr=False, eq=False)
class QuantDType:
    """A signed integer type with a scale; equal to its name, prints as its name."""

    name: str
    limits: IntType

    @property
    def bits(self) -> int:
        """Number of bits."""
        return self.limits.bits

    @property
    def min(self) -> int:
        """Smallest integer."""
        return self.limits.min

    @property
    def max(self) -> int:
        """Largest integer."""
        return self.limits.max

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return self.name == (other.name if isinstance(other, QuantDType) else other)

    def __hash__(self) -> int:
        return hash(self.name)


qint4 = QuantDType("qint4", IntType("int4", 4))
qint8 = QuantDType("qint8", INT8)
qint16 = QuantDType("qint16", INT16)
qint32 = QuantDType("qint32", INT32)

DTypeLike: TypeAlias = QuantDType | str | torch.dtype

_BY_NAME = {t.name: t for t in (qint4, qint8, qint16, qint32)}
_FROM_TORCH = {torch.qint8: qint8, torch.qint32: qint32, torch.int8: qint8, torch.int16: qint16, torch.int32: qint32}


def as_dtype(dtype: DTypeLike) -> QuantDType:
    """The `QuantDType` for an object, its name or torch's dtype.

    Raises:
        UsageError: not a quantized dtype.
    """
    found = _FROM_TORCH.get(dtype) if isinstance(dtype, torch.dtype) else None
    if isinstance(dtype, QuantDType):
        found = dtype
    elif isinstance(dtype, str):
        found = _BY_NAME.get(dtype) or _BY_NAME.get(f"q{dtype}")
    if found is None:
        raise UsageError(f"{dtype!r} is not a quantized dtype.", hint=f"Use one of {', '.join(_BY_NAME)}.")
    return found


class qinfo:  # noqa: N801 - the vendor's name, after torch.iinfo
    """Limits of a quantized dtype: `qinfo("qint8").min == -128`, `.max == 127`."""

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = as_dtype(dtype)
        self.min = self.dtype.min
        self.max = self.dtype.max
        self.bits = self.dtype.bits

    def __repr__(self) -> str:
        return f"qinfo(dtype={self.dtype}, min={self.min}, max={self.max})"

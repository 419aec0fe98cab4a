"""Writes integer operators as standard ONNX, in the form that onnxruntime runs fastest and exactly.

Encoding of integers in the standard graph: int8 values travel as uint8 = value + 128 (onnxruntime's fast integer
kernels want unsigned activations and signed weights); int16 values travel as float32, which holds them exactly
(onnxruntime has hardly any int16 kernels); int32 values travel as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from hbtool.ir.names import FreshNames
from hbtool.numerics.qtype import INT8, INT16, INT32, IntType

OFFSET = 128
"""What int8 values are raised by to travel as uint8."""

EXACT_FLOAT32 = 1 << 24
"""Integers up to here, and every partial sum below it, are exact in float32."""

LARGE_BYTES = 1024
"""Constants of this size and more are stored once, however many nodes need them."""

_ENCODED = {INT8: ir.DataType.UINT8, INT16: ir.DataType.FLOAT, INT32: ir.DataType.INT32}


@dataclass(frozen=True)
class Operand:
    """One input of an integer operator while it is written as ONNX.

    Attributes:
        type: integer type, None for float32 (multipliers).
        shape: static shape.
        value: the encoded value in the standard graph, None for a constant.
        array: the constant's integers (not encoded), None for a computed value.
    """

    type: IntType | None
    shape: tuple[int, ...]
    value: ir.Value | None = None
    array: np.ndarray | None = None

    def constant(self) -> np.ndarray:
        """The constant's array; the operator demands a constant here."""
        if self.array is None:
            raise AssertionError("an integer operator found a computed value where its definition has a constant")
        return self.array


def encode(array: np.ndarray, type_: IntType) -> np.ndarray:
    """Integers as they travel in the standard graph."""
    if type_ is INT8:
        return (array.astype(np.int16) + OFFSET).astype(np.uint8)
    return array.astype(np.float32 if type_ is INT16 else np.int32)


def decode(array: np.ndarray, type_: IntType) -> np.ndarray:
    """The inverse of `encode`."""
    if type_ is INT8:
        return (array.astype(np.int16) - OFFSET).astype(np.int8)
    return array.astype(type_.dtype)


def encoded_type(type_: IntType) -> ir.DataType:
    """ONNX type in which integers of `type_` travel."""
    return _ENCODED[type_]


class OnnxBuilder:
    """Appends standard nodes to a graph; node and value names derive from one prefix per integer operator."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._names = FreshNames(graph)
        self._prefix = ""
        self._count = 0
        self._large: dict[tuple[str, tuple[int, ...], bytes] | None, ir.Value] = {}
        self._before: ir.Node | None = None

    def start(self, prefix: str, before: ir.Node | None) -> None:
        """Name what follows after the integer node `prefix`; put it before a node, or at the end of the graph."""
        self._prefix, self._count, self._before = prefix, 0, before

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        outputs: int = 1,
        name: str | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Append a node; returns its first output (`ops` gives all)."""
        return self.ops(op_type, *inputs, domain=domain, outputs=outputs, name=name, **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        outputs: int = 1,
        name: str | None = None,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Append a node and return all its outputs."""
        stem = name or self._fresh(op_type)
        names = [f"{stem}_out{i}" if outputs > 1 else f"{stem}_out" for i in range(outputs)]
        values = [ir.Value(name=self._names.take(own)) for own in names]
        node = ir.Node(
            domain,
            op_type,
            list(inputs),
            [attr(key, value) for key, value in attributes.items() if value is not None],
            outputs=values,
            name=stem,
        )
        if self._before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self._before, node)
        return values

    def const(self, array: ArrayLike, dtype: Any = None) -> ir.Value:
        """A constant (initializer); a large one that is there already is used again."""
        data = np.asarray(array, dtype, order="C")
        key = None
        if data.nbytes >= LARGE_BYTES:
            key = (data.dtype.str, data.shape, hashlib.sha256(data.tobytes()).digest())
        if key in self._large:
            return self._large[key]
        name = self._names.take(self._fresh("const"))
        value = ir.Value(name=name, const_value=ir.tensor(data, name=name))
        value.shape, value.dtype = ir.Shape(data.shape), ir.DataType.from_numpy(data.dtype)
        self.graph.register_initializer(value)
        if key is not None:
            self._large[key] = value
        return value

    def value(self, operand: Operand) -> ir.Value:
        """The operand's encoded value, as a new constant where it is one."""
        if operand.value is not None:
            return operand.value
        array = operand.constant()
        return self.const(array if operand.type is None else encode(array, operand.type))

    def zero_point(self, type_: IntType, zero_point: int) -> ir.Value:
        """A zero point constant in the encoding of `type_`."""
        return self.const(encode(np.asarray(zero_point), type_))

    def as_float(self, operand: Operand, zero_point: int = 0) -> ir.Value:
        """float32(x - zero_point), exact for int8 and int16."""
        if operand.array is not None and operand.value is None and operand.type is not None:
            return self.const((operand.array.astype(np.int64) - zero_point).astype(np.float32))
        value = self.value(operand)
        if operand.type is None:
            return value
        if operand.type is INT32:
            return self.op("Cast", value, to=int(ir.DataType.FLOAT))
        if operand.type is INT16:
            return value if zero_point == 0 else self.op("Sub", value, self.const(zero_point, np.float32))
        return self.op(
            "DequantizeLinear", value, self.const(1.0, np.float32), self.zero_point(operand.type, zero_point)
        )

    def from_float(self, value: ir.Value, type_: IntType, zero_point: int = 0) -> ir.Value:
        """saturate(round_half_even(value) + zero_point) in the encoding of `type_`."""
        if type_ is INT32:
            return self.op("Cast", self.op("Round", value), to=int(ir.DataType.INT32))
        if type_ is INT16:
            shifted = self.op("Round", value)
            if zero_point:
                shifted = self.op("Add", shifted, self.const(zero_point, np.float32))
            return self.op("Clip", shifted, self.const(type_.min, np.float32), self.const(type_.max, np.float32))
        return self.op("QuantizeLinear", value, self.const(1.0, np.float32), self.zero_point(type_, zero_point))

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshape to a static shape."""
        return self.op("Reshape", value, self.const(np.asarray(shape, np.int64)))

    def clamp(self, value: ir.Value, type_: IntType, low: int, high: int) -> ir.Value:
        """Clamp encoded integers to [low, high]; nothing where that is the whole type."""
        if low <= type_.min and high >= type_.max:
            return value
        bounds = encode(np.asarray([low, high]), type_)
        return self.op("Clip", value, self.const(bounds[0]), self.const(bounds[1]))

    def table(
        self, value: ir.Value, shape: Sequence[int], table: np.ndarray, source: IntType, target: IntType
    ) -> ir.Value:
        """table[x - min], elementwise, by GatherElements on a flat view (the fastest exact form measured)."""
        flat = self.op("Cast", self.reshape(value, [-1]), to=int(ir.DataType.INT32))
        if source is not INT8:
            flat = self.op("Sub", flat, self.const(np.int32(source.min)))
        picked = self.op("GatherElements", self.const(encode(table, target)), flat, axis=0)
        return self.reshape(picked, shape)

    def _fresh(self, suffix: str) -> str:
        self._count += 1
        return f"{self._prefix}/{suffix}_{self._count}"


def attr(name: str, value: Any) -> ir.Attr:
    """A Python value (int, float, str, or a sequence of these) as an ONNX attribute."""
    if isinstance(value, bool | int | np.integer):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    if isinstance(value, str):
        return ir.AttrString(name, value)
    items = list(value)
    if items and isinstance(items[0], float):
        return ir.AttrFloat32s(name, items)
    return ir.AttrInt64s(name, [int(i) for i in items])

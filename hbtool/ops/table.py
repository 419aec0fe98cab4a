"""Functions of one variable: a table with one entry per input integer, computed once in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.numerics import piecewise
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import INT16, IntType, QParams, int_type
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.onnx_builder import OnnxBuilder, Operand
from hbtool.ops.op import FAMILIES, Box, Family, IntegerOp, Sample, Tile, constraint
from hbtool.ops.segment_table import SegmentTable

Function = Callable[[np.ndarray], np.ndarray]
"""float64 in, float64 out, elementwise."""


@dataclass(frozen=True)
class TableAttributes:
    """Types of the argument and of the entries."""

    x_type: str = "int8"
    y_type: str = "int8"


class Table(IntegerOp):
    """y = table[x - min]: table[i] = saturate(round_half_even(f((i + min - zp_x) * s_x) / s_y) + zp_y) in float64."""

    name = "Table"
    Attributes = TableAttributes
    parameters = (1,)

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array:  # noqa: D102
        return m.table(x[0], x[1], int_type(a.x_type))

    def to_onnx(  # noqa: D102
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        operand, entries = x[0], x[1]
        assert operand is not None and entries is not None
        source, target = int_type(a.x_type), int_type(a.y_type)
        return [b.table(b.value(operand), operand.shape, entries.constant(), source, target)]

    def tile(  # noqa: D102
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box
    ) -> Tile:
        return Tile((box, None), a)


def rounded_function(
    function: Function, integers: np.ndarray, x: QParams, y: QParams, clamp: tuple[int, int]
) -> np.ndarray:
    """saturate(round_half_even(f(real x) / s_y) + zp_y) of `integers`, computed in float64, as integers of y's type."""
    # The real number an integer stands for is a float32 product, as DequantizeLinear computes it.
    real = ((integers - x.zero_point).astype(np.float32) * np.float32(x.scale)).astype(np.float64)
    with np.errstate(all="ignore"):
        image = np.asarray(function(real), np.float64)
    # Outside the function's domain (log of a negative) the nearest legal behaviour is the zero point; +-inf saturates.
    image = np.nan_to_num(image, nan=0.0, posinf=math.inf, neginf=-math.inf)
    steps = np.rint(image / np.float64(y.scale)) + y.zero_point
    return np.clip(steps, max(clamp[0], y.type.min), min(clamp[1], y.type.max)).astype(y.type.dtype)


@functools.lru_cache(maxsize=32)
def _fitted(function: Function, x: QParams, y: QParams, clamp: tuple[int, int]) -> piecewise.Segments:
    """The straight lines of a function of an int16 value; one node may need the same ones many times."""
    # One value past the end: the last straight line needs its far end.
    integers = np.arange(x.type.min, x.type.max + 2, dtype=np.int64)
    return piecewise.fit(rounded_function(function, integers, x, y, clamp))


def emit_table(
    b: IntegerBuilder,
    source: ir.Value,
    function: Function,
    y: QParams,
    clamp: tuple[int, int],
    represents: ir.Value | None = None,
) -> ir.Value:
    """`function` of an integer value: 256 entries for int8, a piecewise-linear table for int16."""
    q, shape = meta.qparams(source), graph.static_shape(source)
    assert q is not None, "integer values carry their meaning"
    if q.type is INT16:
        segments = _fitted(function, q, y, clamp)
        operands = [source, b.const(segments.blocks, "blocks"), b.const(segments.entries, "entries")]
        return b.emit(SegmentTable, operands, y, shape, represents=represents)
    integers = np.arange(q.type.min, q.type.max + 1, dtype=np.int64)
    entries = b.const(rounded_function(function, integers, q, y, clamp), "table")
    attributes = TableAttributes(q.type.name, y.type.name)
    return b.emit(Table, [source, entries], y, shape, attributes, represents=represents)


def lower_table(node: ir.Node, b: IntegerBuilder, x: ir.Value, function: Function) -> None:
    """Emit `function` of the float value `x` as the result of `node`."""
    result = b.result(node)
    emit_table(b, b.x(x), function, result.q, result.clamp, result.value)


def is_scalar(array: np.ndarray, other: ir.Value, node: ir.Node) -> bool:
    """Whether a constant is one number and does not broadcast the other operand to a larger rank."""
    return array.size == 1 and graph.known_shape(other) == graph.known_shape(node.outputs[0])


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(0.0, x))


def _elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _gelu(x: np.ndarray, tanh: bool) -> np.ndarray:
    if tanh:
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _hard_sigmoid(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _selu(x: np.ndarray, alpha: float, gamma: float) -> np.ndarray:
    return np.asarray(gamma * _elu(x, alpha))


Attribute = Callable[[str, Any], Any]

# Operator -> function of (x, attribute getter). ONNX formulas and defaults; everything here is one table on the BPU.
FUNCTIONS: dict[str, Callable[[np.ndarray, Attribute], np.ndarray]] = {
    "Abs": lambda x, a: np.abs(x),
    "Acos": lambda x, a: np.arccos(x),
    "Acosh": lambda x, a: np.arccosh(x),
    "Asin": lambda x, a: np.arcsin(x),
    "Asinh": lambda x, a: np.arcsinh(x),
    "Atan": lambda x, a: np.arctan(x),
    "Atanh": lambda x, a: np.arctanh(x),
    "Ceil": lambda x, a: np.ceil(x),
    "Celu": lambda x, a: np.maximum(x, 0) + np.minimum(0, a("alpha", 1.0) * np.expm1(x / a("alpha", 1.0))),
    "Cos": lambda x, a: np.cos(x),
    "Cosh": lambda x, a: np.cosh(x),
    "Elu": lambda x, a: _elu(x, a("alpha", 1.0)),
    "Erf": lambda x, a: _erf(x),
    "Exp": lambda x, a: np.exp(x),
    "Floor": lambda x, a: np.floor(x),
    "Gelu": lambda x, a: _gelu(x, a("approximate", "none") == "tanh"),
    "HardSigmoid": lambda x, a: _hard_sigmoid(x, a("alpha", 0.2), a("beta", 0.5)),
    "HardSwish": lambda x, a: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "LeakyRelu": lambda x, a: np.where(x >= 0, x, a("alpha", 0.01) * x),
    "Log": lambda x, a: np.log(x),
    "Mish": lambda x, a: x * np.tanh(_softplus(x)),
    "Neg": lambda x, a: -x,
    "Reciprocal": lambda x, a: 1.0 / x,
    "Round": lambda x, a: np.rint(x),
    "Selu": lambda x, a: _selu(x, a("alpha", 1.6732631921768188), a("gamma", 1.0507010221481323)),
    "Sigmoid": lambda x, a: _sigmoid(x),
    "Sign": lambda x, a: np.sign(x),
    "Sin": lambda x, a: np.sin(x),
    "Sinh": lambda x, a: np.sinh(x),
    "Softplus": lambda x, a: _softplus(x),
    "Softsign": lambda x, a: x / (1 + np.abs(x)),
    "Sqrt": lambda x, a: np.sqrt(x),
    "Swish": lambda x, a: x * _sigmoid(a("alpha", 1.0) * x),
    "Tan": lambda x, a: np.tan(x),
    "Tanh": lambda x, a: np.tanh(x),
    "ThresholdedRelu": lambda x, a: np.where(x > a("alpha", 1.0), x, 0.0),
}


# Where the lists of the three families have an operator on the BPU; not listed (newer than the lists, or made of
# several listed ones) and nash: see `families_of`.
_ON_BERNOULLI2 = {"Cos", "Exp", "LeakyRelu", "Reciprocal", "Sigmoid", "Sin", "Softplus", "Sqrt", "Swish", "Tanh"}
_NOT_ON_BAYES_E = {"Celu", "Neg", "ThresholdedRelu"}
_ONLY_BAYES_E = {"Acos", "Acosh", "Asin", "Asinh", "Atanh", "Cosh", "Erf", "Round", "Selu", "Sign", "Sinh", "Softsign"}
_SMALL_ON_BERNOULLI2 = {"Cos", "Sigmoid", "Sin", "Softplus", "Sqrt", "Swish", "Tanh"}


class Unary(Limited):
    """Every function of one variable."""

    op_types = tuple(FUNCTIONS)
    absorbs_clamp = True
    elementwise = True
    int16_tail = True
    rule_text = (
        "int8: a table with one entry per input integer, computed once in float64; int16: a piecewise-linear table, at "
        f"most {piecewise.BOUND} steps from the rounded function"
    )

    def families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        refused: set[Family] = set()
        if op_type not in _ON_BERNOULLI2:
            refused.add("bernoulli2")
        if op_type in _NOT_ON_BAYES_E | _ONLY_BAYES_E | {"Tan"}:
            refused.add("bayes")
        if op_type in _NOT_ON_BAYES_E:
            refused.add("bayes-e")
        return tuple(f for f in FAMILIES if f not in refused)

    def trained_families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES if op_type in _ON_BERNOULLI2 | {"Gelu"} else FAMILIES[1:]

    @constraint(bernoulli2=8192)
    def small(self, node: ir.Node, limit: int) -> bool | str:
        """at most {limit} elements per image for Cos, Sigmoid (padded), Sin, Softplus, Sqrt, Swish and Tanh"""
        count = graph.elements(graph.static_shape(node.outputs[0])[1:])
        if node.op_type == "Sigmoid":
            count = _padded_elements(*graph.static_shape(node.outputs[0])[1:])
        return node.op_type not in _SMALL_ON_BERNOULLI2 or count <= limit or f"there are {count}"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        function = FUNCTIONS[node.op_type]
        x = node.inputs[0]
        assert x is not None
        lower_table(node, b, x, lambda v: function(v, lambda name, default: graph.attribute(node, name, default)))

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        assert x[0] is not None
        return FUNCTIONS[node.op_type](x[0], lambda name, default: graph.attribute(node, name, default))

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        for op_type in sorted(_JUMPS & set(self.op_types)):
            # At a jump no error bound holds against the float input; these stay 0.3 away from every one.
            away = (np.arange(-24, 24, dtype=np.float32) % 6 - 2.7).reshape(2, 3, 8)
            yield Sample(op_type, op_type, (away,), steps=1.5)
        for op_type in sorted(set(self.op_types) - _JUMPS):
            low, high = _SAMPLE_RANGES.get(op_type, (-3.0, 3.0))
            x = np.linspace(low, high, 120, dtype=np.float32).reshape(2, 3, 4, 5)
            # Half a step of x times the largest slope over these ranges, in steps of y, and half a step of y.
            yield Sample(op_type, op_type, (x,), steps=6.0 if op_type in _STEEP else 3.0)


def _padded_elements(channels: int, height: int, width: int) -> int:
    """Elements once width and channels are padded to 8 and 4, or channels to 32: whichever is less."""
    wide = -(-channels // 4) * 4 * height * -(-width // 8) * 8
    return min(wide, -(-channels // 32) * 32 * height * width)


# A function that jumps has no error bound in steps of its output at the jump.
_JUMPS = {"Ceil", "Floor", "Round", "Sign", "ThresholdedRelu"}
_STEEP = {"Tan", "Sinh", "Cosh", "Exp", "Atanh"}
_SAMPLE_RANGES = {
    "Acos": (-0.9, 0.9),
    "Acosh": (1.5, 4.0),
    "Asin": (-0.9, 0.9),
    "Atanh": (-0.9, 0.9),
    "Log": (1.0, 4.0),
    "Reciprocal": (1.0, 4.0),
    "Sqrt": (1.0, 4.0),
    "Tan": (-1.2, 1.2),
}

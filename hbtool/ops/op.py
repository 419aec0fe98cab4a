"""What an operator is to hbtool. Everything true of one operator stands in one file, as one or both of two classes:

* `FloatOp`: the float operator users have (ONNX op types), its quantization rule, what the BPU accepts per march,
  how it becomes integer operators, and samples to try it on.
* `IntegerOp`: an integer operator of the machine: its kernel (the definition), its form in standard ONNX, how an output
  tile maps to input tiles, and the work it is.

Both register themselves when their class is defined. Generic code asks `float_op(node)` and `integer_op(node)` and
knows no operator by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from hbtool.errors import UnsupportedError
from hbtool.ir import graph
from hbtool.numerics.int_math import Array, IntMath
from hbtool.numerics.qtype import IntType
from hbtool.ops.onnx_builder import OnnxBuilder, Operand, attr
from hbtool.target.job import Work

Family = Literal["bernoulli2", "bayes", "bayes-e", "nash"]
"""BPU generations that differ in what they accept."""

FAMILIES: tuple[Family, ...] = ("bernoulli2", "bayes", "bayes-e", "nash")

# --------------------------------------------------------------------------------------------------- quantization rules


@dataclass(frozen=True)
class Observed:
    """The output has a range of its own, found by calibration."""


@dataclass(frozen=True)
class SameAs:
    """The output's integers mean what input `index` means; no range of its own."""

    index: int = 0


@dataclass(frozen=True)
class Fixed:
    """The output's range is known from the formula (softmax: 0..1)."""

    low: float
    high: float


@dataclass(frozen=True)
class Unquantized:
    """The output is not a real number to be quantized (indices, booleans)."""


Rule = Observed | SameAs | Fixed | Unquantized

# -------------------------------------------------------------------------------------------------------- constraints

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Constraint:
    """One condition the BPU sets, for the families it holds on.

    Attributes:
        text: the sentence the user reads, with `{limit}` where families differ.
        limits: family -> limit (None where the condition has no number).
        check: (op, node, limit) -> True, False, or a sentence that says what was found instead.
    """

    text: str
    limits: Mapping[Family, Any]
    check: Callable[[Any, ir.Node, Any], bool | str]

    def sentence(self, family: Family) -> str:
        """The condition as the user reads it."""
        return self.text.format(limit=self.limits[family])

    def violation(self, op: FloatOp, node: ir.Node, family: Family) -> str | None:
        """Why `node` fails on `family`, None if it passes or the condition does not apply."""
        if family not in self.limits:
            return None
        result = self.check(op, node, self.limits[family])
        if result is True:
            return None
        found = f" ({result})" if isinstance(result, str) else ""
        return f"the BPU needs {self.sentence(family)}{found}"


def constraint(
    *families: Family,
    bernoulli2: Any = None,
    bayes: Any = None,
    bayes_e: Any = None,
    nash: Any = None,
) -> Callable[[_F], _F]:
    """Mark a method `check(self, node, limit) -> bool | str` as a BPU condition; its docstring is the sentence.

    Without arguments it holds on every family; with family names on those; with keywords it has a limit per family.
    """
    limits: dict[Family, Any] = {
        f: v for f, v in zip(FAMILIES, (bernoulli2, bayes, bayes_e, nash), strict=True) if v is not None
    }
    if not limits:
        limits = dict.fromkeys(families or FAMILIES)

    def mark(method: _F) -> _F:
        text = " ".join((method.__doc__ or "").split()).rstrip(".")
        method.constraint = Constraint(text, limits, method)  # type: ignore[attr-defined]
        return method

    return mark


# ------------------------------------------------------------------------------------------------------ samples, work


@dataclass(frozen=True)
class Sample:
    """One way to try a float operator: the conformance test runs it through every executor.

    Attributes:
        name: short and unique within the operator.
        op_type: ONNX op type.
        inputs: arrays fed at run time.
        constants: arrays given as initializers, by input position.
        attributes: ONNX attributes.
        outputs: number of outputs.
        steps: largest allowed error against the float operator, in steps of the output's scale.
        domain: ONNX domain.
    """

    name: str
    op_type: str
    inputs: tuple[np.ndarray, ...]
    constants: Mapping[int, ArrayLike] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    steps: float = 1.0
    domain: str = ""


Box = tuple[tuple[int, int], ...]
"""(start, stop) along each axis of a tensor."""


@dataclass(frozen=True)
class Tile:
    """What one output box needs.

    Attributes:
        boxes: the box of each operand, clipped to the operand; None for all of it.
        attributes: the operator's attributes for this tile (padding differs at the borders).
    """

    boxes: tuple[Box | None, ...]
    attributes: Any


def whole(shape: Sequence[int]) -> Box:
    """The box of a whole tensor."""
    return tuple((0, n) for n in shape)


# --------------------------------------------------------------------------------------------------- integer operators


@dataclass(frozen=True)
class NoAttributes:
    """An operator without attributes."""


class IntegerOp:
    """An operator of the machine, on integers. Subclasses state everything that is true of it.

    Attributes:
        name: op type in the domain `hbtool`.
        Attributes: frozen dataclass of the attributes (int, float, str, and tuples of these), with defaults.
        moves: it only moves elements (the compiler may turn it into addresses).
        parameters: operand positions that hold constants of the layer (weights, bias, multiplier, table).
    """

    name: ClassVar[str]
    Attributes: ClassVar[type] = NoAttributes
    moves: ClassVar[bool] = False
    parameters: ClassVar[tuple[int, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            _INTEGER_OPS[cls.name] = cls()

    def kernel(self, m: IntMath, a: Any, *x: Array | None) -> Array | tuple[Array, ...]:
        """The definition: integers in, integers out. Absent optional operands arrive as None."""
        raise NotImplementedError

    def to_onnx(
        self, b: OnnxBuilder, a: Any, x: Sequence[Operand | None], types: Sequence[IntType]
    ) -> Sequence[ir.Value]:
        """The same function in standard ONNX, on encoded integers (see `onnx_builder`); `types` of the outputs."""
        raise NotImplementedError

    def tile(self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], box: Box) -> Tile | None:
        """What output box `box` (of output shape `out`) needs; None: the operator only runs whole."""
        return None

    def places(self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...]) -> tuple[Box, ...] | None:
        """The output box that each operand fills, where the output is nothing but its operands side by side."""
        return None

    def work(
        self, a: Any, shapes: Sequence[tuple[int, ...] | None], out: tuple[int, ...], types: Sequence[IntType]
    ) -> Work:
        """The work of producing output shape `out` from operands of `shapes`; `types` of the inputs."""
        return Work("move" if self.moves else "vector", vector_ops=graph.elements(out))


_INTEGER_OPS: dict[str, IntegerOp] = {}


def integer_ops() -> Mapping[str, IntegerOp]:
    """All integer operators by name."""
    return _INTEGER_OPS


def is_integer(node: ir.Node) -> bool:
    """Whether the node is an integer operator of the machine."""
    return node.domain == graph.INTEGER_DOMAIN


def integer_op(node: ir.Node) -> IntegerOp:
    """The integer operator of a node of the INTEGER graph."""
    try:
        return _INTEGER_OPS[node.op_type]
    except KeyError:
        raise UnsupportedError(
            f"unknown integer operator {node.op_type!r}",
            where=graph.node_name(node),
            hint="The file was written by a newer hbtool; update hbtool.",
        ) from None


def read_attributes(node: ir.Node) -> Any:
    """The typed attributes of an integer node."""
    cls = integer_op(node).Attributes
    values = {f.name: graph.attribute(node, f.name) for f in dataclasses.fields(cls)}
    return cls(**{k: v for k, v in values.items() if v is not None})


def write_attributes(attributes: Any) -> list[ir.Attr]:
    """Typed attributes as ONNX attributes (empty tuples are left out: they are defaults)."""
    pairs = ((f.name, getattr(attributes, f.name)) for f in dataclasses.fields(attributes))
    return [attr(name, value) for name, value in pairs if value != ()]


# ----------------------------------------------------------------------------------------------------- float operators


class FloatOp:
    """A float operator: how it is quantized, what the BPU accepts of it, and what it becomes.

    Attributes:
        op_types: ONNX op types of the standard domain (or of `domain`).
        domain: ONNX domain of the op types.
        families: BPU families that have it at all.
        passive: moves or selects values; takes its scale from its input (it cannot start a quantized region).
        manual: BPU-capable, but on the CPU unless the user asks (accuracy).
        absorbs_clamp: a following clamp (Relu, Clip) costs nothing inside it.
        high_precision: may leave its int32 accumulator as a model output.
        free_at_tail: a passive operator that costs nothing at the end of the model (a layout change).
        int16_tail: at the tail it reads and writes int16 where the family has int16 tables.
        channel_scales_in: input 0 may have one scale per channel.
        channel_scales_out: the output may have one scale per channel.
        elementwise: `evaluate` gives the result element by element, so that chains of such operators become one table.
        unifies_inputs: all inputs must arrive with the output's scale (Concat).
        int16_inputs: positions of inputs that need int16 to be of use (coordinates).
        int16_states: positions of outputs that come back as inputs in the next call, so that errors would add up.
        int8_only: families whose unit for it reads and writes int8 only (see `ops.int16`).
        narrows_int16: where it reads int8 only, its lowering rounds an int16 input to int8 first, so that other readers
            of the value may have int16.
        int8_positions: positions of inputs that are int8 on a family, whatever the others are.
        error_steps: largest error against the float operator on the *quantized* inputs, in steps of the output; where
            there are int8 weights it covers theirs, which grows with the root of the summed elements.
        rule_text: one line for the operator page: how it computes on integers.
    """

    op_types: ClassVar[tuple[str, ...]]
    domain: ClassVar[str] = ""
    families: ClassVar[tuple[Family, ...]] = FAMILIES
    passive: ClassVar[bool] = False
    manual: ClassVar[bool] = False
    absorbs_clamp: ClassVar[bool] = False
    high_precision: ClassVar[bool] = False
    free_at_tail: ClassVar[bool] = False
    int16_tail: ClassVar[bool] = False
    channel_scales_in: ClassVar[bool] = False
    channel_scales_out: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False
    unifies_inputs: ClassVar[bool] = False
    int16_inputs: ClassVar[tuple[int, ...]] = ()
    int16_states: ClassVar[tuple[int, ...]] = ()
    int8_only: ClassVar[tuple[Family, ...]] = ()
    narrows_int16: ClassVar[bool] = False
    int8_positions: ClassVar[Mapping[Family, tuple[int, ...]]] = {}
    error_steps: ClassVar[float] = 1.0
    rule_text: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "op_types" in cls.__dict__:
            _FLOAT_OPS.update(dict.fromkeys(((cls.domain, op_type) for op_type in cls.op_types), cls()))

    def constraints(self) -> tuple[Constraint, ...]:
        """The BPU conditions, in the order of their definition (inherited ones first)."""
        found: dict[str, Constraint] = {}
        for cls in reversed(type(self).__mro__):
            for name, member in vars(cls).items():
                if hasattr(member, "constraint"):
                    found[name] = member.constraint
        return tuple(found.values())

    def families_of(self, op_type: str) -> tuple[Family, ...]:
        """The BPU families that have `op_type` (operators of one class may differ)."""
        return self.families

    def trained_families_of(self, op_type: str) -> tuple[Family, ...]:
        """The families on which the training plugin's list has `op_type`: it is longer than the mapper's for some."""
        return self.families_of(op_type)

    def refusal(self, node: ir.Node, family: Family, trained: bool = False) -> str | None:
        """Why the BPU of `family` cannot take `node` (one sentence), None if it can.

        Args:
            node: float node.
            family: BPU family.
            trained: training saw its result quantized, so the training plugin's list holds.
        """
        if family not in (self.trained_families_of if trained else self.families_of)(node.op_type):
            return f"{node.op_type} is not a BPU operator on {family}"
        for condition in self.constraints():
            if (reason := condition.violation(self, node, family)) is not None:
                return reason
        return None

    def output_rule(self, node: ir.Node, index: int) -> Rule:
        """How output `index` is quantized."""
        return SameAs(0) if self.passive else Observed()

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:
        """Positions of the inputs that must arrive as integers: by default every computed float input."""
        return tuple(
            i
            for i, v in enumerate(node.inputs)
            if v is not None and graph.constant(v) is None and v.dtype in (ir.DataType.FLOAT, None)
        )

    def bias(self, node: ir.Node) -> tuple[int, int] | None:
        """(input position, output axis) of the constant that is added per output channel; None: there can be none."""
        return None

    def weight_axes(self, node: ir.Node) -> Mapping[int, int]:
        """Constant inputs that are quantized per channel: input position -> channel axis."""
        return {}

    def clamp(self, node: ir.Node) -> tuple[float, float] | None:
        """(low, high) if the operator only clamps its input 0, else None."""
        return None

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:
        """The float64 definition of an elementwise operator (absent optional inputs arrive as None)."""
        raise NotImplementedError

    def lower(self, node: ir.Node, b: Any) -> None:
        """Emit the integer operators through `b` (an `IntegerBuilder`) and bind every output."""
        raise NotImplementedError

    def samples(self) -> Iterator[Sample]:
        """Small and awkward ways to try the operator."""
        yield from ()


ANY = "*"
"""Op type of the one FloatOp that stands for every fused function."""

_FLOAT_OPS: dict[tuple[str, str], FloatOp] = {}


def float_ops() -> Mapping[tuple[str, str], FloatOp]:
    """All float operators with a BPU form, by (domain, op type)."""
    return _FLOAT_OPS


def float_op(node: ir.Node) -> FloatOp | None:
    """The float operator of a node, None where the BPU has no form of it."""
    if node.domain == graph.FUSED_DOMAIN:
        return _FLOAT_OPS.get((node.domain, ANY))
    return _FLOAT_OPS.get((node.domain if node.domain != "ai.onnx" else "", node.op_type))

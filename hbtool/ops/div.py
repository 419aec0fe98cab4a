"""Division: with a single number a table; by a constant tensor a product; of two feature maps 1/b and a product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.chain import Chain, Goal
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import PerChannel
from hbtool.ops.mul import lower_product
from hbtool.ops.op import Sample
from hbtool.ops.table import is_scalar, lower_table

NARROWEST = 2.0**-7
"""A divisor below 2^-7 of its range counts as that: one int16 scale then holds every reciprocal to 0.2 %."""


class DivFloat(PerChannel):
    """ONNX Div."""

    op_types = ("Div",)
    elementwise = True
    error_steps = 2.0
    rule_text = (
        "with a single number: a table; by a constant tensor: Mul; of two feature maps: int16 table of 1/b (divisors "
        "below 2^-7 of their range saturate), then Mul"
    )

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        first, second = node.inputs[0], node.inputs[1]
        assert first is not None and second is not None
        dividend, divisor = graph.constant(first), graph.constant(second)
        if divisor is not None and is_scalar(divisor, first, node):
            value = float(divisor.reshape(-1)[0])
            lower_table(node, b, first, lambda v: v / value)
        elif dividend is not None and is_scalar(dividend, second, node):
            number = float(dividend.reshape(-1)[0])
            lower_table(node, b, second, lambda v: number / v)
        elif divisor is not None:
            with np.errstate(divide="ignore"):
                inverse = np.nan_to_num(1.0 / divisor.astype(np.float64), posinf=0.0, neginf=0.0)
            lower_product(node, b, first, second, inverse.astype(np.float32))
        else:
            self._of_feature_maps(node, b, first, second, dividend)

    @staticmethod
    def _of_feature_maps(
        node: ir.Node, b: IntegerBuilder, first: ir.Value, second: ir.Value, dividend: np.ndarray | None
    ) -> None:
        chain, result = Chain(b), b.result(node)
        smallest = chain.reach(b.x(second)) * NARROWEST

        def inverse(v: np.ndarray) -> np.ndarray:
            return np.where(v < 0, -1.0, 1.0) / np.maximum(np.abs(v), smallest)

        reciprocal = chain.table(b.x(second), inverse, chain.within(1.0 / smallest))
        left = b.x(first) if dividend is None else chain.const(dividend, "dividend")
        chain.mul(left, reciprocal, Goal.of(result))

    def evaluate(self, node: ir.Node, *x: np.ndarray | None) -> np.ndarray:  # noqa: D102
        assert x[0] is not None and x[1] is not None
        return x[0] / x[1]

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(32)
        x = np.linspace(0.5, 4, 60, dtype=np.float32).reshape(3, 20)
        yield Sample("by a constant", "Div", (x,), {1: np.float32(3.7)}, steps=1.0)
        # 1/x is steep near 0.5: half a step of x moves it by up to four steps of y's own scale.
        yield Sample("reciprocal", "Div", (x,), {0: np.float32(2.0)}, steps=6.0)
        image = rng.standard_normal((1, 4, 5, 6)).astype(np.float32)
        positive = rng.uniform(1, 4, (1, 4, 5, 6)).astype(np.float32)
        # Half a step of the divisor is 1.6 % of its smallest value here.
        yield Sample("two feature maps", "Div", (image, positive), steps=4.0)
        yield Sample("broadcast divisor", "Div", (image, -positive[:, :, :1, :1].copy()), steps=4.0)
        yield Sample("by a constant per channel", "Div", (image,), {1: positive[0, :, :1, :1].copy()}, steps=2.0)
        yield Sample("by a constant tensor", "Div", (image,), {1: positive}, steps=3.0)
        yield Sample("a constant tensor by x", "Div", (positive,), {0: image}, steps=4.0)

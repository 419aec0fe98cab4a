"""Softmax and LogSoftmax as a chain: maximum, difference, exp, sum, reciprocal (or log), product (or difference)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.chain import Chain, Goal
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.op import FAMILIES, Family, Sample, constraint
from hbtool.ops.table import Function

DEEPEST = 24.0
"""exp(-24) = 4e-11: what lies further below the maximum adds nothing to any output type."""

FINE_SUM = 64.0
"""Sums up to here keep int16 steps of 2^-9; above, a second, coarser sum corrects the first."""


class SoftmaxFloat(Limited):
    """ONNX Softmax and LogSoftmax (opset 13: one axis)."""

    op_types = ("Softmax", "LogSoftmax")
    manual = True
    error_steps = 2.0
    rule_text = (
        "chain, int16 inside: m = max x; d = x - m in [-(range of x), 0]; e = exp(d) in [0, 1]; s = sum e in [1, n] "
        "(above n = 64 two sums, one fine and one coarse); x: e * (1 / s) or d - log(s)"
    )

    def families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES if op_type == "Softmax" else ("nash",)

    @constraint("bayes", "bayes-e")
    def image_axis(self, node: ir.Node, limit: Any) -> bool | str:
        """a 4-D tensor and axis 1, 2 or 3"""
        rank, axis = len(graph.static_shape(node.outputs[0])), graph.attribute(node, "axis", -1)
        return (rank == 4 and axis % rank != 0) or f"the rank is {rank} and the axis {axis}"

    @constraint("bernoulli2")
    def classes_at_the_end(self, node: ir.Node, limit: Any) -> bool | str:
        """axis 1, and the result as a model output"""
        rank, axis = len(graph.static_shape(node.outputs[0])), graph.attribute(node, "axis", -1)
        if axis % rank != 1:
            return f"the axis is {axis}"
        return node.outputs[0].is_graph_output() or "the result is used in the model"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        chain, x = Chain(b), b.x(node.inputs[0])
        rank = len(graph.static_shape(x))
        axes = (graph.attribute(node, "axis", -1) % rank,)
        count = graph.static_shape(x)[axes[0]]
        log = node.op_type == "LogSoftmax"
        deepest = chain.span(x) if log else min(chain.span(x), DEEPEST)
        below = chain.add(x, chain.largest(x, axes), chain.within(deepest), -1.0)
        powers = chain.table(below, lambda v: np.exp(np.minimum(v, 0.0)), chain.within(1.0))
        goal = Goal.of(b.result(node))
        if log:
            chain.add(below, _of_sum(chain, powers, axes, count, np.log, np.log(count)), goal, -1.0)
        else:
            chain.mul(powers, _of_sum(chain, powers, axes, count, lambda v: 1.0 / v, 1.0), goal)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(27)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        # Half a step of x (maximum 3 to 4 standard deviations: 0.016) moves a result of up to 1 by 1.6 % at most.
        yield Sample("channels", "Softmax", (3 * normal(1, 7, 4, 5),), attributes={"axis": 1}, steps=4.0)
        yield Sample("last axis", "Softmax", (2 * normal(1, 2, 6, 9),), attributes={"axis": -1}, steps=4.0)
        yield Sample("many classes", "Softmax", (2 * normal(1, 1000, 1, 2),), attributes={"axis": 1}, steps=4.0)
        peak = np.zeros((1, 1000, 1, 1), np.float32)
        peak[0, 17] = 20
        yield Sample("one certain class", "Softmax", (peak,), attributes={"axis": 1}, steps=1.0)
        yield Sample("all equal", "Softmax", (np.full((1, 90, 1, 2), 5, np.float32),), attributes={"axis": 1})
        yield Sample("log", "LogSoftmax", (2 * normal(2, 10),), attributes={"axis": 1}, steps=2.0)
        yield Sample("log of many", "LogSoftmax", (2 * normal(2, 300),), attributes={"axis": -1}, steps=2.0)


def _of_sum(
    chain: Chain, powers: ir.Value, axes: tuple[int, ...], count: int, function: Function, threshold: float
) -> ir.Value:
    """A smooth function of the sum of `powers`, which lies in [1, count]; `threshold` bounds its magnitude.

    One int16 scale cannot serve sums near 1 and near a thousand. With S the sum and F = FINE_SUM,
    f(S) = f(min(S, F)) + (f(max(S, F)) - f(F)): the first from a sum that saturates at F, the second, small and flat,
    from a coarse sum that reaches `count`.
    """
    goal = chain.within(max(threshold, 1e-3))
    if count <= FINE_SUM:
        return chain.table(chain.sum(powers, axes, chain.within(count)), lambda v: function(np.maximum(v, 0.5)), goal)
    fine = chain.table(chain.sum(powers, axes, chain.within(FINE_SUM)), lambda v: function(np.maximum(v, 0.5)), goal)
    at_end = function(np.asarray(FINE_SUM))
    coarse = chain.table(
        chain.sum(powers, axes, chain.within(count)), lambda v: function(np.maximum(v, FINE_SUM)) - at_end, goal
    )
    return chain.add(fine, coarse, goal)

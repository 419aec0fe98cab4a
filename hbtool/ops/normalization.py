"""Layer, instance, group and RMS normalization as a chain: mean, difference, mean of squares, rsqrt, products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.chain import Chain, Goal
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.op import FAMILIES, Family, Sample, constraint

SPLIT = 2.0**-10
"""Variances below SPLIT of the largest possible one have an int16 range of their own."""

SMALLEST = 2.0**-20
"""Spreads below 2^-10 of the input's range (variances below SMALLEST) are normalized as if they were that large."""


@dataclass(frozen=True)
class _Form:
    """What is normalized: `shape` the input takes first, axes of the statistics, whether the mean goes, factors."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    centred: bool
    epsilon: float
    scale: np.ndarray | None
    bias: np.ndarray | None


class NormalizationFloat(Limited):
    """ONNX LayerNormalization, RMSNormalization, InstanceNormalization, GroupNormalization."""

    op_types = ("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization")
    error_steps = 3.0
    rule_text = (
        "chain, int16 inside: d = x - mean in +-(range of x); v = mean d^2 from an exact sum, in [0, range^2 / 4], in "
        "two int16 ranges; r = 1 / sqrt(v + epsilon) for spreads down to 2^-10 of the range; d * r in +-sqrt(n - 1), "
        "times scale, plus bias"
    )

    def families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES[1:] if op_type in ("LayerNormalization", "RMSNormalization") else ("nash",)

    def trained_families_of(self, op_type: str) -> tuple[Family, ...]:  # noqa: D102
        return FAMILIES[1:]

    @constraint()
    def constant_factors(self, node: ir.Node, limit: Any) -> bool | str:
        """constant scale and bias"""
        return all(v is None or graph.constant(v) is not None for v in node.inputs[1:]) or "they are computed"

    @constraint()
    def one_output(self, node: ir.Node, limit: Any) -> bool | str:
        """no mean or deviation as further outputs"""
        return len([v for v in node.outputs if v.uses() or v.is_graph_output()]) <= 1 or "they are asked for"

    def quantized_inputs(self, node: ir.Node) -> tuple[int, ...]:  # noqa: D102
        return (0,)

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        chain, x, form = Chain(b), b.x(node.inputs[0]), _form(node)
        result = b.result(node)
        out = graph.static_shape(x)
        reshaped = form.shape != out
        data = chain.reshape(x, form.shape) if reshaped else x
        normal = _normalized(chain, data, form)
        if reshaped:
            normal = chain.reshape(normal, out)
        goal = Goal.of(result)
        for array, role, last in ((form.scale, "scale", form.bias is None), (form.bias, "offset", True)):
            if array is None:
                continue
            # Before the bias is added the product may be larger than the result by the bias.
            bias = 0.0 if form.bias is None else float(np.abs(form.bias).max(initial=0.0))
            reach = max(abs(v) for v in result.q.real_range) + bias
            to = goal if last else chain.within(reach)
            constant = chain.const(array, role)
            normal = chain.mul(normal, constant, to) if role == "scale" else chain.add(normal, constant, to)
        if form.scale is None and form.bias is None:
            chain.table(normal, lambda v: v, goal)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(28)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        x = normal(1, 6, 32) * np.array([0.1, 0.5, 1, 2, 4, 8], np.float32)[:, None] + 1
        factors = {1: normal(32), 2: normal(32)}
        # int8 input: half a step is 0.08 standard deviations of the narrowest row below, 0.8 of the one after that;
        # `error_steps` bounds what the chain itself adds.
        yield Sample("tokens", "LayerNormalization", (x[:, 2:],), factors, steps=9.0)
        yield Sample("spreads of 1 to 80", "LayerNormalization", (x,), {1: np.ones(32, np.float32)}, steps=40.0)
        yield Sample("axis 1", "LayerNormalization", (normal(2, 3, 8),), {1: normal(3, 8)}, {"axis": 1}, steps=5.0)
        yield Sample("constant rows", "LayerNormalization", (np.ones((1, 4, 8), np.float32),), {1: normal(8)})
        rms = {1: normal(32)}
        yield Sample("RMS", "RMSNormalization", (normal(2, 5, 32),), rms, steps=5.0)
        image = normal(2, 6, 5, 4) * np.arange(1, 7, dtype=np.float32)[:, None, None]
        yield Sample("instance", "InstanceNormalization", (image,), {1: normal(6), 2: normal(6)}, steps=16.0)
        groups = {"num_groups": 3}
        yield Sample("groups", "GroupNormalization", (image,), {1: normal(6), 2: normal(6)}, groups, steps=8.0)


def _form(node: ir.Node) -> _Form:
    x = node.inputs[0]
    assert x is not None
    shape = graph.static_shape(x)
    rank = len(shape)
    scale, bias = graph.constant(node.inputs[1]), graph.constant(graph.input_at(node, 2))
    epsilon = graph.attribute(node, "epsilon", 1e-5)
    if node.op_type in ("LayerNormalization", "RMSNormalization"):
        first = graph.attribute(node, "axis", -1) % rank
        centred = node.op_type == "LayerNormalization"
        factors = [_full(a, rank) for a in (scale, bias)]
        return _Form(shape, tuple(range(first, rank)), centred, epsilon, *factors)
    per_channel = [None if a is None else a.reshape(1, -1, *(1,) * (rank - 2)) for a in (scale, bias)]
    factors = [_full(a, rank) for a in per_channel]
    if node.op_type == "InstanceNormalization":
        return _Form(shape, tuple(range(2, rank)), True, epsilon, *factors)
    grouped = (shape[0], graph.attribute(node, "num_groups", 1), graph.elements(shape[1:]))
    grouped = (*grouped[:2], grouped[2] // grouped[1])
    return _Form(grouped, (2,), True, epsilon, *factors)


def _full(array: np.ndarray | None, rank: int) -> np.ndarray | None:
    """A factor of full rank; None where it changes nothing (ones as scale stay: the product brings the meaning)."""
    if array is None or array.size == 0:
        return None
    return array.reshape((1,) * (rank - array.ndim) + array.shape).astype(np.float32)


def _normalized(chain: Chain, x: ir.Value, form: _Form) -> ir.Value:
    """(x - mean) / sqrt(variance + epsilon) in the chain's width."""
    count = graph.elements([graph.static_shape(x)[i] for i in form.axes])
    if form.centred:
        mean = chain.sum(x, form.axes, chain.within(chain.reach(x)), 1.0 / count)
        centred = chain.add(x, mean, chain.within(chain.span(x)), -1.0)
        # A spread is largest with half of the values at either end of the range.
        largest = chain.span(x) ** 2 / 4
    else:
        centred, largest = x, chain.reach(x) ** 2
    smallest, split = SMALLEST * largest, SPLIT * largest

    def inverse(v: np.ndarray) -> np.ndarray:
        return np.asarray(1.0 / np.sqrt(np.maximum(v, smallest) + form.epsilon))

    # r(v) = r(max(v, split)) + (r(min(v, split)) - r(split)): the first part, small where v is large, keeps an int16
    # scale of its own; the second is exactly 0 there. So they meet only after the product.
    at_split = float(inverse(np.asarray(split)))
    coarse = chain.sum_of_squares(centred, form.axes, chain.within(largest), 1.0 / count)
    fine = chain.sum_of_squares(centred, form.axes, chain.within(split), 1.0 / count)
    far = chain.table(coarse, lambda v: inverse(np.maximum(v, split)), chain.within(at_split))
    near = chain.table(
        fine, lambda v: inverse(np.minimum(v, split)) - at_split, chain.within(float(inverse(np.asarray(0.0))))
    )
    limit = np.sqrt(max(count - 1, 1)) if form.centred else np.sqrt(count)
    goal = chain.within(float(limit))
    return chain.add(chain.mul(centred, far, goal), chain.mul(centred, near, goal), goal)

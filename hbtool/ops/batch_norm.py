"""BatchNormalization that nothing absorbed: a depthwise 1x1 convolution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.conv import fold_input_scales, lower_conv
from hbtool.ops.integer_builder import IntegerBuilder
from hbtool.ops.limits import Limited
from hbtool.ops.op import Sample, constraint
from hbtool.ops.window import Window


class BatchNormFloat(Limited):
    """ONNX BatchNormalization in inference form."""

    op_types = ("BatchNormalization",)
    absorbs_clamp = True
    high_precision = True
    channel_scales_in = True
    channel_scales_out = True
    rule_text = "a depthwise 1x1 convolution"

    @constraint()
    def inference_form(self, node: ir.Node, limit: Any) -> bool | str:
        """statistics and factors that are constants, and no statistics as further outputs"""
        if any(graph.constant(v) is None for v in node.inputs[1:]):
            return "they are computed"
        return len(node.outputs) == 1 and not graph.attribute(node, "training_mode", 0)

    @constraint()
    def image(self, node: ir.Node, limit: Any) -> bool | str:
        """a tensor of rank 2 to 5"""
        rank = len(graph.static_shape(node.outputs[0]))
        return 2 <= rank <= 5 or f"the rank is {rank}"

    def lower(self, node: ir.Node, b: IntegerBuilder) -> None:  # noqa: D102
        x = node.inputs[0]
        assert x is not None
        arrays = [graph.constant(v) for v in node.inputs[1:5]]
        scale, offset, mean, variance = (a.astype(np.float64) for a in arrays if a is not None)
        factor = scale / np.sqrt(variance + graph.attribute(node, "epsilon", 1e-5))
        spatial = len(graph.static_shape(x)) - 2
        channels, rank = len(factor), max(spatial, 1)
        weight = factor.reshape(channels, 1, *(1,) * rank).astype(np.float32)
        weight, input_scale = fold_input_scales(weight, b.q(x), channels)
        window = Window((1,) * rank, (1,) * rank, (0,) * (2 * rank), (1,) * rank)
        lower_conv(node, b, x, None, weight, offset - mean * factor, input_scale, window, channels, spatial == 0)

    def samples(self) -> Iterator[Sample]:  # noqa: D102
        rng = np.random.default_rng(34)
        factors = {i: rng.standard_normal(4).astype(np.float32) for i in (1, 2, 3)}
        factors[4] = rng.uniform(0.2, 3, 4).astype(np.float32)
        for shape in ((2, 4, 5, 6), (1, 4, 7), (3, 4), (1, 4, 2, 3, 4)):
            x = rng.standard_normal(shape).astype(np.float32)
            yield Sample(f"rank {len(shape)}", "BatchNormalization", (x,), factors, steps=3.0)

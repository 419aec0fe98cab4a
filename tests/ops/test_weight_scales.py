"""Scales of weights at the edge of float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ops.integer_builder import IntegerBuilder


def test_a_channel_without_weights_and_a_trace_of_a_bias_becomes_zero() -> None:
    builder = IntegerBuilder(ir.Graph([], [], nodes=[], name="empty"), "bayes-e", 15)
    weights = np.array([[0.0, 0.0], [1.0, -2.0], [0.0, 0.0]], np.float32)
    bias = np.array([1e-41, 0.5, 0.25], np.float32)
    weight, integers = builder.weight_with_bias(None, weights, 0, bias, 0.1)
    assert (weight.scales > 0).all()
    step = weight.scales * np.float32(0.1)
    assert (np.abs(integers * step - [0.0, 0.5, 0.25]) <= 0.5001 * step).all()
    assert abs(integers[2] * step[2] - 0.25) < 1e-6  # without weights the bias is all there is

"""Names of the user's model that hbtool would have chosen for values of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from flow_project import two_tails

from hbtool.config import parse_config
from hbtool.flows.makertbin import makertbin
from hbtool.flows.verify import verify

CONFIG = """
model_parameters: {onnx_model: net.onnx, march: bayes-e, working_dir: out}
input_parameters: {input_type_rt: featuremap, input_type_train: featuremap}
calibration_parameters: {calibration_type: skip, optimization: run_fast}
"""

RENAMED = [
    {"y": "softmax_output"},  # the first of the integer operators that a Softmax becomes
    {"m1": "silu_output", "p1": "pool_output", "c1": "conv1_output"},
    {"w2": "p1_scale"},  # beside the scale of value p1
    {"w2": "p1_zero_point", "w1": "x_scale"},
    {"p1": "x_quantized", "c1": "z_quantized"},
    {"p1": "x_float", "c1": "z_float", "m1": "y_float"},
    {"w1": "conv1/weight", "w2": "conv1/multiplier"},
    {"c1": "conv2/const_1", "p1": "conv2/Cast_2", "m1": "x_QuantizeLinear_output"},
    {"w1": "conv2/const_3", "w2": "conv1/const_1"},
    {"p1": "z_before_quantization", "m1": "z_replaced", "c1": "y_replaced"},
]


def rename(path: Path, names: dict[str, str]) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        for listed in (node.input, node.output):
            for index, name in enumerate(listed):
                listed[index] = names.get(name, name)
    for value in (*model.graph.initializer, *model.graph.output):
        value.name = names.get(value.name, value.name)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.mark.parametrize("names", RENAMED, ids=lambda names: "-".join(names.values()))
def test_a_model_may_use_any_names(names: dict[str, str], tmp_path: Path) -> None:
    rename(two_tails(tmp_path / "net.onnx"), names)
    result = makertbin(parse_config(CONFIG, folder=tmp_path))
    assert [row.name for row in result.outputs] == [names.get("y", "y"), "z"]
    assert all(row.similarity.cosine > 0.99 for row in result.outputs)
    assert verify(result.artifact_path, reference=True).passed
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    trained, integers = (
        onnxruntime.InferenceSession(result.files[role]).run(None, feed)
        for role in ("calibrated_model", "quantized_model")
    )
    for a, b in zip(trained, integers, strict=True):
        np.testing.assert_allclose(a, b, atol=0.1)

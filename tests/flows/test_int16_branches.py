"""A value in int16 whose readers differ: one of them knows int8 only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hbtool.config import parse_config
from hbtool.flows.makertbin import BuildResult, makertbin
from hbtool.flows.verify import verify
from hbtool.runtime import Session

TEXT = """
model_parameters: {{onnx_model: net.onnx, march: {march}, working_dir: out}}
input_parameters: {{input_type_rt: featuremap, input_type_train: featuremap}}
calibration_parameters: {{calibration_type: skip, optimization: "set_all_nodes_int16"}}
compiler_parameters: {{optimize_level: O2}}
"""


def save_network(path: Path) -> None:
    """x -> conv1 -> relu -> {pool -> y, conv2 -> z}."""
    rng = np.random.default_rng(5)
    weights = {
        "w1": rng.standard_normal((6, 3, 3, 3)).astype(np.float32) / 5,
        "w2": rng.standard_normal((4, 6, 1, 1)).astype(np.float32),
    }
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["c"], "conv1"),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("AveragePool", ["r"], ["y"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["r", "w2"], ["z"], "conv2"),
        ],
        "branches",
        [info("x", TensorProto.FLOAT, [1, 3, 14, 14])],
        [info("y", TensorProto.FLOAT, [1, 6, 6, 6]), info("z", TensorProto.FLOAT, [1, 4, 12, 12])],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def built(folder: Path, march: str) -> BuildResult:
    save_network(folder / "net.onnx")
    return makertbin(parse_config(TEXT.format(march=march), file="config.yaml", folder=folder))


def test_average_pooling_does_not_hold_a_convolution_back(tmp_path: Path) -> None:
    """The pooling rounds its own copy to int8; before, both branches had int8 because of it."""
    result = built(tmp_path, "bayes-e")
    assert {r.node: r.dtype for r in result.nodes}["conv1"] == "int16"
    assert {(r.node, r.slot) for r in result.refused} == {("pool", "output")}
    assert verify(result.artifact_path, reference=True).passed
    errors = relative_errors(result)
    (tmp_path / "nash").mkdir()
    everywhere = relative_errors(built(tmp_path / "nash", "nash-e"))
    assert errors["z"] < 1.02 * everywhere["z"]
    assert errors["y"] < 0.02  # int8 in and out


def test_all_of_it_is_int16_where_pooling_is(tmp_path: Path) -> None:
    result = built(tmp_path, "nash-e")
    assert result.refused == ()
    assert relative_errors(result)["y"] < 0.005


def relative_errors(result: BuildResult) -> dict[str, float]:
    """Root of the relative squared error of each output to the float model."""
    import onnxruntime

    floats = onnxruntime.InferenceSession(str(result.files["original_float_model"]))
    feeds = {"x": np.random.default_rng(9).standard_normal((1, 3, 14, 14)).astype(np.float32)}
    names = [o.name for o in floats.get_outputs()]
    pairs = zip(floats.run(names, feeds), Session(result.artifact).run(names, feeds), strict=True)
    return {n: float(np.linalg.norm(a - b) / np.linalg.norm(a)) for n, (a, b) in zip(names, pairs, strict=True)}

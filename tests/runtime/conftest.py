from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hbtool.config import load_config
from hbtool.flows.makertbin import makertbin


@pytest.fixture(scope="session")
def small_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a small conv net with an image input, a CPU operator in the middle and two outputs."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.standard_normal((16, 3, 3, 3)).astype(np.float32) / 4,
        "w2": rng.standard_normal((6, 16, 1, 1)).astype(np.float32) / 3,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("CumSum", ["b", "axis"], ["c"], name="on_cpu"),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="second"),
        helper.make_node("GlobalAveragePool", ["b"], ["e"], name="pool"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("d", "e")],
        [numpy_helper.from_array(a, n) for n, a in weights.items()]
        + [numpy_helper.from_array(np.asarray(2, np.int64), "axis")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    (folder / "config.yaml").write_text(
        "model_parameters: {onnx_model: net.onnx, march: bayes-e, output_model_file_prefix: net, working_dir: out}\n"
        "input_parameters: {input_type_rt: nv12, input_type_train: rgb, input_layout_train: NCHW,\n"
        "  norm_type: data_scale, scale_value: 0.0078125}\n"
        "calibration_parameters: {calibration_type: skip}\n"
        "compiler_parameters: {optimize_level: O3}\n"
    )
    return makertbin(load_config(folder / "config.yaml")).artifact_path

"""A chain of convolutions in which one channel is far wider than the others, without changing the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hbtool.config import parse_config
from hbtool.config.schema import LoadedConfig

PLANTED = "conv2"


def save_chain(folder: Path, factor: float = 300.0) -> Path:
    """Write conv0 -> relu0 -> ... -> conv4; channel 3 of conv2 is `factor` times as large, conv3 divides it again."""
    rng = np.random.default_rng(4)
    weights = [(rng.standard_normal((8, 3 if i == 0 else 8, 3, 3)) / 9).astype(np.float32) for i in range(5)]
    weights[2][3] *= factor
    weights[3][:, 3] /= factor
    nodes, x = [], "x"
    for index in range(5):
        out = "y" if index == 4 else f"c{index}"
        nodes.append(helper.make_node("Conv", [x, f"w{index}"], [out], f"conv{index}", pads=[1, 1, 1, 1]))
        x = out
        if index < 4:
            nodes.append(helper.make_node("Relu", [x], [f"r{index}"], f"relu{index}"))
            x = f"r{index}"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [info("y", TensorProto.FLOAT, [1, 8, 16, 16])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    path = folder / "chain.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


CONFIG = """
model_parameters: {onnx_model: chain.onnx, march: bayes-e, working_dir: out, output_model_file_prefix: chain,
  debug_mode: dump_calibration_data}
input_parameters: {input_type_rt: rgb, input_layout_rt: NCHW, input_type_train: rgb, input_layout_train: NCHW,
  norm_type: data_mean_and_scale, mean_value: 127.5, scale_value: 0.0078}
calibration_parameters: {cal_data_dir: data, cal_data_type: uint8, calibration_type: max}
compiler_parameters: {optimize_level: O2}
"""


def project(folder: Path, factor: float = 300.0) -> LoadedConfig:
    """Write the chain with data and configuration."""
    save_chain(folder, factor)
    rng = np.random.default_rng(5)
    (folder / "data").mkdir()
    for index in range(4):
        rng.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8).tofile(folder / "data" / f"{index}.bin")
    (folder / "config.yaml").write_text(CONFIG)
    return parse_config(CONFIG, file=str(folder / "config.yaml"), folder=folder)

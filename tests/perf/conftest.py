from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hbtool import target as targets
from hbtool.config import load_config
from hbtool.flows.makertbin import makertbin
from hbtool.flows.perf import report_of
from hbtool.perf.report import Report
from hbtool.runtime.artifact import Artifact
from hbtool.target.target import Target

CONFIG = """
model_parameters:
  onnx_model: net.onnx
  march: {march}
  output_model_file_prefix: net
  working_dir: {name}
input_parameters:
  input_type_rt: nv12
  input_type_train: rgb
  input_layout_train: NCHW
  norm_type: data_scale
  scale_value: 0.0078125
calibration_parameters:
  calibration_type: skip
  run_on_cpu: forced
compiler_parameters:
  optimize_level: {level}
  debug: {debug}
  core_num: {cores}
  advice: {advice}
"""


def _write_model(folder: Path) -> None:
    """Convolutions with three CPU parts between them, each for another reason, and one behind them."""
    rng = np.random.default_rng(1)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (8, 16, 1, 1), "w4": (10, 8, 1, 1)}
    weights = {n: rng.standard_normal(s).astype(np.float32) / 8 for n, s in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Sigmoid", ["b"], ["c"], name="forced"),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["d"], ["e"], name="manual", axis=1),
        helper.make_node("Conv", ["e", "w3"], ["f"], name="third"),
        helper.make_node("CumSum", ["f", "axis"], ["g"], name="unknown"),
        helper.make_node("Conv", ["g", "w4"], ["h"], name="fourth"),
        helper.make_node("Reshape", ["h", "shape"], ["out"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in weights.items()]
        + [
            numpy_helper.from_array(np.asarray(2, np.int64), "axis"),
            numpy_helper.from_array(np.asarray([1, -1], np.int64), "shape"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")


def _build(
    folder: Path,
    name: str,
    *,
    march: str = "bayes-e",
    level: str = "O2",
    debug: bool = True,
    cores: int = 1,
    advice: int = 0,
) -> Artifact:
    config = folder / f"{name}.yaml"
    config.write_text(
        CONFIG.format(name=name, march=march, level=level, debug=str(debug).lower(), cores=cores, advice=advice)
    )
    return makertbin(load_config(config)).artifact


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """One model with CPU parts: at its best, slow without layer details, and on two cores of another march."""
    folder = tmp_path_factory.mktemp("perf")
    _write_model(folder)
    return {
        "good": _build(folder, "good"),
        "slow": _build(folder, "slow", level="O0", debug=False, advice=1),
        "two": _build(folder, "two", march="bernoulli2", cores=2),
    }


@pytest.fixture(scope="session")
def artifact_path(artifacts: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hbtool.runtime.artifact import save_artifact

    return save_artifact(artifacts["good"], tmp_path_factory.mktemp("file") / "net.bin")


@pytest.fixture(scope="session")
def reports(artifacts: dict[str, Artifact]) -> dict[str, Report]:
    return {name: report_of(artifact, measure=False) for name, artifact in artifacts.items()}


@pytest.fixture(scope="session")
def machine() -> Target:
    return targets.load("bayes-e")

"""Custom operators are ONNX functions: inlined, run everywhere; Python files are never executed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from flow_project import Listening
from onnx import TensorProto, helper, numpy_helper

from hbtool.config import parse_config
from hbtool.errors import ConfigError, UnsupportedError, UsageError
from hbtool.flows import custom_ops
from hbtool.flows.custom_ops import register_custom_op
from hbtool.flows.makertbin import BuildResult, makertbin
from hbtool.flows.verify import verify

CONFIG = """model_parameters:
  onnx_model: net.onnx
  march: bayes-e
  working_dir: out
input_parameters:
  input_type_rt: featuremap
  input_type_train: featuremap
calibration_parameters:
  calibration_type: skip
custom_op:
  custom_op_method: register
  op_register_files: {files}
  custom_op_dir: ops
"""


def twice() -> onnx.FunctionProto:
    """my.ops:Twice(x) = x + x."""
    add = helper.make_node("Add", ["x", "x"], ["y"])
    return helper.make_function("my.ops", "Twice", ["x"], ["y"], [add], [helper.make_opsetid("", 17)])


def save_functions(path: Path, *functions: onnx.FunctionProto) -> None:
    path.parent.mkdir(exist_ok=True)
    graph = helper.make_graph([], "empty", [], [])
    onnx.save(helper.make_model(graph, functions=list(functions), opset_imports=[helper.make_opsetid("", 17)]), path)


def build(folder: Path, files: str, talk: Listening | None = None) -> BuildResult:
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
            helper.make_node("Twice", ["a"], ["b"], "doubled", domain="my.ops"),
            helper.make_node("Sigmoid", ["b"], ["y"], "sigmoid"),
        ],
        "g",
        [info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "net.onnx")
    return makertbin(parse_config(CONFIG.format(files=files), file="config.yaml", folder=folder), talk)


def test_a_function_in_an_onnx_file_defines_the_operator(tmp_path: Path, listening: Listening) -> None:
    save_functions(tmp_path / "ops" / "twice.onnx", twice())
    result = build(tmp_path, "twice.onnx", listening)
    assert any("custom operators inlined: my.ops:Twice" in line for line in listening.lines)
    assert {row.device for row in result.nodes} == {"BPU"}
    assert verify(result.artifact_path, reference=True).passed


def test_python_files_are_named_and_not_executed(tmp_path: Path, listening: Listening) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('x')")
    with pytest.raises(UnsupportedError, match=r"my\.ops:Twice is no standard operator") as caught:
        build(tmp_path, "evil.py", listening)
    assert caught.value.where == "doubled"
    assert not (tmp_path / "ran").exists()
    assert any("evil.py is not executed" in text for text in listening.warnings)


def test_a_function_registered_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_ops, "_REGISTERED", {})
    register_custom_op(twice())
    assert verify(build(tmp_path, "''").artifact_path).passed


def test_what_cannot_be_registered() -> None:
    function = twice()
    function.domain = ""
    with pytest.raises(UsageError, match="cannot be registered"):
        register_custom_op(function)


def test_missing_and_empty_files_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="op_register_files") as caught:
        build(tmp_path, "none.onnx")
    assert str(caught.value.where) == "config.yaml:12"
    save_functions(tmp_path / "ops" / "none.onnx")
    with pytest.raises(ConfigError, match="defines no ONNX function"):
        build(tmp_path, "none.onnx")

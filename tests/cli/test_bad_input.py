"""What users get wrong: one paragraph with the place and the next step, exit code 1 or 2, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_project import Project
from command_line import Ran, hbtool
from onnx import TensorProto, helper, numpy_helper


def refused(ran: Ran, code: int, *parts: str) -> None:
    """One paragraph on stderr with all the parts."""
    assert ran.code == code, ran.err
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("hbtool: ")
    for part in parts:
        assert part in last
    assert "Traceback" not in ran.err
    assert ran.out == ""


def build(project: Project, *more: str) -> Ran:
    return hbtool("makertbin", "-c", project.config, "--model-type", "onnx", "-q", *more)


def change_weights(path: Path, change: float) -> None:
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[1] = change
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)


def mix_the_batch(path: Path) -> None:
    """Let every image read its neighbour's scores: ReduceMax over the batch."""
    model = onnx.load(path)
    flat = next(n for n in model.graph.node if n.op_type == "Softmax")
    axes = numpy_helper.from_array(np.asarray([0], np.int64), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.insert(
        len(model.graph.node) - 1,
        helper.make_node("ReduceSum", [flat.input[0], "axes"], ["total"], name="total", keepdims=1),
    )
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node("Sub", [flat.input[0], "total"], ["rest"], name="rest")
    )
    flat.input[0] = "rest"
    onnx.save(model, path)


def test_missing_config(tmp_path: Path) -> None:
    refused(hbtool("makertbin", "-c", tmp_path / "none.yaml"), 2, "none.yaml")


def test_missing_model(project: Project) -> None:
    project.replace("net.onnx", "nett.onnx")
    refused(build(project), 2, "config.yaml:2", "onnx_model", "nett.onnx", "does not exist")
    assert project.left_behind() == []


def test_not_onnx(project: Project) -> None:
    (project.folder / "net.onnx").write_text("this is a text")
    refused(build(project), 1, "net.onnx", "not an ONNX file", "14 bytes", "again")
    assert project.left_behind() == []


def test_truncated_onnx(project: Project) -> None:
    file = project.folder / "net.onnx"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(build(project), 1, "net.onnx", "truncated", "again")
    assert project.left_behind() == []


def test_unknown_key_is_a_warning_and_an_error_with_strict(project: Project) -> None:
    project.replace("optimize_level: O2", "optimise_level: O2")
    ran = build(project)
    assert ran.code == 0
    assert "config.yaml:19" in ran.err
    assert "'optimize_level'" in ran.err
    refused(build(project, "--strict"), 2, "config.yaml:19", "optimise_level", "optimize_level")


def test_wrong_type(project: Project) -> None:
    project.replace("scale_value: 0.0078125", "scale_value: large")
    refused(build(project), 2, "config.yaml:12", "scale_value", "large")
    assert project.left_behind() == []


def test_missing_calibration_folder(project: Project) -> None:
    project.replace("./cal_f32", "./calibration_f32")
    refused(build(project), 2, "config.yaml:15", "cal_data_dir", "calibration_f32", "does not exist")
    assert project.left_behind() == []


def test_empty_calibration_folder(project: Project) -> None:
    for file in (project.folder / "cal_f32").iterdir():
        file.unlink()
    refused(build(project), 1, "cal_f32", "holds no files")
    assert project.left_behind() == []


def test_calibration_file_of_the_wrong_size(project: Project) -> None:
    np.zeros((1, 3, 16, 16), np.uint8).tofile(project.folder / "cal_f32" / "0.rgb")
    refused(build(project), 1, "0.rgb", "found 768 bytes, expected 3072", "uint8", "cal_data_type")
    assert ".bin" not in " ".join(project.left_behind())


def test_a_later_calibration_file_of_the_wrong_size_is_found_before_anything_is_written(project: Project) -> None:
    (project.folder / "cal_f32" / "2.rgb").write_bytes(b"123")
    refused(build(project), 1, "2.rgb", "found 3 bytes, expected 3072")
    assert not list((project.folder / "out").glob("*.onnx"))


def test_a_later_npy_file_of_the_wrong_shape_is_found_before_anything_is_written(project: Project) -> None:
    np.save(project.folder / "cal_f32" / "3.npy", np.zeros((1, 16, 16, 3), np.float32))
    refused(build(project), 1, "3.npy", "(1, 16, 16, 3)", "input_layout_train")
    assert not list((project.folder / "out").glob("*.onnx"))


def test_npy_files_that_contradict_cal_data_type_get_a_warning(project: Project) -> None:
    for index in range(3):
        (project.folder / "cal_f32" / f"{index}.rgb").unlink()
        np.save(project.folder / "cal_f32" / f"{index}.npy", np.full((1, 3, 16, 16), 40.0 * index, np.float32))
    assert "cal_data_type" not in build(project).err
    project.replace("cal_data_type: float32", "cal_data_type: int16")
    ran = build(project)
    assert ran.code == 0
    assert "0.npy holds float32, cal_data_type says int16" in ran.err


@pytest.mark.parametrize("key", ["working_dir", "cache_path"])
def test_a_folder_that_cannot_be_one_is_found_first(project: Project, key: str) -> None:
    if key == "working_dir":
        project.replace("working_dir: out", "working_dir: net.onnx/out")
    else:
        project.replace("optimize_level: O2", "optimize_level: O2\n  cache_mode: enable\n  cache_path: net.onnx")
    refused(build(project), 2, "config.yaml:", key, "net.onnx is a file", "another folder")
    assert project.left_behind() == []


def test_a_request_for_the_bpu_that_cannot_be_met_is_told_with_its_reason(project: Project) -> None:
    project.replace("march: bayes-e", "march: bernoulli2")
    node = next(n.name for n in onnx.load(project.folder / "net.onnx").graph.node if n.op_type == "Softmax")
    project.replace("calibration_type: max", f"calibration_type: max\n  run_on_bpu: {node}")
    ran = build(project)
    assert ran.code == 0
    (told,) = [line for line in ran.err.splitlines() if "stays on the CPU" in line]
    assert told.startswith(f"warning: run_on_bpu or node_info: {node} (Softmax) stays on the CPU: the BPU needs")


def test_nan_in_data(project: Project) -> None:
    np.full((1, 3, 16, 16), np.nan, np.float32).tofile(project.folder / "cal_f32" / "1.rgb")
    refused(build(project), 1, "1.rgb", "NaN")
    assert ".bin" not in " ".join(project.left_behind())


def test_nan_in_weights(project: Project) -> None:
    change_weights(project.folder / "net.onnx", float("nan"))
    refused(build(project), 1, "NaN", "Conv_0", "net.onnx")
    assert project.left_behind() == []


def test_free_dimension_without_a_shape(project: Project) -> None:
    model = onnx.load(project.folder / "net.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, project.folder / "net.onnx")
    refused(build(project), 2, "input_shape", "height", "1x3x224x16")
    assert project.left_behind() == []


def test_free_dimension_for_the_checker(project: Project) -> None:
    model = onnx.load(project.folder / "net.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, project.folder / "net.onnx")
    ran = hbtool("checker", "--march", "bayes-e", "--model", project.folder / "net.onnx")
    refused(ran, 2, "'image'", "'N'", "--input-shape image 1x3x16x16")


def test_no_convolution_at_all_is_refused(project: Project) -> None:
    node = helper.make_node("Relu", ["image"], ["y"], name="relu")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [info("image", TensorProto.FLOAT, [1, 3, 16, 16])], [info("y", TensorProto.FLOAT, [1, 3, 16, 16])]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), project.folder / "net.onnx"
    )
    refused(build(project), 1, "config.yaml:2", "no convolution and no matrix product", "onnxruntime")


def test_caffe_is_refused(project: Project) -> None:
    refused(hbtool("makertbin", "-c", project.config, "--model-type", "caffe"), 1, "Caffe", "Convert the model to ONNX")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["makertbin", "--fast-perf", "-c", "x.yaml"], ["--fast-perf excludes --config"]),
        (["makertbin", "--fast-perf", "--march", "bayes"], ["--fast-perf needs --model"]),
        (["makertbin"], ["--config"]),
        (["checker", "--march", "bayes"], ["neither --config nor --model"]),
        (["checker", "--model", "net.onnx"], ["--model needs --march"]),
        (["infer"], ["neither ARTIFACT nor --model-file"]),
        (["infer", "-c", "c.yaml", "--model-file", "x.onnx"], ["--model-file needs --output-dir"]),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], parts: list[str]) -> None:
    refused(hbtool(*arguments), 2, *parts)


def test_unknown_command_gets_the_nearest() -> None:
    ran = hbtool("maketbin", "-c", "x")
    assert ran.code == 2
    assert "makertbin" in ran.err


def test_unknown_march_names_the_known_ones(project: Project) -> None:
    ran = hbtool("checker", "--march", "bayse", "--model", project.folder / "net.onnx")
    assert ran.code == 2
    assert "bayes" in ran.err


def test_a_config_error_comes_before_calibration(project: Project) -> None:
    np.full((1, 3, 16, 16), np.nan, np.float32).tofile(project.folder / "cal_f32" / "2.rgb")
    project.replace("input_name: image", "input_name: image\n  input_batch: 2")
    mix_the_batch(project.folder / "net.onnx")
    ran = build(project)
    refused(ran, 2, "config.yaml:8", "input_batch", "2 images")
    assert not (project.folder / "out" / "net_original_float_model.onnx").exists()


def test_verify_with_a_file_that_is_no_quantized_form_of_the_artifact(built: Project) -> None:
    refused(hbtool("verify", built.artifact, "--quantized", "none.onnx", "-q"), 1, "none.onnx", "does not exist")
    ran = hbtool("verify", built.artifact, "--quantized", built.folder / "net.onnx", "-q")
    refused(ran, 1, "net.onnx", "takes image (float32), the artifact image (int8)", "written with the artifact")


@pytest.mark.parametrize("command", [["init", "{model}"], ["ops"], ["checker", "--model", "{model}"]])
def test_a_march_that_is_none(project: Project, command: list[str]) -> None:
    words = [word.format(model=project.folder / "net.onnx") for word in command]
    refused(hbtool(*words, "--march", "bayes-x"), 2, "'bayes-x' is not a march", "bernoulli2, bayes, bayes-e")


def test_a_board_is_read_as_its_march(project: Project) -> None:
    model = project.folder / "net.onnx"
    assert hbtool("init", model, "--march", "X5", "-o", project.folder / "x5.yaml").code == 0
    assert "march: 'bayes-e'" in (project.folder / "x5.yaml").read_text(encoding="utf-8")
    assert hbtool("checker", "--model", model, "--march", "S100", "-q").code == 0


def test_what_checker_refuses_has_no_line_of_a_file_that_does_not_exist(project: Project) -> None:
    model = project.folder / "net.onnx"
    ran = hbtool("checker", "--model", model, "--march", "bayes", "--input-shape", "image", "1x3x16", "-q")
    refused(ran, 2, f"{model}: input_shape: 1x3x16 does not fit the model's 1x3x16x16")


def test_a_quantized_model_of_another_build_is_not_compared_by_mistake(project: Project) -> None:
    assert build(project).code == 0
    file = project.folder / "out" / "net_quantized_model.onnx"
    first = file.read_bytes()
    project.replace("scale_value: 0.0078125", "scale_value: 0.01")
    kept = project.artifact.read_bytes()
    assert build(project).code == 0
    project.artifact.write_bytes(kept)  # as if the second build had been stopped before its artifact
    refused(hbtool("verify", project.artifact, "-q"), 1, "net_quantized_model.onnx", "Build again", "--quantized")
    ran = hbtool("verify", project.artifact, "--quantized", file)
    assert ran.code == 1
    assert "FAILED" in ran.out
    file.write_bytes(first)
    assert hbtool("verify", project.artifact).code == 0


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", b"vendor binary" * 40])
@pytest.mark.parametrize("command", ["info", "verify", "modify"])
def test_what_is_no_artifact(command: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(content)
    refused(hbtool(command, file), 1, "model.bin")


def test_a_truncated_artifact(built: Project, tmp_path: Path) -> None:
    data = built.artifact.read_bytes()
    file = tmp_path / "cut.bin"
    file.write_bytes(data[: len(data) * 3 // 4])
    refused(hbtool("info", file), 1, "cut.bin", "truncated or damaged")

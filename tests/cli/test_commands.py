"""The commands on a small model: what they print, write and return."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_project import Project
from command_line import hbtool
from PIL import Image


def table_rows(text: str, title: str) -> list[list[str]]:
    """Cells of a printed table, without its header."""
    lines = text.splitlines()
    start = lines.index(title)
    rows = []
    for line in lines[start + 4 :]:
        if not line.strip():
            break
        rows.append(line.split())
    return rows


def test_makertbin_says_what_it_understood_and_leaves_a_log(built: Project) -> None:
    ran = hbtool("makertbin", "-c", built.config, "--model-type", "onnx")
    assert ran.code == 0
    (row,) = table_rows(ran.out, "Inputs as they were understood")
    assert row[:2] == ["image", "1x3x16x16"]
    assert {"rgb", "nv12", "pyramid"} <= set(row)
    assert "onnxruntime" in ran.err
    said = ran.err.splitlines()
    understood = next(
        i for i, line in enumerate(said) if line.startswith("input image: 1x3x16x16 NCHW, trained on rgb")
    )
    assert "fed as nv12 from pyramid, data_scale, scale 0.0078125" in said[understood]
    assert "3 samples (float32)" in said[understood + 1]
    assert "first 0.rgb (md5 " in said[understood + 1]
    assert understood < next(i for i, line in enumerate(said) if "calibrated_model" in line)
    log = (built.folder / "out" / "hb_mapper_makertbin.log").read_text(encoding="utf-8")
    for expected in ("versions: ", "Dump config", "scale_value", "Model nodes after quantization", "RESULT"):
        assert expected in log
    record = json.loads((built.folder / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["nodes"]["BPU"] > 0


def test_an_error_stands_in_the_log(project: Project) -> None:
    np.zeros(1, np.float32).tofile(project.folder / "cal_f32" / "1.rgb")
    assert hbtool("makertbin", "-c", project.config).code == 1
    log = (project.folder / "out" / "hb_mapper_makertbin.log").read_text(encoding="utf-8")
    assert "ERROR: data error: " in log
    assert "found 4 bytes" in log


def test_checker_has_the_rows_of_makertbin(built: Project) -> None:
    checked = hbtool("checker", "-c", built.config, "-q")
    made = hbtool("makertbin", "-c", built.config, "-q")
    assert checked.code == made.code == 0
    short = table_rows(checked.out, "Where the nodes run")
    full = table_rows(made.out, "Model nodes after quantization")
    assert [r[:4] for r in short] == [r[:4] for r in full]
    assert [r[-1] for r in short] == [r[-1] for r in full]
    assert "PASSED" in checked.out


def test_checker_writes_nothing(project: Project) -> None:
    before = sorted(project.folder.rglob("*"))
    model = project.folder / "net.onnx"
    ran = hbtool("checker", "--model-type", "onnx", "--march", "bernoulli2", "--model", model, "--output", "x")
    assert ran.code == 0
    assert "deprecated" in ran.err
    assert "Softmax" in ran.out
    assert sorted(project.folder.rglob("*")) == before


def test_checker_takes_a_shape(project: Project) -> None:
    ran = hbtool(
        "checker", "--march", "bayes-e", "--model", project.folder / "net.onnx", "--input-shape", "image", "1x3x16x16"
    )
    assert ran.code == 0
    wrong = hbtool(
        "checker", "--march", "bayes-e", "--model", project.folder / "net.onnx", "--input-shape", "im", "1x3"
    )
    assert wrong.code == 2
    assert "image" in wrong.err


def test_fast_perf_builds_without_a_config(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    ran = hbtool(
        "makertbin", "--fast-perf", "--model", "net.onnx", "--march", "bayes-e", "--model-type", "onnx", "--json"
    )
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["inputs"][0]["type_rt"] == "nv12"
    assert all("the BPU needs" in n["reason"] for n in result["nodes"] if n["device"] == "CPU")
    assert "Dequantize" in {n["type"] for n in result["deleted_nodes"]}
    assert hbtool("verify", "model_output/net.bin", "-q").code == 0


def test_init_gives_what_checker_and_makertbin_take(project: Project) -> None:
    config = project.folder / "new.yaml"
    assert hbtool("init", project.folder / "net.onnx", "-o", config).code == 0
    assert hbtool("init", project.folder / "net.onnx", "-o", config).code == 2
    ran = hbtool("checker", "-c", config, "--strict")
    assert ran.code == 0, ran.err
    assert "does not exist yet" in ran.err
    shutil.copytree(project.folder / "cal_f32", project.folder / "calibration_data" / "image")
    assert hbtool("makertbin", "-c", config, "-q").code == 0


def test_info_prints_in_the_known_order(built: Project) -> None:
    text = hbtool("info", built.artifact).out
    order = [
        "Model: net", "dependency versions", "onnx_model", "march", "layer_out_dump", "log_level", "working_dir",
        "output_model_file_prefix", "input_name", "input_type_rt", "input_space_and_range", "input_layout_rt",
        "input_type_train", "input_layout_train", "norm_type", "input_shape", "mean_value", "scale_value",
        "cal_data_dir", "cal_data_type", "preprocess_on", "calibration_type", "optimization", "per_channel", "debug",
        "compile_mode", "input_source", "Runtime inputs", "Runtime outputs",
    ]  # fmt: skip
    places = [text.index(word) for word in order]
    assert places == sorted(places)


def test_modify_lists_removes_and_explains(built: Project, tmp_path: Path) -> None:
    listed = json.loads(hbtool("modify", built.artifact, "--json").out)
    assert {n["type"] for n in listed} == {"Reshape", "Softmax"}
    name = listed[0]["name"]
    out = tmp_path / "bare.bin"
    ran = hbtool("modify", built.artifact, "-r", name, "-o", out)
    assert ran.code == 0
    assert name in ran.out
    assert hbtool("verify", out, "-q").code == 0
    assert name in hbtool("info", out).out


def test_modify_prints_every_scale(built: Project, tmp_path: Path) -> None:
    ran = hbtool(
        "modify", built.artifact, "-a", "Softmax", "-a", "Reshape", "-a", "Dequantize", "-o", tmp_path / "b.bin"
    )
    assert "quantizeAxis 1, 10 scale(s)" in ran.out
    assert "scale.reshape([1, -1, 1, 1])" in ran.out


def test_pack_and_choose(built: Project, tmp_path: Path) -> None:
    fast = tmp_path / "other.yaml"
    text = built.config.read_text(encoding="utf-8").replace(
        "output_model_file_prefix: net", "output_model_file_prefix: two"
    )
    text = text.replace("net.onnx", str(built.folder / "net.onnx")).replace("./cal_f32", str(built.folder / "cal_f32"))
    fast.write_text(text, encoding="utf-8")
    assert hbtool("makertbin", "-c", fast, "-q").code == 0
    packed = tmp_path / "all.bin"
    assert hbtool("pack", built.artifact, tmp_path / "out" / "two.bin", "-o", packed).code == 0
    assert len(json.loads(hbtool("info", packed, "--json").out)) == 2
    assert hbtool("verify", packed).code == 2
    assert hbtool("verify", packed, "-m", "two", "-q").code == 0
    assert hbtool("pack", packed, built.artifact, "-o", tmp_path / "x.bin").code == 1
    assert not (tmp_path / "x.bin").exists()


def test_infer_runs_an_artifact_on_camera_bytes_and_pictures(built: Project, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    raw = tmp_path / "frame.yuv"
    raw.write_bytes(rng.integers(0, 256, 16 * 16 * 3 // 2, dtype=np.uint8).tobytes())
    picture = tmp_path / "picture.png"
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(picture)
    ran = hbtool("infer", built.artifact, "-i", raw, "-i", f"image={picture}", "-o", tmp_path / "results")
    assert ran.code == 0, ran.err
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["output_0.npz", "output_1.npz"]
    host, sim = (
        json.loads(hbtool("infer", built.artifact, "-i", raw, "--json", "--backend", b).out) for b in ("host", "sim")
    )
    assert host["samples"] == sim["samples"]


@pytest.mark.parametrize("stage", ["original_float", "optimized_float", "calibrated", "quantized"])
def test_infer_dumps_every_layer_of_a_stage_file(built: Project, tmp_path: Path, stage: str) -> None:
    sample = built.folder / "cal_f32" / "0.rgb"
    ran = hbtool(
        "infer", "-c", built.config, "--model-file", built.folder / "out" / f"net_{stage}_model.onnx",
        "--model-type", "onnx", "--image-file", "image", sample, "--output-dir", tmp_path / "dump", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    layers = json.loads(ran.out)
    files = {Path(entry["file"]).name: entry for entry in layers}
    assert all(name.endswith("_float.bin") for name in files)
    for name, entry in files.items():
        assert np.fromfile(tmp_path / "dump" / name, np.float32).size == np.prod(entry["shape"])


def test_layer_dumps_of_float_and_integers_are_near(built: Project, tmp_path: Path) -> None:
    values: dict[str, dict[str, np.ndarray]] = {}
    for stage in ("optimized_float", "quantized"):
        folder = tmp_path / stage
        ran = hbtool(
            "infer", "-c", built.config, "--model-file", built.folder / "out" / f"net_{stage}_model.onnx",
            "--image-file", "image", built.folder / "cal_f32" / "0.rgb", "--output-dir", folder, "--json",
        )  # fmt: skip
        values[stage] = {e["layer"]: np.fromfile(e["file"], np.float32) for e in json.loads(ran.out)}
    common = set(values["optimized_float"]) & set(values["quantized"])
    assert len(common) >= 6
    for name in common:
        np.testing.assert_allclose(values["quantized"][name], values["optimized_float"][name], atol=0.15)


def test_ops_lists_and_explains() -> None:
    text = hbtool("ops", "--march", "bernoulli2").out
    rows = {line.split()[0]: line.split()[1] for line in text.splitlines()[4:] if line.strip()}
    assert rows["Conv"] == "BPU"
    assert rows["Softmax"] == "BPU-manual"
    assert "kernel height and width between 1 and 7" in hbtool("ops", "--march", "bernoulli2", "conv").out
    assert hbtool("ops", "NoSuchOp").code == 2
    assert hbtool("ops", "--march", "x9").code == 2


def test_info_of_a_stage_file(built: Project) -> None:
    ran = hbtool("info", built.folder / "out" / "net_original_float_model.onnx")
    assert ran.code == 0, ran.err
    assert table_rows(ran.out, "Inputs") == [["image", "float", "1x3x16x16"]]
    assert "opset" in ran.out


def test_next_steps_can_be_pasted(built: Project, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    shutil.copytree(built.folder, folder)
    ran = hbtool("makertbin", "-c", folder / "config.yaml", "-q")
    assert f"hbtool verify '{folder}/out/net.bin'" in ran.out


def test_every_layer_is_dumped_once(built: Project, tmp_path: Path) -> None:
    stage = built.folder / "out" / "net_quantized_model.onnx"
    sample = built.folder / "cal_f32" / "0.rgb"
    line = ["-c", built.config, "--model-file", stage, "--image-file", "image", sample, "--output-dir", tmp_path]
    assert hbtool("infer", *line).code == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert not [name for name in names if name.endswith("__float.bin")]
    assert len(names) > 5


def test_samples_whose_type_nobody_stated_are_read_by_their_size(project: Project) -> None:
    (project.folder / "cal_f32").rename(project.folder / "samples")
    project.replace("cal_data_dir: ./cal_f32\n  cal_data_type: float32", "cal_data_dir: ./samples")
    ran = hbtool("makertbin", "-c", project.config)
    assert ran.code == 0, ran.err
    assert "0.rgb has the size of float32, and no cal_data_type is given" in ran.err
    (row,) = table_rows(ran.out, "Inputs as they were understood")
    assert row[-1] == "float32"
    assert "3 samples (float32)" in ran.err


def test_json_is_json_where_numbers_are_infinite(built: Project) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    zero = built.folder / "zero.npy"
    np.save(zero, np.zeros((1, 24, 16), np.uint8))
    for line in (["verify", built.artifact, "-i", zero], ["makertbin", "-c", built.config], ["info", built.artifact]):
        ran = hbtool(*line, "--json", "-q")
        json.loads(ran.out, parse_constant=refuse)
    json.loads((built.folder / "out" / "run.json").read_text(encoding="utf-8"), parse_constant=refuse)

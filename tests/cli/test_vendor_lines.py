"""Lines of the vendor's tools, as its documents type them, with hbtool in front."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from cli_project import Project
from command_line import hbtool

from hbtool.cli.vendor_lines import TOOLS, translate
from hbtool.config import load_config
from hbtool.config.schema import SECTIONS
from hbtool.config.section import keys_of

BOARD = "192.168.1.10"


@pytest.mark.parametrize(
    "line",
    [
        "hb_model_verifier -q {out}/net_quantized_model.onnx -b {out}/net.bin",
        f"hb_model_verifier -q {{out}}/net_quantized_model.onnx -b {{out}}/net.bin -a {BOARD} -d 5",
        f"hb_verifier -m {{out}}/net_quantized_model.onnx,{{out}}/net.bin -b {BOARD} -s True -c 5 -r True -u root -p x",
        f"hb_verifier -m {{out}}/net.bin,{{out}}/net_quantized_model.onnx --ip {BOARD} --port 22 --skip-sim --skip-arm",
        "verify -m {out}/net_quantized_model.onnx,{out}/net.bin",
        "verify -q {out}/net.bin",
        "verify {out}/net.bin -m net -q",
    ],
)
def test_verifier_lines(built: Project, line: str) -> None:
    ran = hbtool(*line.format(out=built.folder / "out").split())
    assert ran.code == 0, ran.err
    assert "quantized ONNX in onnxruntime" in ran.out
    assert "PASSED" in ran.out
    of_a_board = (BOARD, " -u ", " -p ", " --port", "--skip-arm")
    assert ran.err.count("no board") == sum(line.count(option) for option in of_a_board)


def test_a_verifier_line_takes_an_input_file(built: Project, tmp_path: Path) -> None:
    data = tmp_path / "one.npy"
    np.save(data, np.zeros((1, 24, 16), np.uint8))
    out = built.folder / "out"
    ran = hbtool("hb_verifier", "-m", f"{out}/net_quantized_model.onnx,{out}/net.bin", "-i", data)
    assert ran.code == 0, ran.err
    assert "1 sample" in ran.out


@pytest.mark.parametrize(
    "line",
    [
        "hb_perf {out}/net.bin",
        "hb_perf -m net -p {out}/net.bin",
        "hb_model_info {out}/net.bin -m net",
        "hb_model_info -n net -v {out}/net.bin",
        "hb_model_modifier {out}/net.bin",
        "hb_model_modifier {out}/net.bin -a Softmax -o {tmp}/bare.bin",
        "hb_pack {out}/net.bin -o {tmp}/packed.bin",
        "hb_mapper checker --model-type onnx --march bayes-e --model {folder}/net.onnx --input-shape image 1x3x16x16",
        "hb_compile -m {folder}/net.onnx --march nash-e -i image 1x3x16x16",
        "hb_config_generator -s -m {folder}/net.onnx --march nash-e -o {tmp}/simple.yaml",
    ],
)
def test_other_lines(built: Project, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = hbtool(*line.format(out=built.folder / "out", folder=built.folder, tmp=tmp_path).split())
    assert ran.code == 0, ran.err
    assert ran.out


def test_hb_compile_means_the_build_the_fast_build_or_the_check() -> None:
    assert translate(["hb_compile", "-c", "c.yaml"])[0] == ["makertbin", "-c", "c.yaml"]
    check, _ = translate(["hb_compile", "-m", "n.onnx", "--march", "nash-e", "-i", "x", "1x3x8x8"])
    assert check == ["checker", "--model", "n.onnx", "--march", "nash-e", "--input-shape", "x", "1x3x8x8"]
    fast, remarks = translate(["hb_compile", "--fast-perf", "-m", "n.onnx", "--march", "nash-p", "--core-num", "2"])
    assert fast == ["makertbin", "--fast-perf", "--model", "n.onnx", "--march", "nash-p"]
    assert remarks == ["--core-num: write core_num into a config.yaml"]


def test_lines_of_hbtool_stay_as_they_are() -> None:
    for line in (["verify", "x.bin", "-m", "name"], ["verify", "-q", "x"], ["makertbin", "-c", "a"], ["--help"], []):
        assert translate(line) == (line, [])


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_has_a_help_text(tool: str) -> None:
    ran = hbtool(tool, "--help")
    assert ran.code == 0
    assert ran.out.startswith("Usage: hbtool")


def test_a_misspelt_tool_gets_the_nearest() -> None:
    ran = hbtool("hb_perff", "x.bin")
    assert ran.code == 2
    assert "hb_perf" in ran.err


@pytest.mark.parametrize("extent", ["simple", "full"])
def test_config_generator(project: Project, extent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = hbtool("hb_config_generator", f"-{extent[0]}", "-m", project.folder / "net.onnx", "--march", "nash-e")
    assert ran.code == 0, ran.err
    file = tmp_path / f"{extent}_compile_config.yaml"
    loaded = load_config(file)
    assert loaded.warnings == ()
    assert loaded.config.march == "nash-e"
    assert loaded.input_parameters.input_shape == ((1, 3, 16, 16),)
    assert ("# advice: 0" in file.read_text(encoding="utf-8")) is (extent == "full")
    assert hbtool("hb_config_generator", f"-{extent[0]}").code == 2  # the file exists already


def test_every_default_of_the_full_template_can_be_uncommented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hbtool("init", "--full").code == 0
    examples = {"node_info", "optimization", "mean_value", "scale_value", "jobs"}
    keys = {name for section in SECTIONS.values() for name in keys_of(section)} - examples
    lines = (tmp_path / "full_compile_config.yaml").read_text(encoding="utf-8").splitlines()
    offered = [re.fullmatch(r"  # (\w+): (''|\S+)", line) for line in lines]
    chosen = [found and found[1] in keys for found in offered]
    lines = [line.replace("# ", "", 1) if use else line for line, use in zip(lines, chosen, strict=True)]
    plain = load_config(tmp_path / "full_compile_config.yaml").config
    (tmp_path / "all.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert sum(map(bool, chosen)) > 25
    assert load_config(tmp_path / "all.yaml").config == plain


def test_vec_diff(tmp_path: Path) -> None:
    a = np.asarray([1.0, 2.0, 2.0], np.float32)
    for folder, array in (("a", a), ("b", a + np.asarray([0, 0, 0.3], np.float32))):
        (tmp_path / folder).mkdir()
        array.tofile(tmp_path / folder / "layer_float.bin")
    a.tofile(tmp_path / "a" / "alone_float.bin")
    ran = hbtool("vec_diff", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out.csv")
    assert ran.code == 0, ran.err
    assert "alone_float.bin" in ran.err
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines())
    assert float(row["Relative Euclidean Distance"]) == pytest.approx(0.1, rel=1e-5)
    assert float(row["Max Absolute Error"]) == pytest.approx(0.3, rel=1e-5)
    assert float(row["Mean Square Error"]) == pytest.approx(0.03, rel=1e-5)
    assert float(row["Cosine Similarity"]) == pytest.approx(9.6 / (3 * np.linalg.norm([1, 2, 2.3])), rel=1e-5)


@pytest.mark.parametrize("content", [b"abc", b"\0" * 8])
def test_vec_diff_says_what_does_not_fit(tmp_path: Path, content: bytes) -> None:
    for folder, data in (("a", b"\0" * 12), ("b", content)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.bin").write_bytes(data)
    ran = hbtool("vec_diff", tmp_path / "a", tmp_path / "b")
    assert ran.code == 1
    assert "x.bin" in ran.err
    assert hbtool("vec_diff", tmp_path / "a", tmp_path / "c").code == 2

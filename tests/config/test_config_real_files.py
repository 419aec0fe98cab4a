"""Every real file that people wrote: it loads, or one ConfigError names the line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hbtool.config import dump, load_config, parse_config
from hbtool.errors import ConfigError

FOLDER = Path(os.environ.get("HBTOOL_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))

# What a person sees at a glance is wrong: (part of the name, the key or text on the line that must be named).
REFUSED = {
    "mobilenetv1__conversion__ptq_x5": "onnx_model: @WORK@",
    "rdk_s_doc__docs__08_FAQ__05_toolchain__md_fence_fence74": "onnx_model: ''",
    "rdk_s_doc__docs__08_FAQ__05_toolchain__md_fence_fence77": "caffe_model: ''",
    "rdk_s_doc__docs__08_FAQ__05_toolchain__md_fence_fence78": "onnx_model: ''",
    "current__08_FAQ__05_toolchain__md_fence_fence74": "caffe_model: ''",
    "common_questions__toolchain__md_fence_fence74": "onnx_model: ''",
    "rdk_x_doc__docs__08_FAQ__05_toolchain__md_fence_fence75": "caffe_model: ''",
    "rdk_x_doc__docs__08_FAQ__05_toolchain__md_fence_fence76": "onnx_model: ''",
    "task-yaml-authoring__md_fence_fence3": "model_parameters:",
    "task-yaml-authoring__md_fence_fence4": "march: ''",
}

pytestmark = pytest.mark.skipif(not FILES, reason="the folder shared/configs is not beside the checkout")


def expected_text(path: Path) -> str | None:
    return next((text for part, text in REFUSED.items() if part in path.name), None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[-60:])
def test_loads_or_names_the_line(path: Path) -> None:
    expected = expected_text(path)
    if expected is None:
        loaded = load_config(path)
        assert loaded.config.march
        assert loaded.model_parameters.onnx_model
        assert len(loaded.input_parameters.input_type_rt) >= 1
        for note in loaded.warnings:
            assert note.file == str(path)
            assert note.line >= 1
            assert note.message
        return
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    file, _, line = str(caught.value.where).rpartition(":")
    assert file == str(path)
    assert path.read_text(encoding="utf-8").splitlines()[int(line) - 1].strip().startswith(expected)
    assert caught.value.hint


@pytest.mark.parametrize("path", [p for p in FILES if not expected_text(p)], ids=lambda path: path.stem[-60:])
def test_dump_reads_back_the_same(path: Path) -> None:
    config = load_config(path).config
    again = parse_config(dump(config)).config
    assert again == config


def test_the_tab_template_reads_as_a_person_reads_it() -> None:
    path = next(path for path in FILES if "x_doc__docs__07" in path.name)
    loaded = load_config(path)
    assert loaded.input_parameters.mean_value == ((103.94, 116.78, 123.68),)
    assert loaded.model_parameters.output_nodes == ()
    assert loaded.model_parameters.remove_node_type == ("Dequantize",)
    assert {note.line for note in loaded.warnings if "{OP_name}" in note.message} == {25, 31}


def test_invented_sections_are_reported_with_the_nearest_known() -> None:
    path = next(path for path in FILES if "PaddleOCR__conversion__README" in path.name)
    notes = {note.key: note for note in load_config(path).warnings if note.kind == "unknown"}
    assert set(notes) == {"output_parameters", "build_parameters", "model_parameters.model_name"}
    assert "'compiler_parameters'" in notes["build_parameters"].message
    with pytest.raises(ConfigError, match="unknown section"):
        load_config(path, strict=True)


def test_yaml_lists_mean_the_same_as_semicolons() -> None:
    path = next(path for path in FILES if "recipes__multi_input" in path.name)
    inputs = load_config(path).input_parameters
    assert inputs.input_name == ("image", "aux_features")
    assert inputs.input_shape == ((1, 3, 224, 224), (1, 128))
    assert inputs.mean_value == ((123.675, 116.28, 103.53), None)

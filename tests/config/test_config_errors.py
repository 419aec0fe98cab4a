"""One test per refusal: the message, the line, the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_samples import config_text, line_of

from hbtool.config import load_config, parse_config
from hbtool.errors import ConfigError

R = dict[str, str | None]

# (changes to the base file, key whose line is named, part of the message, part of the hint)
REFUSALS: list[tuple[R, str, str, str]] = [
    ({"model__onnx_model": None}, "model_parameters", "no model is given", "onnx_model: 'net.onnx'"),
    ({"model__onnx_model": "''"}, "onnx_model", "no model is given", "onnx_model: 'net.onnx'"),
    (
        {"model__caffe_model": "a.caffemodel", "model__prototxt": "a.prototxt"},
        "caffe_model",
        "an ONNX and a Caffe model",
        "Keep onnx_model, or",
    ),
    (
        {"model__onnx_model": None, "model__caffe_model": "a.caffemodel"},
        "model_parameters",
        "needs caffe_model and",
        "Add",
    ),
    ({"model__onnx_model": "net.pb"}, "onnx_model", "does not end in .onnx", ".onnx file"),
    ({"model__march": None}, "model_parameters", "march is missing", "bayes-e"),
    ({"model__march": "''"}, "march", "empty", "bayes-e"),
    ({"model__march": "bayes-f"}, "march", "known are bernoulli2, bayes, bayes-e", "Did you mean 'bayes-e'?"),
    ({"model__march": "[a, b]"}, "march", "a list stands where one value", "march: 'value'"),
    ({"model__march": "<march>"}, "march", "placeholder", "Fill in"),
    ({"model__output_model_file_prefix": "''"}, "output_model_file_prefix", "empty", "Name it"),
    ({"model__output_model_file_prefix": "a/b"}, "output_model_file_prefix", "holds a folder", "working_dir"),
    ({"model__output_model_file_prefix": "'..'"}, "output_model_file_prefix", "holds a folder", "working_dir"),
    ({"model__output_model_file_prefix": "x" * 201}, "output_model_file_prefix", "201 bytes", "at most 200"),
    ({"input__input_batch": "'2;3'"}, "input_batch", "not a whole number", "digits"),
    ({"calibration__run_on_cpu": "*conv"}, "run_on_cpu", "not valid YAML", "in quotes"),
    ({"model__layer_out_dump": "maybe"}, "layer_out_dump", "neither True nor False", "True or False"),
    ({"model__node_info": "{a: {ON: GPU}}"}, "node_info", "a: 'GPU' is not one of BPU, CPU", "Use one of BPU"),
    ({"model__node_info": "{a: {InputType: int4}}"}, "node_info", "not one of int8, int16", "int"),
    (
        {"model__node_info": "{a: {OutputType0: int16}}"},
        "node_info",
        "OutputType covers all outputs",
        "Write OutputType.",
    ),
    ({"model__node_info": "'a:int16;b'"}, "node_info", "'b' names no type", "node:int16"),
    ({"input__input_type_rt": None}, "input_parameters", "mandatory and missing", "input_type_rt"),
    ({"input__input_type_train": "''"}, "input_type_train", "mandatory and empty", "input_type_train"),
    ({"input__input_type_rt": "nv21"}, "input_type_rt", "'nv21' is not one of", "Did you mean 'nv12'?"),
    ({"input__input_layout_train": "''"}, "input_layout_train", "mandatory for rgb", "NCHW or NHWC"),
    (
        {"input__input_layout_train": "''", "input__input_shape": "1x64x64x3"},
        "input_layout_train",
        "mandatory for rgb",
        "'NHWC'",
    ),
    (
        {"input__input_type_rt": "gray"},
        "input_type_rt",
        "rgb → gray is not a legal pair",
        "nv12 or yuv444 or rgb or bgr",
    ),
    ({"input__input_type_train": "gray"}, "input_type_rt", "gray → nv12", "input_type_rt is gray"),
    ({"input__input_type_train": "yuv444", "input__input_type_rt": "rgb"}, "input_type_rt", "yuv444 → rgb", "nv12"),
    ({"input__input_type_rt": "nv12;nv12"}, "input_type_train", "1 part for 2 inputs", "2 parts"),
    ({"input__input_name": "a", "input__input_type_rt": "nv12;nv12"}, "input_type_rt", "2 parts for 1 input", "Give 1"),
    ({"input__scale_value": "0.1;0.2;0.3"}, "scale_value", "3 parts for 1 input", "separated by blanks"),
    (
        {
            "input__input_name": "a;a",
            "input__input_type_rt": "nv12;nv12",
            "input__input_type_train": "rgb;rgb",
            "input__input_layout_train": "NCHW;NCHW",
            "input__norm_type": "no_preprocess",
            "input__scale_value": None,
            "calibration__cal_data_dir": "a;b",
            "calibration__cal_data_type": None,
        },
        "input_name",
        "'a' is listed twice",
        "once",
    ),
    ({"input__input_shape": "1x3x?x4"}, "input_shape", "not a shape", "1x3x224x224"),
    ({"input__input_shape": "-1x3x4x4"}, "input_shape", "leaves the dimension -1 open", "fixed size"),
    ({"input__input_shape": "1x3x@SIZE@x4"}, "input_shape", "placeholder @SIZE@", "Fill in"),
    (
        {"input__input_shape": "1x3x225x224"},
        "input_type_rt",
        "nv12 needs even sizes; the input is 225x224",
        "even height",
    ),
    (
        {"input__input_shape": "1x3x64x63", "input__input_type_rt": "yuv444"},
        "input_type_rt",
        "even sizes",
        "rgb or bgr",
    ),
    ({"input__input_shape": "1x4x64x64"}, "input_type_train", "rgb has 3 channels, the input 4", "input_layout_train"),
    ({"input__input_shape": "1x3"}, "input_type_train", "rgb needs a 4-D input; 1x3 has 2 dimensions", "featuremap"),
    (
        {"input__input_space_and_range": "bt601_video", "input__input_type_rt": "rgb"},
        "input_space_and_range",
        "only for input_type_rt nv12, not rgb",
        "regular",
    ),
    ({"input__scale_value": "'a b c'"}, "scale_value", "'a' is not a number", "Write a number"),
    ({"input__scale_value": "'1 2'"}, "scale_value", "2 values for 3 channels", "one per channel"),
    ({"input__scale_value": "0"}, "scale_value", "erases the input", "other than 0"),
    ({"input__scale_value": None}, "input_parameters", "norm_type data_scale needs scale_value", "no_preprocess"),
    ({"input__norm_type": "data_mean_and_scale"}, "input_parameters", "needs mean_value", "Add mean_value"),
    ({"input__std_value": "57"}, "std_value", "exclusive with scale_value", "Keep one"),
    ({"input__norm_type": "data_mea"}, "norm_type", "not one of", "Did you mean 'data_mean'?"),
    ({"input__input_batch": "0"}, "input_batch", "0 is below 1", "1 or more"),
    ({"input__input_batch": "5000"}, "input_batch", "outside 1..4096", "smaller"),
    ({"input__input_batch": "8", "input__input_shape": "2x3x8x8"}, "input_batch", "needs batch 1", "Write 1"),
    (
        {"model__march": "bernoulli2", "input__input_batch": "129"},
        "input_batch",
        "129 is outside 1..128 of bernoulli2",
        "smaller",
    ),
    (
        {"model__march": "nash-e", "input__separate_batch": "True", "input__separate_name": "a"},
        "separate_name",
        "exclusive",
        "Keep one",
    ),
    (
        {"model__march": "bernoulli2", "input__input_type_rt": "yuv444", "input__input_layout_rt": "NCHW"},
        "input_layout_rt",
        "bernoulli2 has no yuv444 in NCHW",
        "'NHWC'",
    ),
    ({"calibration__cal_data_dir": None}, "calibration_parameters", "needs samples, and none are named", "'skip'"),
    ({"calibration__cal_data_dir": "''"}, "cal_data_dir", "needs samples", "'skip'"),
    ({"calibration__calibration_type": "kll"}, "calibration_type", "not one of", "Use one of default, mix, kl"),
    ({"calibration__cal_data_type": "float31"}, "cal_data_type", "not one of", "Did you mean 'float32'?"),
    ({"calibration__max_percentile": "1.5"}, "max_percentile", "outside 0..1", "0..1"),
    (
        {"calibration__calibration_type": "max", "calibration__max_percentile": "0.4"},
        "max_percentile",
        "outside 0.5..1",
        "0.9999",
    ),
    ({"calibration__run_on_cpu": "a;b", "calibration__run_on_bpu": "b"}, "run_on_bpu", "also in run_on_cpu", "one of"),
    ({"calibration__optimization": "set_model_output_int8;set_model_output_int16"}, "optimization", "exclude", "Keep"),
    ({"calibration__quant_config": "missing.json"}, "quant_config", "cannot read the file", "existing JSON"),
    (
        {"calibration__quant_config": "{op_config: {Conv: {qtype: int3}}}"},
        "quant_config",
        "qtype: 'int3' is not one of",
        "Did you mean",
    ),
    (
        {"calibration__quant_config": "{model_config: {activation: {max_num_bin: 200}}}"},
        "quant_config",
        "200 is below 258",
        "258",
    ),
    ({"compiler__compile_mode": "balance"}, "compile_mode", "balance needs balance_factor", "0 (bandwidth)"),
    (
        {"compiler__compile_mode": "balance", "compiler__balance_factor": "101"},
        "balance_factor",
        "101 is outside 0..100",
        "0..100",
    ),
    ({"model__march": "bernoulli2", "compiler__compile_mode": "balance"}, "compile_mode", "has no balance", "latency"),
    ({"compiler__core_num": "2"}, "core_num", "2 cores are not offered on bayes-e", "Use 1."),
    ({"model__march": "bayes", "compiler__core_num": "2"}, "core_num", "not offered on bayes", "Use 1."),
    ({"model__march": "bernoulli2", "compiler__core_num": "3"}, "core_num", "3 cores", "1..2"),
    ({"compiler__core_num": "9"}, "core_num", "9 is outside 1..4", "1..4"),
    ({"model__march": "nash-e", "compiler__optimize_level": "O3"}, "optimize_level", "nash-e has no O3", "O2"),
    ({"compiler__optimize_level": "O4"}, "optimize_level", "not one of O0, O1, O2, O3", "O"),
    ({"compiler__max_time_per_fc": "10"}, "max_time_per_fc", "10 is outside 1000..4294967295", "0 (no limit)"),
    ({"model__march": "nash-e", "compiler__max_time_per_fc": "20000000"}, "max_time_per_fc", "10000000", "0 (no"),
    ({"compiler__jobs": "many"}, "jobs", "not a whole number", "digits"),
    ({"compiler__jobs": "-1"}, "jobs", "-1 is below 0", "0 or more"),
    ({"compiler__input_source": "{data: tape}"}, "input_source", "data: 'tape' is not one of", "ddr"),
    (
        {"compiler__input_source": "{data: resizer}", "model__layer_out_dump": "True"},
        "input_source",
        "resizer does not go together with layer_out_dump",
        "pyramid",
    ),
]


@pytest.mark.parametrize(("changes", "key", "message", "hint"), REFUSALS, ids=lambda value: str(value)[:40])
def test_refusal_names_line_cause_and_way_out(changes: R, key: str, message: str, hint: str) -> None:
    text = config_text(**changes)
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="c.yaml")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.where == f"c.yaml:{line_of(text, key)}"
    assert caught.value.exit_code == 2


SYNTAX: list[tuple[str, int, str]] = [
    ("", 0, "the configuration is empty"),
    ("# only a comment\n", 0, "empty"),
    ("- a\n- b\n", 1, "not a mapping of sections"),
    ("just text\n", 1, "not a mapping"),
    ("model_parameters:\n  march:'bayes-e'\n", 2, "instead of keys"),
    ("model_parameters:\n  march: 'bayes-e'\n   onnx_model: 'a'\n", 3, "not valid YAML"),
    ("model_parameters:\n  march: 'bayes-e\n  onnx_model: 'a.onnx'\n", 2, "a quote opened on this line"),
    ("model_parameters:\n  march: 'bayes-e\n  onnx_model: a.onnx\n", 2, "never closed"),
    ("model_parameters:\n  march: @MARCH@\n", 2, "placeholder @MARCH@"),
    ("model_parameters:\n```yaml\n", 2, "not valid YAML"),
    ("model_parameters: {}\n---\nmodel_parameters: {}\n", 2, "not valid YAML"),
    ("model_parameters:\n  march: \x07\n", 2, "control character"),
    ("model_parameters:\n  march: !!python/object:os.system x\n  onnx_model: [\n", 4, "not valid YAML"),
    ("model_parameters:\n  [a, b]: c\n", 2, "a key is a list"),
]


@pytest.mark.parametrize(("text", "line", "message"), SYNTAX, ids=lambda value: repr(value)[:30])
def test_broken_yaml_names_the_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="c.yaml")
    assert message in caught.value.message
    assert caught.value.where == (f"c.yaml:{line}" if line else "c.yaml")
    assert caught.value.hint


def test_multiplying_aliases_are_stopped() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(ConfigError, match="expands to more than"):
        parse_config("\n".join(rows), file="c.yaml")


def test_recursive_aliases_are_stopped() -> None:
    with pytest.raises(ConfigError):
        parse_config("a: &a\n  b: *a\n", file="c.yaml")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path)
    binary = tmp_path / "model.onnx"
    binary.write_bytes(b"\x08\x00\x12\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text"):
        load_config(binary)

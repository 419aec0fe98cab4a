"""What is read in spite of its spelling, and what is said about it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from config_samples import config_text, line_of

from hbtool.config import LoadedConfig, load_config, parse_config
from hbtool.errors import ConfigError

Load = Callable[..., LoadedConfig]
STRICT = [
    ({"model__onxx_model": "a"}, "onxx_model", "Did you mean 'onnx_model'?"),
    ({"compiler__optimise_level": "O3"}, "optimise_level", "Did you mean 'optimize_level'?"),
    ({"model__calibration_type": "max"}, "calibration_type", "belongs in calibration_parameters"),
    ({"model__cal_data_dir": "x"}, "cal_data_dir", "cal_data_dir on line"),
    ({"model__output_nodes": "{OP_name}"}, "output_nodes", "placeholder {OP_name}"),
    ({"model__onnx_model": "'***.onnx'"}, "onnx_model", "placeholder"),
    ({"model__remove_node_type": "Quantise;Cast"}, "remove_node_type", "'Quantise' does not exist"),
    ({"model__node_info": "{a: {OutputTpe: int16}}"}, "node_info", "Did you mean 'OutputType'?"),
    ({"calibration__optimization": "asymetric"}, "optimization", "Did you mean 'asymmetric'?"),
    ({"calibration__quant_config": "{model_cfg: {}}"}, "quant_config", "Did you mean 'model_config'?"),
]


@pytest.mark.parametrize(("changes", "key", "message"), STRICT, ids=lambda value: str(value)[:40])
def test_loud_notes_are_errors_when_strict(load: Load, changes: dict[str, str], key: str, message: str) -> None:
    notes = [note for note in load(**changes).warnings if note.loud]
    assert any(message in note.message for note in notes)
    line = line_of(config_text(**changes), key)
    assert {note.line for note in notes} == {line}
    assert all(note.column >= 3 for note in notes)
    with pytest.raises(ConfigError) as caught:
        load(strict=True, **changes)
    assert caught.value.where == f"c.yaml:{line}"


@pytest.mark.parametrize(
    ("changes", "section", "key", "value"),
    [
        ({"model__onnx_model": "'net.onnx;'"}, "model_parameters", "onnx_model", "net.onnx"),
        ({"model__march": "'bayes-e;'"}, "model_parameters", "march", "bayes-e"),
        ({"model__march": "Journey 5"}, "model_parameters", "march", "bayes"),
        ({"model__march": "RDK S600"}, "model_parameters", "march", "nash-p"),
        ({"compiler__debug": "'True;'"}, "compiler_parameters", "debug", True),
        ({"compiler__jobs": "'4;'"}, "compiler_parameters", "jobs", 4),
        ({"input__input_shape": "'1x3x8x8,'"}, "input_parameters", "input_shape", ((1, 3, 8, 8),)),
        ({"model__onnx_model": "'${ONNX}'"}, "model_parameters", "onnx_model", "${ONNX}"),
        ({"model__onnx_model": "$WORK/net.onnx"}, "model_parameters", "onnx_model", "$WORK/net.onnx"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_a_person_reads(load: Load, changes: dict[str, str], section: str, key: str, value: object) -> None:
    assert getattr(getattr(load(**changes), section), key) == value


def test_a_placeholder_for_the_model_is_loud(load: Load) -> None:
    (note,) = [note for note in load(model__onnx_model="'${ONNX}'").warnings if note.loud]
    assert "'${ONNX}' is a placeholder" in note.message


def test_node_info_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "nodes.json").write_text('{"conv1": {"ON": "BPU", "InputType": "int16"}}', encoding="utf-8")
    text = config_text(model__node_info="./nodes.json")
    (setting,) = parse_config(text, folder=tmp_path).model_parameters.node_info
    assert (setting.node, setting.device, setting.input_type) == ("conv1", "BPU", "int16")
    with pytest.raises(ConfigError, match=r"node_info: cannot read the file './none.json'"):
        parse_config(config_text(model__node_info="./none.json"), folder=tmp_path)


def test_a_plain_file_has_no_notes(load: Load) -> None:
    assert load().warnings == ()
    assert load(strict=True).config == load().config


def test_duplicates_name_both_lines_and_the_last_counts() -> None:
    text = config_text() + "  compile_mode: bandwidth\n"
    loaded = parse_config(text, file="c.yaml")
    (note,) = loaded.warnings
    assert loaded.compiler_parameters.compile_mode == "bandwidth"
    assert "line 14" in note.message
    assert "line 15" in note.message
    with pytest.raises(ConfigError):
        parse_config(text, strict=True)


def test_a_repeated_section_replaces_the_first() -> None:
    loaded = parse_config(config_text() + "compiler_parameters:\n  jobs: 3\n", file="c.yaml")
    assert loaded.compiler_parameters.jobs == 3
    assert [note.kind for note in loaded.warnings] == ["duplicate"]


SPELLINGS = [
    ({"model__march": "X5"}, "model_parameters", "march", "bayes-e"),
    ({"model__march": "'Bayes_E'"}, "model_parameters", "march", "bayes-e"),
    ({"input__input_type_rt": "NV12"}, "input_parameters", "input_type_rt", ("nv12",)),
    ({"input__input_layout_train": "nchw"}, "input_parameters", "input_layout_train", ("NCHW",)),
    ({"calibration__cal_data_type": "float"}, "calibration_parameters", "cal_data_type", ("float32",)),
    ({"calibration__calibration_type": "KL"}, "calibration_parameters", "calibration_type", "kl"),
    ({"compiler__optimize_level": "3"}, "compiler_parameters", "optimize_level", "O3"),
    ({"compiler__Core-Num": "1"}, "compiler_parameters", "core_num", 1),
]


@pytest.mark.parametrize(("changes", "section", "key", "value"), SPELLINGS, ids=lambda value: str(value)[:30])
def test_other_spellings_are_read_with_a_note(
    load: Load, changes: dict[str, str], section: str, key: str, value: object
) -> None:
    loaded = load(strict=True, **changes)
    assert getattr(getattr(loaded, section), key) == value
    assert [note.kind for note in loaded.warnings] == ["alias"]


@pytest.mark.parametrize("text", ["True", "'True'", "yes", "ON", "1", "true"])
def test_booleans_in_text(load: Load, text: str) -> None:
    assert load(model__layer_out_dump=text).model_parameters.layer_out_dump is True


@pytest.mark.parametrize("text", ["", "''", "None", "~", "null", "'None'"])
def test_nothing_is_the_default(load: Load, text: str) -> None:
    loaded = load(compiler__core_num=text, input__mean_value=text, input__input_name=text, model__output_nodes=text)
    assert loaded.compiler_parameters.core_num == 1
    assert loaded.input_parameters.mean_value == ()
    assert loaded.input_parameters.input_name == ()
    assert loaded.model_parameters.output_nodes == ()


@pytest.mark.parametrize(
    "text",
    ["'123.675 116.28 103.53'", "123.675,116.28, 103.53", "[123.675, 116.28, 103.53]", "['123.675 116.28 103.53']"],
)
def test_channel_values_in_every_notation(load: Load, text: str) -> None:
    loaded = load(input__mean_value=text, input__norm_type="data_mean_and_scale")
    assert loaded.input_parameters.mean_value == ((123.675, 116.28, 103.53),)


@pytest.mark.parametrize("text", ["1x3x64x64", "'1,3,64,64'", "[1, 3, 64, 64]", "['1x3x64x64']", "1X3X64X64"])
def test_shapes_in_every_notation(load: Load, text: str) -> None:
    assert load(input__input_shape=text).input_parameters.input_shape == ((1, 3, 64, 64),)


def test_node_info_forms(load: Load) -> None:
    as_dict = load(model__node_info="{a: {ON: BPU, InputType1: int16, OutputType: int16}, 'b:0': {'ON': 'CPU'}}")
    first, second = as_dict.model_parameters.node_info
    assert (first.device, first.input_dtype(0), first.input_dtype(1), first.output_type) == (
        "BPU",
        None,
        "int16",
        "int16",
    )
    assert (second.node, second.device) == ("b:0", "CPU")
    as_text = load(model__node_info="'a:int16; b:0:int8'").model_parameters.node_info
    assert [(setting.node, setting.output_type) for setting in as_text] == [("a", "int16"), ("b:0", "int8")]
    quoted = load(model__node_info="\"{'a': {'ON': 'BPU'}}\"").model_parameters.node_info
    assert quoted[0].device == "BPU"


def test_set_node_data_type_joins_node_info_which_wins(load: Load) -> None:
    loaded = load(model__set_node_data_type="a:int16;b:int16", model__node_info="{a: {ON: CPU}}")
    assert {s.node: (s.device, s.output_type) for s in loaded.model_parameters.node_info} == {
        "a": ("CPU", None),
        "b": (None, "int16"),
    }


def test_keys_without_effect_say_so_and_never_fail(load: Load) -> None:
    loaded = load(
        strict=True, model__log_level="[1, 2]", model__enable_vpu="perhaps", compiler__ability_entry="{a: 1}",
        custom_op__custom_op_method="register", model__march="nash-e",
        input__input_layout_rt="anything",
    )  # fmt: skip
    assert len(loaded.warnings) == 5
    assert all("has no effect" in note.message for note in loaded.warnings)


def test_bernoulli2_drops_what_it_has_not(load: Load) -> None:
    loaded = load(
        model__march="bernoulli2", model__node_info="{a: {ON: CPU}}",
        calibration__optimization="set_model_output_int8,asymmetric,set_Softmax_input_int8",
    )  # fmt: skip
    assert loaded.model_parameters.node_info == ()
    assert loaded.calibration_parameters.optimization.flags == ("set_model_output_int8",)
    assert [note.kind for note in loaded.warnings] == ["ignored", "ignored", "ignored"]


def test_nash_without_samples_skips_calibration(load: Load) -> None:
    loaded = load(model__march="nash-e", calibration__cal_data_dir=None, calibration__cal_data_type=None)
    assert loaded.calibration_parameters.calibration_type == "skip"


def test_defaults() -> None:
    text = config_text(calibration__cal_data_type=None, compiler__compile_mode=None)
    loaded = parse_config(text)
    assert loaded.compiler_parameters.optimize_level == "O2"
    assert loaded.compiler_parameters.compile_mode == "latency"
    assert loaded.compiler_parameters.debug is True
    assert loaded.calibration_parameters.calibration_type == "default"
    assert loaded.model_parameters.output_model_file_prefix == "model"


def test_percentile_has_a_default_of_its_own(load: Load) -> None:
    assert load(calibration__calibration_type="percentile").calibration_parameters.max_percentile == 0.99995
    assert load(calibration__calibration_type="mse").calibration_parameters.max_percentile == 1.0


def test_march_may_be_a_target_file(load: Load) -> None:
    loaded = load(model__march="./my/target.yaml", compiler__core_num="4")
    assert loaded.config.march == "./my/target.yaml"


def test_balance_factor_rules(load: Load) -> None:
    assert load(compiler__balance_factor="5").compiler_parameters.balance_factor is None
    assert (
        load(compiler__compile_mode="balance", compiler__balance_factor="'30'").compiler_parameters.balance_factor == 30
    )
    assert load(model__march="nash-m", compiler__compile_mode="balance").compiler_parameters.balance_factor == 0


def test_quant_config_in_a_file_and_inline(tmp_path: Path) -> None:
    quant = '{"model_config": {"all_node_type": "int16", "activation": {"calibration_type": ["max", "kl"]}},'
    quant += ' "node_config": {"n": {"qtype": "int8", "input1": "int16"}}}'
    (tmp_path / "q.json").write_text(quant)
    texts = [config_text(calibration__quant_config=value) for value in ("q.json", quant)]
    first, second = (parse_config(text, folder=tmp_path).calibration_parameters.quant_config for text in texts)
    assert first == second
    assert first is not None
    assert first.whole_model.activation.calibration_type == ("max", "kl")
    assert first.node_config[0].input_types == ((1, "int16"),)


def test_the_likely_slips_of_normalisation_are_named(load: Load) -> None:
    loaded = load(input__norm_type=None, input__mean_value="0.485 0.456 0.406", input__scale_value="58.4 57.1 57.4")
    text = " ".join(note.message for note in loaded.warnings)
    assert "looks like 0..1 units" in text
    assert "looks like a divisor" in text
    assert "read as data_mean_and_scale" in text


def test_bytes_of_every_kind(tmp_path: Path) -> None:
    text = config_text().replace("model_parameters:", "# 模型参数组\nmodel_parameters:", 1)
    expected = parse_config(text).config
    path = tmp_path / "c.yaml"
    for encoding in ("utf-8", "utf-8-sig", "gb18030", "utf-16"):
        path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        assert load_config(path).config == expected, encoding


def test_tabs_between_and_before_tokens() -> None:
    expected = parse_config(config_text()).config
    spaced = config_text().replace(": ", ":\t").replace("\n  ", "\t\n\n\t\n  ")
    assert parse_config(spaced).config == expected
    for indent in ("\t", "\t\t", "  \t"):
        tabbed = config_text().replace("\n  ", "\n" + indent)
        loaded = parse_config(tabbed)
        assert loaded.config == expected
        assert [note.line for note in loaded.warnings] == [2]


def test_full_width_signs_and_blanks(load: Load) -> None:
    text = config_text(calibration__run_on_cpu="'a；b'").replace("  march", "\u00a0 march")
    loaded = parse_config(text)
    assert loaded.calibration_parameters.run_on_cpu == ("a", "b")
    assert loaded.config.march == "bayes-e"


def test_keys_at_the_top_level_find_their_section() -> None:
    text = "".join(line.strip() + "\n" for line in config_text().splitlines())
    loaded = parse_config(text)
    assert loaded.config == parse_config(config_text()).config
    assert {note.kind for note in loaded.warnings if note.loud} == {"misplaced"}


def test_merge_keys_and_aliases() -> None:
    text = config_text().replace("compiler_parameters:", "compiler_parameters:\n  <<: {jobs: 2, debug: false}")
    loaded = parse_config(text.replace("'latency'", "&m latency"))
    assert loaded.compiler_parameters.jobs == 2
    assert loaded.compiler_parameters.debug is False


def test_importing_the_configuration_is_cheap() -> None:
    code = "import sys, hbtool.config; print(sorted({'onnx', 'torch', 'numpy', 'onnx_ir'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_quant_config_that_asks_for_nothing_is_none(load: Load) -> None:
    for text in ("{}", "{model_config: {}}", "{model_config: {activation: {calibration_type: }}}"):
        assert load(calibration__quant_config=text).calibration_parameters.quant_config is None


def test_errors_about_an_absent_section_still_name_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("model_parameters: {onnx_model: a.onnx, march: bayes-e}\n", file="c.yaml")
    assert caught.value.where == "c.yaml:1"

"""The configuration against the model: inputs, node names, refused types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from config_samples import config_text, line_of

from hbtool.config import (
    LoadedConfig,
    ModelCheck,
    ModelFacts,
    ModelInput,
    NodeFact,
    check_against_model,
    check_files,
    inputs_table,
    parse_config,
    resolve_paths,
)
from hbtool.errors import ConfigError, ModelError

Load = Callable[..., LoadedConfig]
IMAGE = ModelInput("images", (1, 3, 64, 96))
SPEED = ModelInput("speed", (1, 8))
NODES = (
    NodeFact("Conv_0", "Conv", "backbone.conv", ("c0",)),
    NodeFact("/attn/MatMul", "MatMul", "attn.matmul", ("m0",)),
    NodeFact("/attn/Softmax", "Softmax", "attn.softmax", ("s0",)),
    NodeFact("Relu_9", "Relu", None, ("out",)),
)
FACTS = ModelFacts((IMAGE,), ("out",), NODES)
TWO: dict[str, str | None] = {
    "input__input_name": "speed; images",
    "input__input_type_rt": "featuremap; nv12",
    "input__input_type_train": "featuremap; rgb",
    "input__input_layout_train": "NCHW; NCHW",
    "input__norm_type": "no_preprocess; data_mean_and_scale",
    "input__mean_value": "None; 123.7 116.3 103.5",
    "input__scale_value": "None; 0.017",
    "calibration__cal_data_dir": "./speed_f32; ./img_f32",
    "calibration__cal_data_type": "float32; float32",
}


def test_one_image_input(load: Load) -> None:
    loaded = parse_config(config_text(), folder=Path("/data"))
    (entry,) = loaded.resolve_inputs([IMAGE])
    assert entry.name == "images"
    assert (entry.shape, entry.channels, entry.height_width) == ((1, 3, 64, 96), 3, (64, 96))
    assert (entry.type_rt, entry.type_train, entry.layout_train, entry.layout_rt) == ("nv12", "rgb", "NCHW", "NHWC")
    assert (entry.norm_type, entry.mean, entry.scale, entry.std) == ("data_scale", None, (0.0039,), None)
    assert entry.cal_data_dir == Path("/data/cal_f32")
    assert (entry.cal_data_type, entry.source, entry.space_and_range) == ("float32", "pyramid", "regular")


def test_several_inputs_follow_input_name_and_come_in_the_models_order(load: Load) -> None:
    image, speed = load(**TWO).resolve_inputs([IMAGE, SPEED])
    assert (image.name, image.mean, image.scale) == ("images", (123.7, 116.3, 103.5), (0.017,))
    assert (speed.name, speed.type_rt, speed.mean, speed.source) == ("speed", "featuremap", None, "ddr")
    assert image.cal_data_dir is not None
    assert image.cal_data_dir.name == "img_f32"
    rows = inputs_table((image, speed))
    assert [row["input"] for row in rows] == ["images", "speed"]
    assert rows[0]["mean"] == "123.7 116.3 103.5"


def test_input_shape_closes_open_dimensions(load: Load) -> None:
    model = ModelInput("images", ("batch", 3, None, -1))
    (entry,) = load(input__input_shape="1x3x32x32").resolve_inputs([model])
    assert entry.shape == (1, 3, 32, 32)


def test_sample_type_by_folder_name(load: Load) -> None:
    def data_type(**changes: str | None) -> str:
        return load(**{"calibration__cal_data_type": None, **changes}).resolve_inputs([IMAGE])[0].cal_data_type

    assert data_type() == "float32"
    assert data_type(calibration__cal_data_dir="./pictures") == "uint8"
    assert data_type(calibration__cal_data_dir="./pictures", model__march="nash-e") == "float32"


def test_folder_and_key_that_contradict(load: Load) -> None:
    loaded = load(calibration__cal_data_type="uint8")
    check = check_against_model(loaded, FACTS)
    assert check.inputs[0].cal_data_type == "uint8"
    assert any("contradicts the folder's name './cal_f32'" in note.message for note in check.warnings)


@pytest.mark.parametrize(
    ("changes", "norm", "values"),
    [
        ({}, "data_scale", (None, (0.0039,), None)),
        ({"input__norm_type": None}, "data_scale", (None, (0.0039,), None)),
        ({"input__norm_type": "no_preprocess"}, "no_preprocess", (None, None, None)),
        ({"input__norm_type": "no_preprocess", "model__march": "nash-e"}, "data_scale", (None, (0.0039,), None)),
        (
            {
                "input__norm_type": None,
                "input__scale_value": None,
                "input__std_value": "57",
                "input__mean_value": "1 2 3",
            },
            "data_mean_and_std",
            ((1.0, 2.0, 3.0), None, (57.0,)),
        ),
    ],
)
def test_which_values_count(load: Load, changes: dict[str, str | None], norm: str, values: tuple[object, ...]) -> None:
    (entry,) = load(**changes).resolve_inputs([IMAGE])
    assert entry.norm_type == norm
    assert (entry.mean, entry.scale, entry.std) == values


Refusal = tuple[dict[str, str | None], tuple[ModelInput, ...], str, str, str]
FEATURE: dict[str, str | None] = {"input__input_type_rt": "featuremap", "input__input_type_train": "featuremap"}
REFUSED: list[Refusal] = [
    ({"input__input_name": "image"}, (IMAGE,), "input_name", "no input 'image'", "Did you mean 'images'?"),
    ({"input__input_name": "images"}, (IMAGE, SPEED), "input_name", "speed missing", "'images; speed'"),
    ({}, (IMAGE, SPEED), "input_parameters", "mandatory, since the model has 2 inputs", "'images; speed'"),
    (
        {},
        (ModelInput("x", ("N", 3, None, 64)),),
        "input_parameters",
        "leaves dimension 0 (N), 2 of 'x' open",
        "'1x3x224x64'",
    ),
    (
        {"input__input_shape": "1x3x32x32"},
        (IMAGE,),
        "input_shape",
        "1x3x32x32 does not fit the model's 1x3x64x96",
        "remove",
    ),
    (
        {},
        (ModelInput("x", (1, 3, 65, 64)),),
        "input_type_rt",
        "nv12 needs even sizes; the input is 65x64",
        "even height",
    ),
    (
        {},
        (ModelInput("x", (1, 64, 64, 3)),),
        "input_type_train",
        "rgb has 3 channels, the input 64",
        "input_layout_train",
    ),
    ({}, (ModelInput("x", (1, 3)),), "input_type_train", "needs a 4-D input", "featuremap"),
    (FEATURE, (ModelInput("x", (1, 3)),), "norm_type", "of 2 dimensions takes no_preprocess", "no_preprocess"),
    (FEATURE | {"model__march": "nash-e"}, (IMAGE,), "norm_type", "takes no mean, scale or std on nash", "before"),
    (
        FEATURE | {"model__march": "bernoulli2", "input__norm_type": "no_preprocess", "input__scale_value": None},
        (ModelInput("x", (1, 3)),),
        "input_parameters",
        "bernoulli2 takes 4-D inputs only; 1x3 has 2",
        "bayes-e",
    ),
    ({"input__scale_value": "1 2"}, (IMAGE,), "scale_value", "2 values for 3 channels", "one per channel"),
    (
        {"input__input_batch": "4"},
        (ModelInput("x", (8, 3, 64, 64)),),
        "input_batch",
        "needs a model with batch 1",
        "Export",
    ),
    ({"compiler__input_source": "{images: ddr}"}, (IMAGE,), "input_source", "nv12 comes from pyramid", "pyramid"),
    (
        {"compiler__input_source": "{images: pyramid}", "input__input_type_rt": "rgb"},
        (IMAGE,),
        "input_source",
        "pyramid is for nv12 and gray, not rgb",
        "ddr",
    ),
    (
        {"compiler__input_source": "{images: resizer}"},
        (ModelInput("images", (1, 3, 144, 128)),),
        "input_source",
        "144x128 has 18432",
        "pyramid",
    ),
    (
        FEATURE | {"calibration__preprocess_on": "True", "input__norm_type": "no_preprocess"},
        (IMAGE,),
        "preprocess_on",
        "4-D image inputs only",
        "False",
    ),
    (TWO | {"calibration__cal_data_dir": "./a; None"}, (IMAGE, SPEED), "cal_data_dir", "no folder is named", "';'"),
]


@pytest.mark.parametrize(("changes", "inputs", "key", "message", "hint"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_does_not_fit_the_model(
    changes: dict[str, str | None], inputs: tuple[ModelInput, ...], key: str, message: str, hint: str
) -> None:
    text = config_text(**changes)
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="c.yaml").resolve_inputs(inputs)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.where == f"c.yaml:{line_of(text, key)}"


def check(load: Load, facts: ModelFacts = FACTS, **changes: str | None) -> ModelCheck:
    return check_against_model(load(**changes), facts)


def test_node_names_by_name_tensor_module_path_and_glob(load: Load) -> None:
    found = check(
        load,
        model__output_nodes="s0",
        model__remove_node_name="backbone.conv",
        model__node_info="{Relu_9: {InputType: int16}, '/attn/*': {OutputType: int16}, '/attn/Softmax': {ON: BPU}}",
        calibration__run_on_cpu="Relu*;attn.softmax",
    )
    assert found.output_nodes == ("/attn/Softmax",)
    assert found.remove_node_name == ("Conv_0",)
    softmax = found.node_settings["/attn/Softmax"]
    assert (softmax.device, softmax.output_type) == ("BPU", "int16")
    assert found.node_settings["/attn/MatMul"].output_type == "int16"
    relu = found.node_settings["Relu_9"]
    assert (relu.device, relu.input_type) == ("CPU", "int16")
    assert found.warnings == ()


@pytest.mark.parametrize("key", ["model__output_nodes", "model__remove_node_name", "calibration__run_on_cpu"])
def test_names_that_match_nothing_are_loud(load: Load, key: str) -> None:
    (note,) = check(load, **{key: "/attn/softmax_1"}).warnings
    assert note.loud
    assert "'/attn/Softmax'" in note.message
    assert note.line == line_of(config_text(**{key: "x"}), key.partition("__")[2])
    with pytest.raises(ConfigError, match="no node of the model is called"):
        check_against_model(load(strict=True, **{key: "/attn/softmax_1"}), FACTS)


def test_op_types_that_the_model_has_not(load: Load) -> None:
    (note,) = check(load, calibration__optimization="set_softmax_input_int8").warnings
    assert note.loud
    assert "no softmax node" in note.message
    assert "'Softmax'" in note.message


@pytest.mark.parametrize(
    "changes",
    [
        {"model__node_info": "{/attn/MatMul: {InputType: int16}}"},
        {"model__node_info": "{/attn/MatMul: {InputType1: int16}}"},
        {"calibration__optimization": "set_MatMul_input_int16"},
        {"calibration__optimization": "set_all_nodes_int16"},
    ],
)
def test_int16_that_matmul_cannot_have_is_listed(load: Load, changes: dict[str, str | None]) -> None:
    found = check(load, **changes)
    assert [(entry.node, entry.slot) for entry in found.refused] == [("/attn/MatMul", "InputType1")]
    assert "falls back to int8" in found.warnings[0].message
    assert check(load, **changes, model__march="bayes").refused == ()


def test_int16_on_the_first_matmul_input_is_fine(load: Load) -> None:
    assert check(load, model__node_info="{/attn/MatMul: {InputType0: int16}}").refused == ()


def test_run_on_bpu_on_bernoulli2(load: Load) -> None:
    found = check(load, model__march="bernoulli2", calibration__run_on_bpu="Relu_9;/attn/Softmax")
    assert found.node_settings["Relu_9"].device == "BPU"
    with pytest.raises(ConfigError, match="'Conv_0' is a Conv, which bernoulli2 cannot be asked"):
        check(load, model__march="bernoulli2", calibration__run_on_bpu="Conv_0")


def test_too_many_outputs(load: Load) -> None:
    many = ModelFacts((IMAGE,), tuple(f"o{n}" for n in range(33)), NODES)
    with pytest.raises(ConfigError, match="33 outputs; an artifact has at most 32") as caught:
        check(load, many)
    assert caught.value.where == "c.yaml:2"
    assert check(load, many, model__output_nodes="Conv_0").output_nodes == ("Conv_0",)


def test_a_model_without_convolution(load: Load) -> None:
    with pytest.raises(ModelError, match="no convolution and no matrix product") as caught:
        check(load, ModelFacts((IMAGE,), ("out",), NODES[2:]))
    assert caught.value.where == "c.yaml:2"


def test_paths_count_from_the_folder_of_the_file(tmp_path: Path) -> None:
    loaded = parse_config(config_text(compiler__cache_mode="enable"), file="c.yaml", folder=tmp_path)
    paths = resolve_paths(loaded)
    assert paths.onnx_model == tmp_path / "net.onnx"
    assert paths.cal_data_dirs == (tmp_path / "cal_f32",)
    assert paths.cache_dir == tmp_path / "model_output" / "cache"
    with pytest.raises(ConfigError, match="onnx_model: the file") as caught:
        check_files(loaded)
    assert caught.value.where == "c.yaml:2"
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ConfigError, match="cal_data_dir: the folder"):
        check_files(loaded)
    (tmp_path / "cal_f32").mkdir()
    assert check_files(loaded) == paths


def test_a_source_for_an_input_that_is_none_is_loud_and_an_error_with_strict(load: Load) -> None:
    changes = {"compiler__input_source": "{imges: pyramid}"}
    found = check_against_model(load(**changes), FACTS)
    assert found.inputs[0].source == "pyramid"
    (note,) = [note for note in found.warnings if note.loud]
    assert "no input 'imges'; it has no effect. Did you mean 'images'?" in note.message
    with pytest.raises(ConfigError, match="imges"):
        check_against_model(load(strict=True, **changes), FACTS)


def test_an_empty_last_part_says_nothing(load: Load) -> None:
    assert load(input__input_type_rt="'nv12;'").input_parameters.input_type_rt == ("nv12",)


def test_one_number_for_every_input_is_one_number(load: Load) -> None:
    assert load(input__input_batch="'2; 2'").input_parameters.input_batch == 2


def test_quantize_nodes_of_the_finished_model_are_known_by_their_tensors(load: Load) -> None:
    known = f"{FACTS.inputs[0].name}_HzQuantize; {FACTS.outputs[0]}_HzDequantize"
    found = check(load, model__remove_node_name=f"'{known}'")
    assert found.warnings == ()
    assert len(found.remove_node_name) == 2
    (note,) = check(load, model__remove_node_name="elsewhere_HzDequantize").warnings
    assert note.loud
    with pytest.raises(ConfigError, match="elsewhere_HzDequantize"):
        check_against_model(load(strict=True, model__remove_node_name="elsewhere_HzDequantize"), FACTS)

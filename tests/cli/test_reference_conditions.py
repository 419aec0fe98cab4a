"""Every condition that the description of the mapper calls an error, from the command line, in its order.

Each is one paragraph that names the key, at its line, with exit code 2, before a single file is written: no
configuration error waits until calibration has started. The ids are section and number of the description.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import hbtool
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flows"))

from small_models import InputNeed, save_small_model

Sections = dict[str, dict[str, str]]

ONE: Sections = {
    "model_parameters": {"onnx_model": "one.onnx", "march": "bayes-e", "working_dir": "out"},
    "input_parameters": {
        "input_name": "image",
        "input_type_rt": "nv12",
        "input_type_train": "rgb",
        "input_layout_train": "NCHW",
        "norm_type": "data_scale",
        "scale_value": "0.0078125",
    },
    "calibration_parameters": {"cal_data_dir": "data_f32", "calibration_type": "max"},
    "compiler_parameters": {"optimize_level": "O2"},
}
TWO: Sections = {
    "model_parameters": {"onnx_model": "two.onnx", "march": "bayes-e", "working_dir": "out"},
    "input_parameters": {
        "input_name": "image; speed",
        "input_type_rt": "nv12; featuremap",
        "input_type_train": "rgb; featuremap",
        "input_layout_train": "NCHW; NCHW",
        "norm_type": "data_scale; no_preprocess",
        "scale_value": "0.0078125; None",
    },
    "calibration_parameters": {"calibration_type": "skip"},
    "compiler_parameters": {"optimize_level": "O2"},
}

# (id, base, changes `section__key` (None removes), key of the line that is named, parts of the message)
CONDITIONS: list[tuple[str, Sections, dict[str, str | None], str, tuple[str, ...]]] = [
    ("1.1 missing group's mandatory key", ONE, {"model__march": None}, "model_parameters", ("march", "missing")),
    (
        "1.2 both ONNX and Caffe",
        ONE,
        {"model__caffe_model": "a.caffemodel", "model__prototxt": "a.prototxt"},
        "caffe_model",
        ("an ONNX and a Caffe model", "Keep"),
    ),
    ("1.2 neither", ONE, {"model__onnx_model": None}, "model_parameters", ("no model is given", "onnx_model")),
    ("1.2 suffix", ONE, {"model__onnx_model": "one.pb"}, "onnx_model", ("does not end in .onnx",)),
    (
        "1.2 suffix of Caffe weights",
        ONE,
        {"model__onnx_model": None, "model__caffe_model": "a.onnx", "model__prototxt": "a.prototxt"},
        "caffe_model",
        ("does not end in .caffemodel",),
    ),
    (
        "1.2 suffix of Caffe structure",
        ONE,
        {"model__onnx_model": None, "model__caffe_model": "a.caffemodel", "model__prototxt": "a.txt"},
        "prototxt",
        ("does not end in .prototxt",),
    ),
    ("1.2 file missing", ONE, {"model__onnx_model": "none.onnx"}, "onnx_model", ("none.onnx", "does not exist")),
    (
        "1.2 unknown march lists the valid ones",
        ONE,
        {"model__march": "bayesian"},
        "march",
        ("'bayesian'", "bernoulli2, bayes, bayes-e, nash-e"),
    ),
    ("1.2 empty prefix", ONE, {"model__output_model_file_prefix": "''"}, "output_model_file_prefix", ("empty",)),
    ("1.2 layer_out_dump with resizer", ONE, {"model__layer_out_dump": "True", "compiler__input_source":
     "{image: resizer}"}, "input_source", ("resizer", "layer_out_dump")),
    ("1.2.1 OutputTypeN", ONE, {"model__node_info": "{a: {OutputType0: int16}}"}, "node_info", ("OutputType0",
     "Write OutputType")),
    ("1.3 several inputs need names", TWO, {"input__input_name": "''"}, "input_name", ("2 inputs", "image; speed")),
    (
        "1.3 all inputs are listed",
        TWO,
        {
            "input__input_name": "image",
            "input__input_type_rt": "nv12",
            "input__input_type_train": "rgb",
            "input__input_layout_train": "NCHW",
            "input__norm_type": "data_scale",
            "input__scale_value": "0.0078125",
        },
        "input_name",
        ("speed missing", "'image; speed'"),
    ),
    ("1.3 no duplicates", TWO, {"input__input_name": "image; image"}, "input_name", ("'image' is listed twice",)),
    ("1.3 names must exist", TWO, {"input__input_name": "image; sped"}, "input_name", ("'sped'", "'speed'")),
    ("1.3 input_type_rt is mandatory", ONE, {"input__input_type_rt": None}, "input_parameters", ("input_type_rt",
     "missing")),
    ("1.3 input_type_train is mandatory", ONE, {"input__input_type_train": None}, "input_parameters",
     ("input_type_train", "missing")),
    ("1.3 input_layout_train is mandatory", ONE, {"input__input_layout_train": None}, "input_parameters",
     ("input_layout_train", "mandatory for rgb", "NCHW or NHWC")),
    ("1.3 yuv444 in NCHW on X3", ONE, {"model__march": "bernoulli2", "input__input_type_rt": "yuv444",
     "input__input_layout_rt": "NCHW"}, "input_layout_rt", ("bernoulli2 has no yuv444 in NCHW",)),
    ("1.3 bt601_video without nv12", ONE, {"input__input_type_rt": "yuv444", "input__input_space_and_range":
     "bt601_video"}, "input_space_and_range", ("only for input_type_rt nv12, not yuv444",)),
    ("1.3 a free dimension", ONE, {"model__onnx_model": "free.onnx"}, "input_parameters",
     ("input_shape", "leaves dimension 0 (N), 2 of 'image' open", "1x3x224x16")),
    ("1.3 input_batch on X3", ONE, {"model__march": "bernoulli2", "input__input_batch": "129"}, "input_batch",
     ("129 is outside 1..128",)),
    ("1.3 input_batch on X5", ONE, {"input__input_batch": "4097"}, "input_batch", ("4097 is outside 1..4096",)),
    ("1.3 input_shape starts with 1", ONE, {"input__input_batch": "2", "input__input_shape": "2x3x16x16"},
     "input_batch", ("needs batch 1 in input_shape, which has 2",)),
    ("1.3 separate_name or separate_batch", ONE, {"model__march": "nash-e", "input__separate_batch": "True",
     "input__separate_name": "image"}, "separate_name", ("exclusive with separate_batch",)),
    ("1.3 norm_type needs its values", ONE, {"input__norm_type": "data_mean_and_scale"}, "input_parameters",
     ("mean_value", "data_mean_and_scale needs mean_value")),
    ("1.3 std or scale", ONE, {"input__std_value": "57"}, "std_value", ("exclusive with scale_value",)),
    ("1.3 an image has 4 dimensions", ONE, {"model__onnx_model": "flat.onnx"}, "input_type_train",
     ("rgb needs a 4-D input; 1x64 has 2 dimensions", "featuremap")),
    ("1.3 a featuremap that is not 4-D", ONE, {"model__onnx_model": "flat.onnx", "input__input_type_rt":
     "featuremap", "input__input_type_train": "featuremap"}, "norm_type", ("2 dimensions takes no_preprocess only",)),
    ("1.3 a featuremap on nash", ONE, {"model__march": "nash-e", "input__input_type_rt": "featuremap",
     "input__input_type_train": "featuremap"}, "norm_type", ("takes no mean, scale or std on nash",)),
    ("1.3 even sizes for nv12", ONE, {"model__onnx_model": "odd.onnx"}, "input_type_rt", ("nv12 needs even sizes",
     "15x16")),
    ("1.3 even sizes for yuv444", ONE, {"model__onnx_model": "odd.onnx", "input__input_type_rt": "yuv444"},
     "input_type_rt", ("yuv444 needs even sizes", "15x16")),
    ("1.3 three channels", ONE, {"input__input_layout_train": "NHWC"}, "input_type_train",
     ("rgb has 3 channels, the input 16", "NHWC")),
    ("1.3 gray has one channel", ONE, {"input__input_type_train": "gray", "input__input_type_rt": "gray"},
     "input_type_train", ("gray has 1 channel, the input 3",)),
    ("1.3 an illegal pair", ONE, {"input__input_type_train": "yuv444", "input__input_type_rt": "rgb"},
     "input_type_rt", ("yuv444 → rgb is not a legal pair", "nv12 or yuv444")),
    ("1.3 as many parts as inputs", TWO, {"input__input_layout_train": "NCHW"}, "input_layout_train",
     ("1 part for 2 inputs",)),
    ("1.3 as many scales as inputs", TWO, {"input__scale_value": "0.1; None; 3"}, "scale_value",
     ("3 parts for 2 inputs",)),
    ("1.3 one value or one per channel", ONE, {"input__scale_value": "1 2"}, "scale_value",
     ("2 values for 3 channels",)),
    ("1.3 X3 takes 4-D inputs", TWO, {"model__march": "bernoulli2"}, "input_parameters",
     ("bernoulli2 takes 4-D inputs only; 1x4 has 2 dimensions",)),
    ("1.3 X3 takes batch 1", ONE, {"model__march": "bernoulli2", "model__onnx_model": "eight.onnx"},
     "input_parameters", ("bernoulli2 takes batch 1 only, not 8", "input_batch")),
    ("1.4 samples are mandatory", ONE, {"calibration__cal_data_dir": None}, "calibration_parameters",
     ("cal_data_dir", "needs samples", "'skip'")),
    ("1.4 the folder exists", ONE, {"calibration__cal_data_dir": "nothing"}, "cal_data_dir", ("does not exist",)),
    ("1.4 preprocess_on is for images", TWO, {"calibration__preprocess_on": "True"}, "preprocess_on",
     ("not for a featuremap",)),
    ("1.4 max_percentile", ONE, {"calibration__max_percentile": "0.4"}, "max_percentile", ("0.4 is outside 0.5..1",)),
    ("1.5 balance needs its factor", ONE, {"compiler__compile_mode": "balance"}, "compile_mode",
     ("needs balance_factor",)),
    ("1.5 nash has no O3", ONE, {"model__march": "nash-e", "compiler__optimize_level": "O3"}, "optimize_level",
     ("nash-e has no O3",)),
    ("1.5 pyramid is for cameras", TWO, {"compiler__input_source": "{speed: pyramid}"}, "input_source",
     ("pyramid is for nv12 and gray, not featuremap",)),
    ("1.5 resizer is for small pictures", ONE, {"model__onnx_model": "large.onnx", "compiler__input_source":
     "{image: resizer}"}, "input_source", ("resizer takes less than 18432 pixels", "144x128")),
    ("1.5 max_time_per_fc", ONE, {"compiler__max_time_per_fc": "999"}, "max_time_per_fc",
     ("999 is outside 1000..4294967295",)),
    ("1.7.4 odd sizes", ONE, {"model__onnx_model": "odd.onnx"}, "input_type_rt", ("even",)),
    ("1.7.6 a model of batch 8 has no input_batch", ONE, {"model__onnx_model": "eight.onnx", "input__input_batch":
     "2"}, "input_batch", ("2 needs a model with batch 1; it has 8",)),
    ("1.7.7 more than 32 outputs", ONE, {"model__onnx_model": "many.onnx"}, "onnx_model", ("33 outputs", "at most 32")),
    ("8.15 run_on_bpu on X3", ONE, {"model__march": "bernoulli2", "calibration__run_on_bpu": "Conv_0"}, "run_on_bpu",
     ("'Conv_0' is a Conv", "Relu, Softmax or pooling at the tail")),
    ("8.16 core_num 2 on X5", ONE, {"compiler__core_num": "2"}, "core_num", ("2 cores are not offered on bayes-e",)),
    ("8.16 core_num 2 on Ultra", ONE, {"model__march": "bayes", "compiler__core_num": "2"}, "core_num",
     ("2 cores are not offered on bayes",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models that the conditions speak of, and calibration data."""
    folder = tmp_path_factory.mktemp("conditions")
    image = InputNeed("image", (1, 3, 16, 16), True, "NCHW")
    save_small_model([image], folder / "one.onnx")
    save_small_model([image, InputNeed("speed", (1, 4), False, "NCHW")], folder / "two.onnx")
    save_small_model([InputNeed("image", (1, 64), False, "NCHW")], folder / "flat.onnx")
    save_small_model([InputNeed("image", (1, 3, 15, 16), True, "NCHW")], folder / "odd.onnx")
    save_small_model([InputNeed("image", (8, 3, 16, 16), True, "NCHW")], folder / "eight.onnx")
    save_small_model([InputNeed("image", (1, 3, 144, 128), True, "NCHW")], folder / "large.onnx")
    free = onnx.load(folder / "one.onnx")
    dims = free.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = "N"
    dims[2].ClearField("dim_value")
    onnx.save(free, folder / "free.onnx")
    many = onnx.load(folder / "one.onnx")
    source = many.graph.output[0].name
    for index in range(31):
        many.graph.node.append(helper.make_node("Abs", [source], [f"more{index}"], f"abs{index}"))
        many.graph.output.append(helper.make_tensor_value_info(f"more{index}", TensorProto.FLOAT, [1, 10]))
    onnx.save(many, folder / "many.onnx")
    (folder / "data_f32").mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        rng.integers(0, 256, (1, 3, 16, 16)).astype(np.float32).tofile(folder / "data_f32" / f"{index}.rgb")
    return folder


def written(sections: Sections, changes: dict[str, str | None]) -> str:
    merged = {section: dict(keys) for section, keys in sections.items()}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        merged[f"{section}_parameters"].pop(key, None)
        if value is not None:
            merged[f"{section}_parameters"][key] = value if value.startswith(("{", "'")) else f"'{value}'"
    return "".join(
        f"{section}:\n" + "".join(f"  {key}: {value}\n" for key, value in keys.items())
        for section, keys in merged.items()
    )


def line_of(text: str, key: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if line.strip().startswith(f"{key}:"))


@pytest.mark.parametrize(
    ("base", "changes", "key", "parts"), [c[1:] for c in CONDITIONS], ids=[c[0] for c in CONDITIONS]
)
def test_condition(
    models: Path, base: Sections, changes: dict[str, str | None], key: str, parts: tuple[str, ...]
) -> None:
    text = written(base, changes)
    config = models / "config.yaml"
    config.write_text(text, encoding="utf-8")
    before = sorted(models.rglob("*"))
    ran = hbtool("makertbin", "-c", config, "--model-type", "onnx", "-q")
    assert ran.code == 2, ran.err
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith(f"hbtool: config error: {config}:{line_of(text, key)}: ")
    for part in parts:
        assert part in last
    assert ran.out == ""
    left = [p for p in sorted(models.rglob("*")) if p not in before and p.suffix != ".log" and not p.is_dir()]
    assert left == []


@pytest.mark.parametrize("base", [ONE, TWO], ids=["one", "two"])
def test_the_bases_themselves_build(models: Path, base: Sections) -> None:
    config = models / "config.yaml"
    config.write_text(written(base, {"model__working_dir": f"out_{len(base['input_parameters'])}"}), encoding="utf-8")
    ran = hbtool("makertbin", "-c", config, "-q")
    assert ran.code == 0, ran.err
    assert "Inputs as they were understood" in ran.out  # 8.20: what was made of every per-input key


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model__node_info": "{nodes: {ON: CPU}}"}, ("node_info", "'nodes'")),
        ({"model__output_nodes": "Conv_99"}, ("output_nodes", "'Conv_99'", "Conv_4")),
        ({"model__remove_node_name": "Softmax_99"}, ("remove_node_name", "'Softmax_99'", "Softmax_")),
        ({"model__set_node_data_type": "Conv_99:int16"}, ("set_node_data_type", "'Conv_99'", "Conv_4")),
        ({"calibration__run_on_cpu": "Conv_99"}, ("run_on_cpu", "'Conv_99'", "Conv_4")),
        ({"calibration__run_on_bpu": "Conv_99"}, ("run_on_bpu", "'Conv_99'", "Conv_4")),
        ({"model__remove_node_type": "Quantize;Conv"}, ("remove_node_type", "'Conv' does not exist")),
        ({"compiler__input_source": "{data: pyramid}"}, ("input_source", "no input 'data'")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_names_that_mean_nothing_are_a_loud_warning_and_an_error_with_strict(
    models: Path, changes: dict[str, str | None], parts: tuple[str, ...]
) -> None:
    text = written(ONE, {**changes, "model__working_dir": "loose"})
    config = models / "config.yaml"
    config.write_text(text, encoding="utf-8")
    loose = hbtool("makertbin", "-c", config, "-q")
    assert loose.code == 0, loose.err
    (told,) = [line for line in loose.err.splitlines() if line.startswith("warning: ")]
    strict = hbtool("makertbin", "-c", config, "-q", "--strict")
    assert strict.code == 2
    for part in parts:
        assert part in told
        assert part in strict.err.splitlines()[-1]


def test_8_5_the_folder_against_cal_data_type(models: Path) -> None:
    (models / "plain").mkdir(exist_ok=True)
    np.zeros((1, 3, 16, 16), np.float32).tofile(models / "plain" / "0.rgb")
    config = models / "config.yaml"
    config.write_text(written(ONE, {"calibration__cal_data_type": "uint8"}), encoding="utf-8")
    ran = hbtool("makertbin", "-c", config, "-q")
    assert ran.code == 1
    assert "cal_data_type: uint8 contradicts the folder's name 'data_f32'" in ran.err
    assert "found 3072 bytes, expected 768 (1x3x16x16 of uint8)" in ran.err  # 8.3
    assert "fits float32" in ran.err


def test_8_4_npy_files_are_read_by_their_content(models: Path) -> None:
    folder = models / "npy_f32"
    folder.mkdir(exist_ok=True)
    for index in range(2):
        np.save(folder / f"{index}.npy", np.full((1, 3, 16, 16), 20.0 * index, np.float32))
        (folder / f"{index}.npy").rename(folder / f"{index}.rgb")
    config = models / "config.yaml"
    config.write_text(written(ONE, {"calibration__cal_data_dir": "npy_f32"}), encoding="utf-8")
    assert hbtool("makertbin", "-c", config, "-q").code == 0


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (9, 4), (13, 7), (21, 10)])
def test_8_8_old_and_new_opsets_and_ir_versions_are_read(models: Path, opset: int, ir: int) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 1, 1], np.linspace(-1, 1, 12))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["y"], "relu")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])]
        + ([helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 1, 1])] if ir < 4 else []),
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 16, 16])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.save(model, models / "opset.onnx")
    config = models / "config.yaml"
    config.write_text(written(ONE, {"model__onnx_model": "opset.onnx"}), encoding="utf-8")
    ran = hbtool("makertbin", "-c", config, "-q")
    assert ran.code == 0, ran.err


def test_8_8_an_opset_out_of_range_is_named(models: Path) -> None:
    model = onnx.load(models / "one.onnx")
    model.opset_import[0].version = 99
    onnx.save(model, models / "future.onnx")
    config = models / "config.yaml"
    config.write_text(written(ONE, {"model__onnx_model": "future.onnx"}), encoding="utf-8")
    ran = hbtool("makertbin", "-c", config, "-q")
    assert ran.code == 1
    assert "opset 99" in ran.err
    assert "Export it with opset 11 to 21" in ran.err


def test_8_10_no_convolution_at_all(models: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["y"], "relu")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 16, 16])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), models / "relu.onnx")
    config = models / "config.yaml"
    config.write_text(written(ONE, {"model__onnx_model": "relu.onnx"}), encoding="utf-8")
    ran = hbtool("makertbin", "-c", config, "-q")
    assert ran.code == 1
    assert "no convolution and no matrix product" in ran.err


def test_8_14_refused_int16_stands_in_one_table(models: Path) -> None:
    config = models / "config.yaml"
    config.write_text(written(ONE, {"calibration__optimization": "set_all_nodes_int16"}), encoding="utf-8")
    ran = hbtool("makertbin", "-c", config, "-q")
    assert ran.code == 0
    table = ran.out.split("int16 requests that stay int8")
    assert len(table) == 2
    assert "GlobalAveragePool" in table[1]
    assert "set_all_nodes_int16" in table[1]

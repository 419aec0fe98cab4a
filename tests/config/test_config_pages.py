"""What is generated from the schema: page, JSON schema, explanations, templates, dumps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hbtool.config import (
    MARCHES,
    LoadedConfig,
    ModelFacts,
    ModelInput,
    check_against_model,
    config_page,
    dump,
    explain,
    json_schema,
    json_schema_text,
    parse_config,
    template,
)
from hbtool.config.schema import SECTIONS
from hbtool.config.section import keys_of
from hbtool.config.training_loader import training_schema_page
from hbtool.errors import UsageError

ROOT = Path(__file__).parents[2]
Load = Callable[..., LoadedConfig]
ALL_KEYS = [(section, name) for section, model in SECTIONS.items() for name in keys_of(model)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("docs/config.md", config_page()),
        ("configs/hbtool.schema.json", json_schema_text()),
        ("docs/training.md", training_schema_page()),
    ],
)
def test_generated_files_are_current(file: str, text: str) -> None:
    assert (ROOT / file).read_text(encoding="utf-8") == text, "run `python docs/generate.py`"


@pytest.mark.parametrize(("section", "name"), ALL_KEYS)
def test_every_key_is_explained_from_one_text(section: str, name: str) -> None:
    text = keys_of(SECTIONS[section])[name].text
    assert text in explain(name)
    assert explain(f"{section}.{name}") == explain(name)
    assert text in config_page()
    assert json_schema()["properties"][section]["properties"][name]["description"] == text
    assert text.rstrip(")").endswith(".")


def test_unknown_keys_are_guessed() -> None:
    assert "march" in explain("model_parameters")
    with pytest.raises(UsageError, match="Did you mean 'optimize_level'"):
        explain("optimise_level")


def test_the_schema_is_plain_json() -> None:
    assert json.loads(json_schema_text()) == json_schema()


INPUTS = [
    ModelInput("images", (1, 3, 64, 64)),
    ModelInput("odd", (1, 3, 65, 64)),
    ModelInput("nhwc", (1, 64, 64, 3)),
    ModelInput("a: 'b' #c", ("N", 8)),
    ModelInput("open", (None, 3, None, None)),
]


@pytest.mark.parametrize("march", MARCHES)
@pytest.mark.parametrize("inputs", [INPUTS[:1], INPUTS[1:2], INPUTS[2:3], INPUTS])
def test_templates_load_and_fit_their_model(march: str, inputs: list[ModelInput]) -> None:
    if march == "bernoulli2":
        inputs = [entry for entry in inputs if len(entry.shape) == 4]
    facts = ModelFacts(tuple(inputs), ("out",))
    loaded = parse_config(template(facts, march=march), strict=True)
    assert loaded.warnings == ()
    found = check_against_model(loaded, facts)
    assert [entry.name for entry in found.inputs] == [entry.name for entry in inputs]
    assert found.warnings == ()


def test_template_guesses() -> None:
    facts = ModelFacts(tuple(INPUTS))
    found = check_against_model(parse_config(template(facts)), facts).inputs
    assert [entry.type_rt for entry in found] == ["nv12", "rgb", "nv12", "featuremap", "nv12"]
    assert found[2].layout_train == "NHWC"
    assert found[4].shape == (1, 3, 224, 224)


RICH = {
    "model__march": "nash-h",
    "model__output_nodes": "b;a",
    "model__node_info": "{z*: {ON: BPU, InputType0: int16, InputType1: int8}, a*: {OutputType: int16}}",
    "input__mean_value": "[1.5, 2, 3e-7]",
    "input__norm_type": None,
    "input__input_shape": "1,3,8,8",
    "calibration__calibration_type": "max",
    "calibration__max_percentile": "0.99995",
    "calibration__optimization": "set_Softmax_input_int8;asymmetric",
    "calibration__quant_config": "{op_config: {Conv: {qtype: int16, input1: int8}}, subgraph_config: "
    "{s: {inputs: [a], outputs: [b], qtype: int16}}, model_config: {activation: {per_channel: [True, False]},"
    " weight: {bias_correction: {metric: mse}}}}",
    "compiler__input_source": "{images: pyramid}",
    "compiler__extra_params": "{input_no_padding: true, level: 2}",
    "compiler__core_num": "4",
}


@pytest.mark.parametrize("full", [False, True])
def test_dump_is_sorted_and_reads_back_the_same(load: Load, full: bool) -> None:
    config = load(**RICH).config
    text = dump(config, full=full)
    again = parse_config(text)
    assert again.config == config
    groups = yaml.safe_load(text)
    assert list(groups) == sorted(groups)
    assert all(list(keys) == sorted(keys) for keys in groups.values())
    assert not any(note.loud for note in again.warnings)
    assert ("jobs" in groups["compiler_parameters"]) is full

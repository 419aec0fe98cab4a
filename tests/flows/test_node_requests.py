"""Requests for single nodes: int16 and its refusals, names that simplification removed, devices."""

from __future__ import annotations

from pathlib import Path

import pytest
from flow_project import Build, Listening, two_tails

from hbtool.flows.absorbed import absorbers
from hbtool.flows.makertbin import BuildResult
from hbtool.flows.verify import verify
from hbtool.ir.load import load_model
from hbtool.passes.simplify import simplify


def types(result: BuildResult) -> dict[str, str]:
    """What each node computes on."""
    return {row.node: row.dtype for row in result.nodes}


def test_absorbers_of_vanished_nodes(tmp_path: Path) -> None:
    model = load_model(two_tails(tmp_path / "net.onnx"))
    now = absorbers(model, simplify(model))
    assert now["conv1"] == "conv1"
    assert now["bn"] == "conv1"
    assert now["sigmoid"] == "silu"
    assert now["nothing"] is None


def test_int16_output_reaches_the_reader(build: Build) -> None:
    result = build(model__node_info="{'conv1': {'OutputType': 'int16'}}")
    assert types(result)["silu"] == "int16"
    assert result.refused == ()
    assert verify(result.artifact_path, reference=True).passed


def test_int16_of_a_folded_node_means_who_absorbed_it(build: Build, listening: Listening) -> None:
    result = build(model__node_info="{'bn': {'OutputType': 'int16'}, 'sigmoid': {'InputType': 'int16'}}")
    assert types(result)["silu"] == "int16"
    assert any("bn is part of conv1" in line for line in listening.lines)
    assert any("sigmoid is part of silu" in line for line in listening.lines)


def test_a_request_for_what_changes_nothing_is_a_warning(build: Build, listening: Listening) -> None:
    build(model__node_info="{'nothing': {'ON': 'CPU'}}")
    assert any("nothing was simplified away" in text for text in listening.warnings)


def test_int16_that_a_neighbour_cannot_take_is_refused_with_the_reason(build: Build) -> None:
    result = build(model__node_info="{'silu': {'OutputType': 'int16'}}")
    assert [(r.node, r.slot, r.origin) for r in result.refused] == [("silu", "output", "node_info OutputType")]
    assert "pool reads it: AveragePool reads and writes int8 only on bayes-e" in result.refused[0].reason
    assert types(result)["pool"] == "int8"
    assert verify(result.artifact_path).passed


def test_int16_of_a_cpu_node_is_refused(build: Build) -> None:
    result = build(model__node_info="{'conv1': {'ON': 'CPU', 'OutputType': 'int16'}}")
    assert result.refused[0].reason == "conv1 runs on the CPU in float"


def test_all_nodes_int16_where_possible_and_one_table_of_the_rest(build: Build) -> None:
    result = build(calibration__optimization="set_all_nodes_int16")
    found = types(result)
    assert found["conv1"] == "int16"
    assert found["silu"] == "int16"
    assert found["pool"] == "int8"
    assert {r.origin for r in result.refused} == {"set_all_nodes_int16"}
    assert {r.node for r in result.refused} == {"silu", "pool"}
    assert verify(result.artifact_path, reference=True).passed


def test_nash_takes_int16_everywhere(build: Build) -> None:
    result = build(march="nash-e", calibration__optimization="set_all_nodes_int16")
    assert result.refused == ()
    assert types(result)["pool"] == "int16"
    assert verify(result.artifact_path).passed


def test_kind_flag_brings_softmax_to_the_bpu_in_int16(build: Build) -> None:
    result = build(calibration__optimization="set_Softmax_input_int16,set_Softmax_output_int16")
    softmax = [row for row in result.nodes if row.node.startswith("softmax")]
    assert softmax
    assert {row.device for row in softmax} == {"BPU"}
    assert softmax[0].dtype == "int16"


@pytest.mark.parametrize("bits", ["int8", "int16"])
def test_model_output_type(build: Build, bits: str) -> None:
    result = build(
        calibration__optimization=f"set_model_output_{bits}", model__remove_node_type="Dequantize;Softmax;Dequantize"
    )
    from hbtool.runtime import Session

    outputs = {o.name: o for o in Session(result.artifact_path).get_outputs()}
    assert outputs["z"].type == f"tensor({bits})"
    assert outputs["z"].quantization is not None
    assert verify(result.artifact_path).passed


def test_run_on_cpu_of_a_folded_node(build: Build) -> None:
    result = build(calibration__run_on_cpu="bn")
    assert {row.node: row.device for row in result.nodes}["conv1"] == "CPU"


def test_quant_config_of_nodes_and_types(build: Build) -> None:
    result = build(
        march="nash-e",
        calibration__quant_config="{op_config: {Conv: {qtype: int16}}, node_config: {softmax: {qtype: float32}}}",
    )
    found = types(result)
    assert found["conv1"] == "int16"
    assert found["conv2"] == "int16"
    assert found["softmax"] == "float"


def test_a_request_for_an_input_that_is_not_there_is_refused(build: Build) -> None:
    result = build(model__node_info="{'conv1': {'InputType7': 'int16', 'InputType1': 'int16'}}")
    reasons = {r.slot: r.reason for r in result.refused}
    assert reasons["input 7"].startswith("conv1 has inputs 0..")
    assert reasons["input 1"] == "input 1 of conv1 is no feature map"


def test_quant_config_takes_globs(build: Build) -> None:
    result = build(march="nash-e", calibration__quant_config="{node_config: {'conv*': {qtype: float32}}}")
    devices = {row.node: row.device for row in result.nodes}
    assert devices["conv1"] == devices["conv2"] == "CPU"


@pytest.mark.parametrize(
    ("rule", "nearest"),
    [
        ("{node_config: {conv9: {qtype: int16}}}", "conv"),
        ("{subgraph_config: {head: {inputs: [x], outputs: [mm1], qtype: int16}}}", "m1"),
    ],
)
def test_names_in_quant_config_that_match_nothing_are_loud(
    build: Build, listening: Listening, rule: str, nearest: str
) -> None:
    build(march="nash-e", calibration__quant_config=rule)
    (told,) = [text for text in listening.warnings if "quant_config" in text]
    assert "config.yaml:" in told
    assert "no effect" in told
    assert nearest in told.split("Did you mean")[1]


@pytest.mark.parametrize(("qtype", "used"), [("int4", "int8"), ("float16", "int16"), ("float32", "int16")])
def test_a_type_that_the_bpu_does_not_have_is_replaced_and_told(
    build: Build, listening: Listening, qtype: str, used: str
) -> None:
    result = build(march="nash-e", calibration__quant_config=f"{{model_config: {{all_node_type: {qtype}}}}}")
    assert types(result)["silu"] == used
    assert any(f"all_node_type {qtype}" in text and f"{used} is used" in text for text in listening.warnings)


def test_quant_config_may_ask_for_the_search(build: Build, listening: Listening) -> None:
    build(march="nash-e", calibration__quant_config="{model_config: {search: True}}")
    assert any(line.startswith("Select ") for line in listening.lines)


def test_an_output_that_stays_float_is_told(build: Build, listening: Listening) -> None:
    build(calibration__optimization="set_model_output_int8")
    (told,) = [line for line in listening.lines if line.startswith("set_model_output")]
    assert "output y stays float, because softmax (Softmax) runs on the CPU" in told


def test_int32_has_no_threshold(build: Build) -> None:
    rows = {row.node: row for row in build().nodes}
    assert rows["transpose"].dtype == "int32"
    assert rows["transpose"].threshold is None
    assert rows["conv2"].threshold is not None

"""What happens to the finished graph: removed nodes, layer outputs, batch, cache; and the commands that show it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from flow_project import Build, Listening

from hbtool.config import parse_config
from hbtool.errors import ArtifactError, UsageError
from hbtool.flows.compile_stage import removed_nodes
from hbtool.flows.modify import modify, removable_nodes
from hbtool.flows.pack import pack_artifacts
from hbtool.flows.verify import verify
from hbtool.passes.remove_border_nodes import RemovedNode
from hbtool.runtime import Session
from hbtool.runtime.artifact import load_artifact
from hbtool.runtime.removed import finish_output, formula, prepare_input

RNG = np.random.default_rng(1)
ALL = "Quantize;Softmax;Dequantize;Transpose;Dequantize"


def feed() -> np.ndarray:
    return RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_removed_nodes_give_the_same_results_when_the_application_does_their_work(build: Build) -> None:
    plain = Session(build().artifact)
    result = build(model__remove_node_type=ALL)
    bare = Session(result.artifact_path)
    removed = removed_nodes(load_artifact(result.artifact_path))
    assert removed == result.removed
    assert [r.type for r in removed] == ["Quantize", "Softmax", "Dequantize", "Dequantize"]
    x = feed()
    names = [o.name for o in bare.get_outputs()]
    given = dict(zip(names, bare.run(None, {"x": prepare_input(x, "x", removed)}), strict=True))
    expected = dict(zip(names, plain.run(names, {"x": x}), strict=True))
    np.testing.assert_array_equal(finish_output(given["z"], "z", removed), expected["z"])
    np.testing.assert_allclose(finish_output(given["y"], "y", removed), expected["y"], atol=1e-6)


def test_removed_nodes_stand_in_a_file_with_their_attributes(build: Build) -> None:
    result = build(model__remove_node_type=ALL)
    lines = result.files["deleted_nodes"].read_text(encoding="utf-8").splitlines()
    found = [RemovedNode.from_json(json.loads(line)) for line in lines]
    assert tuple(found) == result.removed


def test_removed_inputs_and_outputs_say_what_their_integers_mean(build: Build) -> None:
    session = Session(build(model__remove_node_type=ALL).artifact_path)
    (x,) = session.get_inputs()
    assert x.type == "tensor(int8)"
    assert x.quantization is not None and x.quantization.scale > 0
    outputs = {o.name: o for o in session.get_outputs()}
    assert all(o.quantization is not None for o in outputs.values())
    assert outputs["z"].type.startswith("tensor(int")


def test_verify_compares_with_the_float_model_through_removed_nodes(build: Build) -> None:
    checked = verify(build(model__remove_node_type=ALL).artifact_path, reference=True)
    assert checked.passed
    assert set(checked.similarities) == {"y", "z"}
    assert all(s.cosine > 0.99 for s in checked.similarities.values())


def test_the_order_of_types_matters_and_is_explained(build: Build, listening: Listening) -> None:
    result = build(model__remove_node_type="Dequantize;Softmax")
    assert [(r.type, r.value) for r in result.removed] == [("Dequantize", "z"), ("Softmax", "y")]
    assert any("touches y only now" in text for text in listening.warnings)


def test_remove_by_name(build: Build, listening: Listening) -> None:
    result = build(model__remove_node_name="softmax; conv1; x_HzQuantize")
    assert [r.name for r in result.removed] == ["softmax", "x_HzQuantize"]
    assert any("conv1 does not touch" in text for text in listening.warnings)


def test_modify_does_what_the_configuration_does(build: Build, tmp_path: Path) -> None:
    configured = build(model__remove_node_type=ALL).artifact
    plain = build().artifact_path
    assert {n.type for n in removable_nodes(plain)} >= {"Quantize", "Softmax"}
    done = modify(plain, types=ALL.split(";"), output=tmp_path / "bare.bin")
    assert done.path == tmp_path / "bare.bin"
    x = RNG.integers(-128, 128, (1, 3, 8, 8)).astype(np.int8)
    for a, b in zip(Session(configured).run(None, {"x": x}), Session(done.path).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(a, b)
    assert verify(done.path).passed


def test_modify_twice_keeps_the_whole_list(build: Build, tmp_path: Path) -> None:
    first = modify(build().artifact_path, ["x_HzQuantize"], output=tmp_path / "one.bin")
    second = modify(first.path, ["softmax"], output=tmp_path / "two.bin")
    assert [n.name for n in second.removed] == ["softmax"]
    assert [n.name for n in second.all_removed] == ["x_HzQuantize", "softmax"]


@pytest.mark.parametrize(
    ("names", "types", "message"),
    [
        (["conv1"], [], "'conv1' cannot be removed"),
        (["conv"], [], "no such node"),
        ([], ["Conv"], "'Conv' nodes cannot be removed"),
        ([], ["Reshape"], "no node of the given types"),
    ],
)
def test_modify_refuses(build: Build, tmp_path: Path, names: list[str], types: list[str], message: str) -> None:
    path = build().artifact_path
    with pytest.raises(UsageError) as caught:
        modify(path, names, types, tmp_path / "no.bin")
    assert message in str(caught.value)
    assert not (tmp_path / "no.bin").exists()


def test_formulas_are_python(build: Build) -> None:
    for node in build(model__remove_node_type=ALL).removed:
        text = formula(node)
        if node.type == "Softmax":
            continue
        x = np.zeros(node.in_shape, node.in_dtype)
        scale = np.asarray(node.attributes.get("scales", (1.0,)), np.float32)
        y = eval(text, {"np": np, "x": x, "scale": scale})  # the text is this repository's own
        assert y.shape == node.out_shape
        assert y.dtype == np.dtype(node.out_dtype)


def test_layer_out_dump_gives_every_layer(build: Build, listening: Listening) -> None:
    plain, dumped = build(), build(model__layer_out_dump="True")
    names = [o.name for o in Session(dumped.artifact_path).get_outputs()]
    assert names[:2] == ["y", "z"]
    assert {"b1", "m1", "p1"} <= set(names) | {"i1"}
    assert len(names) > len(Session(plain.artifact).get_outputs())
    assert dumped.artifact_path.stat().st_size > 0
    assert any("layer_out_dump adds" in text for text in listening.warnings)
    assert verify(dumped.artifact_path, reference=True).passed


def test_input_batch_runs_images_as_if_alone(build: Build) -> None:
    single = Session(build().artifact)
    result = build(input__input_batch="3")
    session = Session(result.artifact_path)
    assert session.get_inputs()[0].shape == [3, 3, 8, 8]
    x = RNG.standard_normal((3, 3, 8, 8)).astype(np.float32)
    together = session.run(None, {"x": x})
    for index in range(3):
        for a, b in zip(single.run(None, {"x": x[index : index + 1]}), together, strict=True):
            np.testing.assert_array_equal(a[0], b[index])
    assert verify(result.artifact_path).passed


def test_the_compile_cache_is_used_and_gives_the_same_programs(build: Build, listening: Listening) -> None:
    first = build(compiler__cache_mode="enable")
    assert any("compile cache: stored 1 segment" in line for line in listening.lines)
    second = build(compiler__cache_mode="enable")
    assert any("taken from" in line for line in listening.lines)
    assert first.artifact.programs == second.artifact.programs
    assert verify(second.artifact_path).passed


def test_a_damaged_cache_is_compiled_anew(build: Build, listening: Listening) -> None:
    result = build(compiler__cache_mode="enable")
    (file,) = (result.artifact_path.parent / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    build(compiler__cache_mode="enable")
    assert any("compiled anew" in text for text in listening.warnings)


def test_output_nodes_become_the_outputs(build: Build) -> None:
    session = Session(build(model__output_nodes="pool; conv2").artifact)
    assert [o.name for o in session.get_outputs()] == ["p1", "z"]


def test_dumped_calibration_data(build: Build) -> None:
    result = build(model__debug_mode="dump_calibration_data")
    files = sorted((result.artifact_path.parent / "calibration_data" / "x").iterdir())
    assert len(files) == 10
    assert np.load(files[0]).shape == (1, 3, 8, 8)


def test_packed_models_are_chosen_by_name(build: Build, tmp_path: Path) -> None:
    a = build(model__output_model_file_prefix="first").artifact_path
    b = build(model__output_model_file_prefix="second", calibration__run_on_cpu="conv2").artifact_path
    packed = tmp_path / "all.bin"
    assert set(pack_artifacts([a, b], packed)) == {"first", "second"}
    x = feed()
    for name, alone in (("first", a), ("second", b)):
        for want, got in zip(
            Session(alone).run(None, {"x": x}), Session(packed, name=name).run(None, {"x": x}), strict=True
        ):
            np.testing.assert_array_equal(want, got)
    with pytest.raises(UsageError, match="2 models"):
        Session(packed)
    with pytest.raises(UsageError, match="Did you mean 'second'"):
        Session(packed, name="secnd")
    with pytest.raises(ArtifactError, match="packed already"):
        pack_artifacts([packed], tmp_path / "again.bin")
    with pytest.raises(UsageError, match="two artifacts hold a model called"):
        pack_artifacts([a, a], tmp_path / "twice.bin")
    with pytest.raises(ArtifactError, match="packed file"):
        modify(packed, types=["Softmax"])


def test_the_stored_configuration_reads_back(build: Build) -> None:
    result = build(model__remove_node_type="Softmax")
    again = parse_config(load_artifact(result.artifact_path).build["configuration"]).config
    assert again.model_parameters.remove_node_type == ("Softmax",)

"""equalize, tune, lint and doctor on the planted chain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from wide_channel import project, save_chain

from hbtool.calibration.similarity import similarity
from hbtool.cli.main import cli
from hbtool.config import load_config
from hbtool.errors import ConfigError
from hbtool.flows.makertbin import makertbin
from hbtool.flows.tune import TuneTarget, tune
from hbtool.ir.load import load_model
from hbtool.ir.onnx_session import make_session
from hbtool.passes.equalize import equalize


def test_equalize_keeps_the_numbers(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    model = load_model(save_chain(tmp_path))
    (before,) = make_session(model).run(None, {"x": x})
    assert equalize(model) == ("conv2",)
    (after,) = make_session(model).run(None, {"x": x})
    assert similarity(before, after).sqnr_db > 100
    assert equalize(model) == ()


def test_equalize_leaves_balanced_models_alone(tmp_path: Path) -> None:
    model = load_model(save_chain(tmp_path, factor=1.0))
    text = ir.to_proto(model).SerializeToString(deterministic=True)
    assert equalize(model) == ()
    assert ir.to_proto(model).SerializeToString(deterministic=True) == text


def test_tune_takes_back_what_is_not_needed_and_writes_what_it_verified(tmp_path: Path) -> None:
    project(tmp_path)
    done = CliRunner().invoke(
        cli, ["tune", str(tmp_path / "config.yaml"), "--target-cosine", "0.999", "--json", "-q"], standalone_mode=False
    )
    assert done.return_value == 0, done.output
    result = json.loads(done.stdout)
    assert result["chosen"]["changes"] == ["equalize"] and result["base"]["cosine"] < 0.99
    assert set(result["prices_us"]) == {"equalize"}
    built = makertbin(load_config(result["config"]))
    assert built.outputs[0].similarity.cosine > 0.999


def test_tune_uses_int16_where_nothing_else_helps(tmp_path: Path) -> None:
    result = tune(project(tmp_path, factor=1.0), TuneTarget(cosine=0.99999))
    assert {c.kind for c in result.chosen.changes} >= {"int16"}
    assert result.chosen.cosine > result.base.cosine
    assert result.chosen.latency_us is not None and result.base.latency_us is not None
    assert result.chosen.latency_us > result.base.latency_us


METRIC = """
import numpy as np
def size(session):
    (x,) = session.get_inputs()
    feed = np.random.default_rng(1).integers(0, 256, x.shape, dtype=np.uint8)
    return -float(np.abs(session.run(None, {x.name: feed})[0]).mean())
"""


def test_a_metric_sees_the_float_model_and_the_integers(tmp_path: Path) -> None:
    project(tmp_path, factor=1.0)
    (tmp_path / "metric.py").write_text(METRIC)
    arguments = ["tune", str(tmp_path / "config.yaml"), "--metric", f"{tmp_path / 'metric.py'}:size", "--json", "-q"]
    done = CliRunner().invoke(cli, [*arguments, "--max-drop", "1000"], standalone_mode=False)
    result = json.loads(done.stdout)
    assert result["reached"] and result["chosen"]["changes"] == []
    assert result["float_metric"] == pytest.approx(result["base"]["metric"], rel=0.05)
    assert result["float_metric"] < 0


def test_tune_refuses_what_cannot_be_tuned(tmp_path: Path) -> None:
    loaded = project(tmp_path)
    section = loaded.calibration_parameters.model_copy(update={"calibration_type": "skip"})
    skipped = type(loaded)(loaded.config.model_copy(update={"calibration_parameters": section}), folder=tmp_path)
    with pytest.raises(ConfigError, match="skip"):
        tune(skipped, TuneTarget(cosine=0.9))


def lint(folder: Path) -> set[str]:
    done = CliRunner().invoke(cli, ["lint", str(folder / "config.yaml"), "--json", "-q"], standalone_mode=False)
    found = json.loads(done.stdout)["remarks"]
    assert done.return_value == (1 if any(r["level"] == "warning" for r in found) else 0)
    return {r["check"] for r in found}


def write_pictures(folder: Path, layout: str) -> None:
    """Smooth pictures whose channels differ, in one layout."""
    rng = np.random.default_rng(2)
    for index in range(4):
        ramp = np.cumsum(rng.integers(-5, 6, (3, 16, 16)), axis=2) + np.array([60, 120, 190]).reshape(3, 1, 1)
        picture = np.clip(ramp, 0, 255).astype(np.uint8)
        (picture if layout == "NCHW" else picture.transpose(1, 2, 0).copy()).tofile(folder / "data" / f"{index}.bin")


def test_lint_is_silent_on_good_data(tmp_path: Path) -> None:
    project(tmp_path)
    write_pictures(tmp_path, "NCHW")
    assert lint(tmp_path) == set()


def test_lint_sees_the_layout(tmp_path: Path) -> None:
    project(tmp_path)
    write_pictures(tmp_path, "NHWC")
    assert lint(tmp_path) == {"layout"}


def test_lint_sees_constant_repeated_and_broken_samples(tmp_path: Path) -> None:
    project(tmp_path)
    write_pictures(tmp_path, "NCHW")
    (tmp_path / "data" / "4.bin").write_bytes(bytes(768))
    (tmp_path / "data" / "5.bin").write_bytes((tmp_path / "data" / "0.bin").read_bytes())
    (tmp_path / "data" / "6.bin").write_bytes(bytes(7))
    assert lint(tmp_path) == {"constant", "duplicate", "unreadable"}


def test_lint_sees_missing_normalization(tmp_path: Path) -> None:
    project(tmp_path)
    write_pictures(tmp_path, "NCHW")
    model = onnx.load(tmp_path / "chain.onnx")
    first = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(first * 10, "w0"))
    onnx.save(model, tmp_path / "chain.onnx")
    assert lint(tmp_path) == set()
    path = tmp_path / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("data_mean_and_scale, mean_value: 127.5, scale_value: 0.0078", "no_preprocess"))
    assert lint(tmp_path) == {"scale"}
    path.write_text(text.replace("mean_value: 127.5", "mean_value: 103.53 116.28 123.675"))
    assert lint(tmp_path) == {"mean order"}  # a note only: PaddleOCR's models are trained so


def test_lint_sees_normalization_inside_the_model(tmp_path: Path) -> None:
    project(tmp_path)
    write_pictures(tmp_path, "NCHW")
    model = onnx.load(tmp_path / "chain.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "half"))
    model.graph.node[0].input[0] = "halved"
    model.graph.node.insert(0, onnx.helper.make_node("Mul", ["x", "half"], ["halved"], "own_scale"))
    onnx.save(model, tmp_path / "chain.onnx")
    assert lint(tmp_path) == {"double normalization"}


def test_doctor_as_json() -> None:
    done = CliRunner().invoke(cli, ["doctor", "--json"], standalone_mode=False)
    result = json.loads(done.stdout)
    topics = [f["topic"] for f in result["findings"]]
    assert done.return_value == 0 and result["passed"]
    assert topics == ["versions", "installation", "cpu", "int8 path", "threads", "disk", "cuda", "self-test"]
    assert result["findings"][3]["facts"]["exact_with_option"] is True

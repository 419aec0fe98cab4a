"""The demo's model, config and data fit each other."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml


@pytest.fixture
def make_data(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the sample's data script, which writes into a folder of this test."""
    source = checkout / "samples" / "digits" / "make_data.py"
    spec = importlib.util.spec_from_file_location("digits_make_data", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def test_config_model_and_data_agree(checkout: Path, make_data: ModuleType, tmp_path: Path) -> None:
    config_file = checkout / "configs" / "digits.yaml"
    config = yaml.safe_load(config_file.read_text())
    path = config_file.parent / config["model_parameters"]["onnx_model"]
    assert path.stat().st_size < 300_000
    model_input = onnx.load(path).graph.input[0]
    shape = [dim.dim_value for dim in model_input.type.tensor_type.shape.dim]
    inputs = config["input_parameters"]
    assert model_input.name == inputs["input_name"]
    assert [int(side) for side in inputs["input_shape"].split("x")] == shape

    make_data.main()
    samples = sorted((tmp_path / "data" / "calibration_f32").iterdir())
    assert len(samples) == make_data.CALIBRATION_COUNT
    values = np.stack([np.fromfile(sample, np.float32).reshape(shape) for sample in samples])
    assert (values.min(), values.max()) == (0.0, 255.0)


def test_float_model_reads_the_test_digits(checkout: Path, make_data: ModuleType) -> None:
    config = yaml.safe_load((checkout / "configs" / "digits.yaml").read_text())
    mean, scale = (np.float32(config["input_parameters"][key]) for key in ("mean_value", "scale_value"))
    split = make_data.load_split()
    session = onnxruntime.InferenceSession(checkout / "samples" / "digits" / "digits.onnx")
    images = (split.test_images.astype(np.float32) - mean) * scale
    guesses = [int(np.argmax(session.run(None, {"image": image[None]})[0])) for image in images]
    assert np.mean(np.array(guesses) == split.test_labels) > 0.97

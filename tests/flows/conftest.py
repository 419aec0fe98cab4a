"""Builds artifacts of small models from a configuration's text."""

from __future__ import annotations

from pathlib import Path

import pytest
from flow_project import Build, Listening, two_tails

from hbtool.config import parse_config
from hbtool.flows.makertbin import BuildResult, makertbin


@pytest.fixture
def listening() -> Listening:
    return Listening()


@pytest.fixture
def build(tmp_path: Path, listening: Listening) -> Build:
    """Build the model `two_tails` with random data; keyword `section__key` adds a key."""

    def run(march: str = "bayes-e", **changes: str) -> BuildResult:
        sections = {
            "model_parameters": {"onnx_model": "net.onnx", "march": march, "working_dir": "out"},
            "input_parameters": {"input_type_rt": "featuremap", "input_type_train": "featuremap"},
            "calibration_parameters": {"calibration_type": "skip"},
            "compiler_parameters": {"optimize_level": "O2"},
        }
        for name, value in changes.items():
            section, _, key = name.partition("__")
            sections[f"{section}_parameters"][key] = value
        text = "".join(
            f"{section}:\n" + "".join(f"  {k}: {v}\n" for k, v in keys.items()) for section, keys in sections.items()
        )
        two_tails(tmp_path / "net.onnx")
        return makertbin(parse_config(text, file="config.yaml", folder=tmp_path), listening)

    return run

"""The seed document's heterogeneous model: three BPU segments, first two with int8 tails, the last high precision."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flow_project import Listening

from hbtool.cli.perf import segment_text
from hbtool.config import load_config
from hbtool.errors import ConfigError
from hbtool.flows.makertbin import makertbin
from hbtool.flows.perf import report_of
from hbtool.flows.verify import verify
from hbtool.ir import meta

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the seed's qat.onnx and its configuration, run_on_cpu as the document prints it."""
    folder = tmp_path_factory.mktemp("seed")
    command = [sys.executable, "-m", "hbtool.compat", str(ROOT / "samples/seed/hybrid.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=300, env={**os.environ})
    text = (ROOT / "samples/seed/hybrid.yaml").read_text(encoding="utf-8")
    text = text.replace("model_output/qat.onnx", "qat.onnx")
    text = text.replace("calibration_type: 'load'", "calibration_type: 'load'\n  run_on_cpu: \"Conv_32\"")
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder


def test_three_segments_with_the_tails_the_document_describes(exported: Path) -> None:
    result = makertbin(load_config(exported / "config.yaml"))
    segments = [s for s in result.artifact.segments() if s.device == "BPU"]
    tails = [[q.type.name for v in s.outputs if (q := meta.qparams(v)) is not None] for s in segments]
    assert tails == [["int8"], ["int8"], ["int32"]]
    assert verify(result.artifact_path, reference=True).passed
    shown = segment_text(report_of(result.artifact, measure=False)).splitlines()[4:]
    assert [row.split()[0] for row in shown] == ["bpu_0", "bpu_1", "bpu_2"]
    assert [row.split()[-2] for row in shown] == ["int8", "int8", "int32"]


def test_a_name_of_the_vendors_exporter_is_a_loud_warning_and_an_error_with_strict(exported: Path) -> None:
    talk = Listening()
    makertbin(load_config(exported / "config.yaml"), talk)
    assert any("no node of the model is called 'Conv_32'" in text for text in talk.warnings)
    with pytest.raises(ConfigError, match="Conv_32") as caught:
        makertbin(load_config(exported / "config.yaml", strict=True))
    assert str(caught.value.where).startswith(str(exported / "config.yaml:"))

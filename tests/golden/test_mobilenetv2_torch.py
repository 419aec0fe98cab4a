"""MobileNetV2 through the PyTorch road without training: the sample's YAML on real pictures stays near float."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hbtool.config.training_loader import load_training_config
from hbtool.flows.calib import calib

pytestmark = [pytest.mark.real]
LIMIT = 1.0
"""Points of top-1 that calibration may lose."""


@pytest.fixture
def sample(checkout: Path, shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample's folder as a copy, finding the real pictures."""
    if not (shared_dir / "real" / "imagenet").is_dir():
        pytest.skip("the real pictures are not in the folder beside the checkout")
    monkeypatch.setenv("HBTOOL_SHARED", str(shared_dir))
    for name in ("networks.py", "imagenet.py", "mobilenetv2.yaml"):
        shutil.copy(checkout / "samples" / "torch" / name, tmp_path)
    return tmp_path / "mobilenetv2.yaml"


@pytest.mark.slow
def test_calibration_alone_loses_at_most_a_point(sample: Path) -> None:
    """Everything is chosen on the calibration pictures; the 200 others judge."""
    result = calib(load_training_config(sample))
    assert result is not None
    float_top1, calibrated = result.metrics["float"], result.metrics["calibrated"]
    assert float_top1 is not None and calibrated is not None
    assert float_top1 == pytest.approx(88.0, abs=0.6)
    assert calibrated >= float_top1 - LIMIT


DECISIONS = """
import torch
from imagenet import network, validation


class Seen(torch.utils.data.Dataset):
    \"\"\"Held-out pictures, each with the class that the float model gives it.\"\"\"

    def __init__(self):
        model, rows = network(), validation()
        self.x = torch.stack([rows[i][0] for i in range(0, 200, 8)])
        with torch.no_grad():
            self.y = model(self.x).argmax(1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]
"""


def test_calibrated_model_decides_as_the_float_model(sample: Path) -> None:
    """The quick guard: few pictures, one observer, the share of decisions that stay."""
    (sample.parent / "decisions.py").write_text(DECISIONS)
    text = sample.read_text().replace("imagenet.py:validation", "decisions.py:Seen")
    text = text.replace("calibration_steps: 10", "calibration_steps: 4\n  observer: min_max")
    sample.write_text(text)
    result = calib(load_training_config(sample))
    assert result is not None
    assert result.metrics["float"] == 100.0
    assert result.metrics["calibrated"] is not None and result.metrics["calibrated"] >= 92.0

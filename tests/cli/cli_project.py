"""A small model with a configuration and calibration data in a folder of their own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flows"))

from small_models import InputNeed, save_small_model

CONFIG = """model_parameters:
  onnx_model: net.onnx
  march: bayes-e
  output_model_file_prefix: net
  working_dir: out
input_parameters:
  input_name: image
  input_type_train: rgb
  input_layout_train: NCHW
  input_type_rt: nv12
  norm_type: data_scale
  scale_value: 0.0078125
calibration_parameters:
  calibration_type: max
  cal_data_dir: ./cal_f32
  cal_data_type: float32
compiler_parameters:
  compile_mode: latency
  optimize_level: O2
"""


@dataclass(frozen=True)
class Project:
    """A folder with net.onnx, config.yaml and cal_f32."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def artifact(self) -> Path:
        return self.folder / "out" / "net.bin"

    def replace(self, old: str, new: str) -> Path:
        """Change the configuration; returns its path."""
        text = self.config.read_text(encoding="utf-8")
        assert old in text
        self.config.write_text(text.replace(old, new), encoding="utf-8")
        return self.config

    def left_behind(self) -> list[str]:
        """Half-written files and artifacts."""
        return sorted(p.name for p in self.folder.rglob("*") if p.name.startswith(".") or p.suffix == ".bin")


def make_project(folder: Path) -> Project:
    save_small_model([InputNeed("image", (1, 3, 16, 16), True, "NCHW")], folder / "net.onnx")
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    data = folder / "cal_f32"
    data.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        rng.integers(0, 256, (1, 3, 16, 16)).astype(np.float32).tofile(data / f"{index}.rgb")
    return Project(folder)

"""The mean and scale of the digits network, read from the config that builds them into the compiled model."""

from __future__ import annotations

from pathlib import Path

import yaml

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "digits.yaml"

_inputs = yaml.safe_load(CONFIG.read_text())["input_parameters"]
MEAN = float(_inputs["mean_value"])  # grey levels, 0..255
SCALE = float(_inputs["scale_value"])  # 1 / grey levels

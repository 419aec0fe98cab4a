"""Writes docs/training.md from the schema of the YAML that drives calib, qat, convert and export-onnx."""

from __future__ import annotations

from pathlib import Path

from hbtool.config.training_loader import training_schema_page

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    (ROOT / "docs" / "training.md").write_text(training_schema_page(), encoding="utf-8")

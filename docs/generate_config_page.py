"""Writes docs/config.md and configs/hbtool.schema.json from the schema of the configuration."""

from __future__ import annotations

from pathlib import Path

from hbtool.config import config_page, json_schema_text

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    (ROOT / "docs" / "config.md").write_text(config_page(), encoding="utf-8")
    (ROOT / "configs" / "hbtool.schema.json").write_text(json_schema_text(), encoding="utf-8")

"""Writes docs/cli.md from the help of the commands."""

from __future__ import annotations

from pathlib import Path

from hbtool.cli.page import cli_page

if __name__ == "__main__":
    (Path(__file__).resolve().parent / "cli.md").write_text(cli_page(), encoding="utf-8")

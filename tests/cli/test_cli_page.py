"""docs/cli.md is what the commands say about themselves, and every command explains itself at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import hbtool

from hbtool.cli.main import COMMANDS
from hbtool.cli.page import cli_page


def test_the_page_is_current(checkout: Path) -> None:
    text = (checkout / "docs" / "cli.md").read_text(encoding="utf-8")
    assert text == cli_page(), "run docs/generate_cli_page.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    ran = hbtool(name, "--help")
    assert ran.code == 0
    assert f"hbtool {name}" in ran.out
    assert "--help" in ran.out


def test_the_list_names_every_command() -> None:
    ran = hbtool("--help")
    for name, (_, text) in COMMANDS.items():
        assert f"  {name}" in ran.out
        assert text.rstrip(".")[:40] in ran.out

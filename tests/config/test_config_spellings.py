"""Every real file, rewritten as editors, documents and other people would write it, means the same."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from hbtool.config import load_config, parse_config
from hbtool.config.schema import SECTIONS, Config
from hbtool.config.section import keys_of
from hbtool.errors import ConfigError

FOLDER = Path(os.environ.get("HBTOOL_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "configs"
KEYS = {name for section in SECTIONS.values() for name in keys_of(section)}
KEY = re.compile(r"^(\s+)(\w+):", re.M)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder shared/configs is not beside the checkout")


def renamed(text: str, change: Callable[[str], str]) -> str:
    return KEY.sub(lambda m: f"{m[1]}{change(m[2]) if m[2] in KEYS else m[2]}:", text)


REWRITINGS: dict[str, Callable[[str], str]] = {
    "TABs indent": lambda t: re.sub(r"^( +)", lambda m: "\t" * max(1, len(m[1]) // 2), t, flags=re.M),
    "TABs behind colons": lambda t: re.sub(r"^(\s+\w+):[ ]+", r"\1:\t", t, flags=re.M),
    "TABs at line ends": lambda t: re.sub(r"$", "\t", t, flags=re.M),
    "blanks at line ends": lambda t: re.sub(r"$", "   ", t, flags=re.M),
    "DOS line ends": lambda t: t.replace("\n", "\r\n"),
    "byte-order mark": lambda t: "\ufeff" + t,
    "double quotes": lambda t: re.sub(r"^(\s+\w+:\s*)'([^'\"\\\n]*)'\s*$", r'\1"\2"', t, flags=re.M),
    "no quotes": lambda t: re.sub(r"^(\s+\w+:\s*)['\"]([\w./-]+)['\"]\s*$", r"\1\2", t, flags=re.M),
    "typographic quotes": lambda t: re.sub(r"^(\s+\w+: )'([\w .;/,-]+)'", "\\1\u2018\\2\u2019", t, flags=re.M),
    "full-width semicolons": lambda t: re.sub(r"(['\"][^'\"\n]*);([^'\"\n]*['\"])", "\\1\uff1b\\2", t),
    "non-breaking blanks": lambda t: re.sub(r": (?=\S)", ":\u00a0", t),
    "upper-case keys": lambda t: renamed(t, str.upper),
    "keys with dashes": lambda t: renamed(t, lambda key: key.replace("_", "-")),
    "no comments": lambda t: "\n".join(line for line in t.splitlines() if not line.strip().startswith("#")),
    "wider indentation": lambda t: re.sub(r"^( +)", lambda m: m[1] * 2, t, flags=re.M),
    "document marks": lambda t: f"---\n{t}\n...\n",
    "Markdown fence": lambda t: f"```yaml\n{t}\n```\n",
}


@cache
def readable() -> list[tuple[Path, str, Config]]:
    """The files that load, with their text and what they say."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        with contextlib.suppress(ConfigError):
            found.append((path, path.read_text(encoding="utf-8-sig"), load_config(path).config))
    return found


@pytest.mark.parametrize("rewrite", REWRITINGS.values(), ids=REWRITINGS)
def test_a_rewritten_file_means_the_same(rewrite: Callable[[str], str]) -> None:
    compared = 0
    for path, text, expected in readable():
        if rewrite(text) == text:
            continue
        assert parse_config(rewrite(text), file=path.name, folder=path.parent).config == expected, path.name
        compared += 1
    assert compared > 5

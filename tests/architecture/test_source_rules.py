"""Rules of the house that the linters do not know: who prints, what executes, how long a file may be."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # the parser that pytest itself uses there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hbtool"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 500
VAGUE_NAME = re.compile(r"^_?(utils?|common|helpers?|misc|.*manager)$")
EXECUTING_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def printing_lines(source: str) -> list[int]:
    """Return the lines that call `print` or reach for `sys.stdout` and `sys.stderr`."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        touched = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if called == "print" or touched in {"sys.stdout", "sys.stderr"}:
            lines.append(node.lineno)
    return sorted(lines)


def executing_lines(source: str) -> list[int]:
    """Return the lines that could run what a file holds: eval, exec, a pickle module, torch.load without its guard."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            guarded = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            name = ast.unparse(node.func)
            if name in {"eval", "exec"} or (name == "torch.load" and not guarded):
                lines.append(node.lineno)
        elif EXECUTING_MODULES.intersection(imported(node)):
            lines.append(node.lineno)
    return sorted(lines)


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the top-level packages an import statement names; nothing for any other node."""
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield (node.module or "").partition(".")[0]


def report(found: dict[Path, list[int]]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{line}" for path, lines in found.items() for line in lines]


def test_only_the_command_line_prints() -> None:
    library = [path for path in SOURCES if PACKAGE / "cli" not in path.parents]
    assert report({path: printing_lines(path.read_text()) for path in library}) == []


def test_nothing_read_from_a_file_is_executed() -> None:
    assert report({path: executing_lines(path.read_text()) for path in SOURCES}) == []


def test_files_can_be_read_in_one_sitting() -> None:
    counts = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in SOURCES}
    assert {str(path): count for path, count in counts.items() if count > MAX_LINES} == {}


def test_modules_are_named_after_what_they_hold() -> None:
    assert [str(path.relative_to(ROOT)) for path in SOURCES if VAGUE_NAME.match(path.stem)] == []


def test_every_package_stands_on_a_floor() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(c["layers"] for c in contracts if c["type"] == "layers")
    named = {module.strip() for floor in floors for module in re.split("[|:]", floor)}
    packages = {f"hbtool.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    modules = {f"hbtool.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem not in {"__init__", "__main__"}}
    assert sorted((packages | modules) - named) == []


@pytest.mark.parametrize("line", ["print('x')", "sys.stdout.write('x')", "print('x', file=sys.stderr)"])
def test_printing_is_recognized(line: str) -> None:
    assert set(printing_lines(f"import sys\n{line}\n")) == {2}
    assert printing_lines("console.print('x')\ntext = 'print(x)'\n") == []


@pytest.mark.parametrize("line", ["eval(x)", "import pickle", "from joblib import load", "torch.load(p)"])
def test_executing_is_recognized(line: str) -> None:
    assert executing_lines(f"x = 1\n{line}\n") == [2]
    assert executing_lines("model.eval()\ntorch.load(p, weights_only=True)\nfrom . import pickle_free\n") == []

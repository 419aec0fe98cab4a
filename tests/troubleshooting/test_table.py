"""The table is complete, every row has its test, and the page is made from it."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

from troubled import TABLE

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = (
    [f"env_{i}" for i in range(1, 3)]
    + [f"qat_{i}" for i in range(1, 11)]
    + [f"failure_{i}" for i in range(1, 14)]
    + [f"mapper_{i}" for i in range(1, 25)]
)


def test_all_rows_are_there() -> None:
    assert [row["id"] for row in TABLE] == EXPECTED
    for row in TABLE:
        assert row["behaviour"] in ("works", "repaired", "error")
        assert row["message"] and row["situation"] and row["answer"].endswith((".", "."))
        assert row["behaviour"] != "error" or row["says"]


def test_every_row_has_a_test_that_reads_what_it_promises() -> None:
    functions = {}
    for path in Path(__file__).parent.glob("test_*.py"):
        source = path.read_text(encoding="utf-8")
        functions.update({n.name: ast.get_source_segment(source, n) for n in ast.parse(source).body
                          if isinstance(n, ast.FunctionDef)})  # fmt: skip
    for row in TABLE:
        body = functions[f"test_{row['id']}"]
        assert (body is not None and "assert" in body) or "works(" in str(body) or "raises" in str(body)
        assert ("says" not in row) or f'says("{row["id"]}")' in body or f"says('{row['id']}')" in body


def test_page_is_current() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate_troubleshooting_page.py"))["troubleshooting_page"]()
    assert (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8") == page
    assert all(message in page for row in TABLE for message in (row["message"], *row.get("also", ())))

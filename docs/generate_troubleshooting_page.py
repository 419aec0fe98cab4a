"""Writes docs/troubleshooting.md from tests/troubleshooting/table.yaml, the table that the tests hold hbtool to."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "troubleshooting" / "table.yaml"
_GROUPS = (
    ("env", "Environment"),
    ("qat", "Questions about QAT"),
    ("failure", "Failures during QAT, conversion and compilation"),
    ("mapper", "Complaints of the mapper's users"),
)
_BEHAVIOUR = {"works": "Works.", "repaired": "Repaired automatically.", "error": "A clear message."}
_HEAD = """# Troubleshooting

Search this page for the message that the vendor's tool prints. Every row has a test that produces the situation.
This page is generated from `tests/troubleshooting/table.yaml` by `docs/generate_troubleshooting_page.py`.

First steps: `hbtool doctor` (is this computer fit), `hbtool lint config.yaml` (data and preprocessing),
`hbtool debug runall config.yaml` (where the accuracy goes), `hbtool tune config.yaml` (what brings it back).
"""


def troubleshooting_page() -> str:
    """The page as text."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    parts = [_HEAD]
    for prefix, title in _GROUPS:
        parts.append(f"\n## {title}\n")
        for row in (r for r in rows if r["id"].rpartition("_")[0] == prefix):
            parts.append(f"\n### {row['id']}: {row['message']}\n")
            if also := row.get("also"):
                parts.append(f"\n*Also:* {'; '.join(also)}\n")
            parts.append(f"\n*Situation:* {row['situation']}\n")
            parts.append(f"\n**{_BEHAVIOUR[row['behaviour']]}** {row['answer']}\n")
            if "says" in row and row["behaviour"] != "works":
                parts.append(f"\nhbtool says: `… {row['says']} …`\n")
    return "".join(parts)


if __name__ == "__main__":
    (ROOT / "docs" / "troubleshooting.md").write_text(troubleshooting_page(), encoding="utf-8")

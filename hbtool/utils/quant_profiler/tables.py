"""How the tools publish what they find: aligned text to the log and to a file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

log = logging.getLogger("hbtool.utils.quant_profiler")


def table(rows: Iterable[Sequence[Any]], header: Sequence[str]) -> str:
    """Aligned columns under a header; None is blank."""
    cells = [list(header), *(["" if c is None else str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def publish(text: str, show: bool, out_dir: str | Path | None, file_name: str) -> None:
    """Log the text, and write it where a folder is given."""
    if show:
        log.info("%s", text)
    if out_dir is not None:
        write(text + "\n", out_dir, file_name)


def write(text: str, out_dir: str | Path, file_name: str) -> Path:
    """A file in a folder that is made where it is missing."""
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name
    path.write_text(text, encoding="utf-8")
    return path


def examples(example_inputs: Any) -> tuple[Any, ...]:
    """One batch as the arguments of forward."""
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)

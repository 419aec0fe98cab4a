"""The tables that several commands print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hbtool.cli.console import shortened, shown, text_table

SHOWN_REFUSALS = 40


def inputs_text(inputs: Sequence[Any]) -> str:
    """The inputs as they were understood, one row each (`InputConfig`s)."""
    from hbtool.config import inputs_table

    rows = [row | {"samples": shown(row["samples"]) if row["samples"] else ""} for row in inputs_table(inputs)]
    header = list(dict.fromkeys(key for row in rows for key in row))
    return text_table("Inputs as they were understood", header, [[row.get(k, "--") for k in header] for row in rows])


def node_text(rows: Sequence[Any], *, measured: bool = True) -> str:
    """The node table, and below it why nodes are on the CPU (`NodeRow`s)."""
    cells = []
    for r in rows:
        cell = [shortened(r.node), r.device, r.subgraph, r.type]
        if measured:
            cell.append("--" if r.cosine is None else f"{r.cosine:.6f}")
            cell.append("--" if r.threshold is None else f"{r.threshold:.6g}")
        cells.append([*cell, r.dtype])
    header = ["Node", "ON", "Subgraph", "Type"]
    header += ["Cosine Similarity", "Threshold", "DataType"] if measured else ["DataType"]
    title = "Model nodes after quantization" if measured else "Where the nodes run"
    text = text_table(title, header, cells)
    on_cpu = [f"{shortened(r.node)} ({r.type}): {r.reason}" for r in rows if r.device == "CPU"]
    if on_cpu:
        title = "Nodes on the CPU, and why"
        text += "\n\n" + "\n".join([title, "=" * len(title), *on_cpu])
    return text


def refused_text(refused: Sequence[Any]) -> str:
    """int16 requests that fell back to int8 (`RefusedInt16`s)."""
    rows = [(shortened(r.node), r.slot, r.origin, r.reason) for r in refused[:SHOWN_REFUSALS]]
    text = text_table("int16 requests that stay int8", ("Node", "Slot", "Asked by", "Reason"), rows)
    more = len(refused) - SHOWN_REFUSALS
    return text if more <= 0 else f"{text}\n... and {more} more (--json lists all)"


def removed_text(removed: Iterable[Any], formulas: Sequence[str]) -> str:
    """Removed nodes and what the application does instead (`RemovedNode`s, one formula each)."""
    rows = []
    for node, formula in zip(removed, formulas, strict=True):
        where = f"{'before' if node.side == 'head' else 'after'} {node.value}"
        rows.append((shortened(node.name), node.type, where, formula))
    return text_table("What the application does now", ("Removed node", "Type", "Where", "numpy"), rows)


def scale_lines(node: Any) -> list[str]:
    """Scales, zero point and axis of a removed Quantize or Dequantize, complete."""
    if node.type not in ("Quantize", "Dequantize"):
        return []
    a = node.attributes
    axis = "per tensor" if int(a["axis"]) < 0 else f"quantizeAxis {a['axis']}"
    lines = [f"{node.name}: {a['type']}, zero point {a['zero_point']}, {axis}, {len(a['scales'])} scale(s):"]
    scales = [f"{s:.9g}" for s in a["scales"]]
    lines += ["  " + ", ".join(scales[i : i + 8]) for i in range(0, len(scales), 8)]
    return lines

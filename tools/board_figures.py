"""Published figures of real boards for the networks of ../shared/architectures, and which of them can be compared.

A row is left out where its note says that it was taken at another clock, by an older toolchain than another row of the
same board, or with another Softmax. A network stands apart (reported, not fitted, not counted) where what is published
cannot belong to the graph at hand or contradicts itself; `Measured.apart` says why. Both are decided from published
figures alone, never from an estimate.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OTHER_CONDITIONS = ("1.2GHz", "clock not stated", "older measurement")
OTHER_SOFTMAX = "softmax"
MOST_PARAMETER_DEVIATION = 5.0
"""Percent between the parameters of the graph and the published number; more is another network."""

EXPLAINED = "count both heads"
"""A note that explains a deviation: what is published counts parts that are not deployed."""

IMPOSSIBLE = 1.25
"""A frame cannot take longer on the BPU than a whole frame with one thread does, but for what threads disturb."""


STAND_INS = {
    "Ultra (J5)": {
        "yolo11s-pose": ("YOLO11s, 264.5 frames/s on two cores, 21.5 GFLOPs", 2e3 / 264.5 * 2 * 11.5859 / 21.5),
        "yolo11m-pose": ("YOLO11m, 159.9 frames/s on two cores, 68.0 GFLOPs", 2e3 / 159.9 * 2 * 35.7524 / 68.0),
    }
}
"""Networks with published frame rates whose graphs are not at hand: a near relative stands in, the published time
multiplied by the relation of their operations. (Board -> graph -> what is published, milliseconds.)"""


@dataclass(frozen=True)
class Measured:
    """What is published about one network on one board.

    Attributes:
        ms: median of the milliseconds per frame and core that the BPU bounds.
        apart: why it cannot be compared, empty where it can.
        stands_for: the published network that it stands for, empty where it is that network.
    """

    ms: float
    apart: str = ""
    stands_for: str = ""


def measured(shared: Path, board: str) -> dict[str, Measured]:
    """Network -> what is published about it on the board."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in _table(shared / "reference" / "board_latency.csv"):
        fits = not any(text in row["note"] for text in OTHER_CONDITIONS) and OTHER_SOFTMAX not in row["model"].lower()
        if row["board"] == f"RDK {board}" and row["kind"] == "measured" and fits:
            rows.setdefault(row["model"], []).append(row)
    result = {}
    for network in _table(shared / "architectures" / "INDEX.csv"):
        found = [r for n in _names(network["board_rows"], f"{board} measured: ") for r in rows.get(n, [])]
        bounds = [float(r["bpu_bound_ms_per_frame_per_core"]) for r in found if r["bpu_bound_ms_per_frame_per_core"]]
        if bounds:
            result[network["model"]] = Measured(statistics.median(bounds), _apart(network, found, min(bounds)))
    for name, (text, ms) in STAND_INS.get(board, {}).items():
        result[name] = Measured(ms, stands_for=text)
    return result


def _apart(network: dict[str, str], rows: list[dict[str, str]], bound_ms: float) -> str:
    deviation = float(network["params_dev_pct"] or 0)
    if abs(deviation) > MOST_PARAMETER_DEVIATION and EXPLAINED not in network["notes"]:
        return f"another graph: its parameters differ from the published number by {deviation:+.1f} %"
    single = [float(r["bpu_latency_ms_1thread"]) for r in rows if r["bpu_latency_ms_1thread"]]
    if single and min(single) * IMPOSSIBLE < bound_ms:
        return f"contradiction: a whole frame is also published as {min(single):.2f} ms, less than this bound"
    return ""


def published_ddr_bytes(shared: Path) -> dict[str, float]:
    """Network -> median of the DDR bytes that the vendor's compiler stated for it (bayes-e).

    Only rows of the same input size, with an int8 Softmax and of the graph as exported.
    """
    stated: dict[str, list[float]] = {}
    for row in _table(shared / "reference" / "static_estimates.csv"):
        other_graph = int(row["int16_nodes"] or 0) > 1 or "README replaces" in row["source"] + row["min_node"]
        if row["static_ddr_bytes"] and not other_graph:
            stated.setdefault(f"{row['model']}@{row['input_hw']}", []).append(float(row["static_ddr_bytes"]))
    result = {}
    for network in _table(shared / "architectures" / "INDEX.csv"):
        size = network["input"].split("x")[-1]
        values = [v for n in _names(network["board_rows"], "static: ") for v in stated.get(f"{n}@{size}", [])]
        # The published input size of one network is not the one of the graph at hand.
        if values:
            result[network["model"]] = statistics.median(values)
    return result


def parameters_m(shared: Path) -> dict[str, float]:
    """Network -> millions of parameters."""
    return {row["model"]: float(row["params_M"]) for row in _table(shared / "architectures" / "INDEX.csv")}


def _table(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from csv.DictReader(file)


def _names(text: str, prefix: str) -> list[str]:
    parts = [part.strip() for part in text.split("|")]
    return [name.strip() for part in parts if part.startswith(prefix) for name in part[len(prefix) :].split(";")]

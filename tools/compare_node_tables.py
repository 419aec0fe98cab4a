"""Compares hbtool's node tables with the vendor's, network by network (`reference/node_tables.csv` of shared).

    python tools/compare_node_tables.py ../shared [MODEL ...]

A network is taken through the road without calibration data: every value gets a range of its own, so that scales differ
wherever calibration would make them differ. Node types are compared under the vendor's names; the mapping lives here
and nowhere in the product.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

import onnx
import onnx_ir as ir

from hbtool.compiler.segments import Segment, split_segments
from hbtool.ir import graph, meta
from hbtool.ir.load import prepare_model
from hbtool.numerics.color import preprocess_affine
from hbtool.numerics.ranges import Range
from hbtool.ops.op import is_integer, read_attributes
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.insert_preprocess import insert_preprocess
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import INT16_FAMILIES, place
from hbtool.passes.simplify import simplify
from hbtool.target.target import load

GRAPHS = {
    "YOLO11n": "yolo11n",
    "YOLO11n-CLS": "yolo11n-cls",
    "YOLO12n": "yolo12n",
    "YOLOv10n": "yolov10n",
    "YOLOv5nu": "yolov5nu",
    "YOLOv8n": "yolov8n",
    "YOLOv8n-CLS": "yolov8n-cls",
    "YOLOv8n-OBB": "yolov8n-obb",
    "YOLOv8n-Seg": "yolov8n-seg",
    "YOLOv9c-Seg": "yolov9c-seg",
    "RepVGG_A2": "repvgg_a2",
    "YOLO11n int8 softmax": "yolo11n",
    "YOLOv8n (2024-12)": "yolov8n",
}
"""Model of the tables -> graph file; the other tables belong to exports that are not among the graphs."""

LONGEST_NAME = 50
"""Longer names keep their last 47 characters in the vendor's table."""

FLOAT_NAMES = {
    "HzPreprocess": "HzSQuantizedPreprocess",
    "Conv": "HzSQuantizedConv",
    "HzSwish": "HzLut",
    "MaxPool": "HzQuantizedMaxPool",
    "Resize": "HzQuantizedResizeUpsample",
    "MatMul": "HzSQuantizedMatmul",
    "GlobalAveragePool": "HzSQuantizedGlobalAveragePool",
    "ConvTranspose": "HzSQuantizedConvTranspose",
    "ReduceMax": "HzQuantizedReduceMax",
    "ReduceSum": "HzSQuantizedReduceSum",
    "Sub": "HzSElementwiseSub",
    "Mul": "HzSElementwiseMul",
    "Exp": "HzLut",
    "Reciprocal": "HzLut",
}
"""Type names of the vendor's older tables -> those of the newer ones."""


@dataclass(frozen=True)
class Row:
    """One row of a node table, under the vendor's names."""

    node: str
    device: str
    subgraph: str
    type: str
    dtype: str


@dataclass
class Comparison:
    """What came of comparing one table.

    Attributes:
        model: name of the table.
        rows: rows of the vendor's table.
        segments: BPU segments (vendor, hbtool).
        same_device: rows whose node runs on the same device in hbtool.
        same_type: rows with the same type too.
        requantize: inserted nodes (vendor, hbtool, at the same place in both).
        inserted: rows of the vendor's that its tool added and that have no node in the network.
        differences: what was found instead -> names of the rows.
    """

    model: str
    rows: int
    segments: tuple[int, int]
    same_device: int = 0
    same_type: int = 0
    requantize: tuple[int, int, int] = (0, 0, 0)
    inserted: int = 0
    differences: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, name: str) -> None:
        """Record a difference."""
        self.differences.setdefault(what, []).append(name)


def read_tables(path: Path) -> dict[str, list[list[Row]]]:
    """The vendor's tables by model; a model has several where several logs were published."""
    tables: dict[str, list[list[Row]]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            mine = tables.setdefault(line["model"], [])
            if not mine or line["idx"] == "0":
                mine.append([])
            kind = FLOAT_NAMES.get(line["type"], line["type"])
            mine[-1].append(Row(line["node"], line["on"], line["subgraph"], kind, line["dtype"].split("/")[0]))
    return tables


def our_table(path: Path, march: str) -> list[Row]:
    """hbtool's table of a graph file for an NV12 image input."""
    proto = onnx.load(path)
    sys.path.insert(0, str(path.parent))
    try:
        import fill_weights
    finally:
        sys.path.pop(0)
    fill_weights.fill(proto)
    target = load(march)
    model = prepare_model(proto, str(path))
    affine = preprocess_affine("nv12", "rgb", "regular", None, [1 / 255] * 3, None)
    for value in list(model.graph.inputs):
        insert_preprocess(model, graph.value_name(value), affine, "NCHW", True)
    model = simplify(model)
    place(model, target.family)
    fuse_clamps(model)
    ranges = {name: Range((-bound,), (bound,)) for name, bound in _bounds(values_to_observe(model))}
    attach_ranges(model, ranges, RangeOptions(int16_tail=target.family in INT16_FAMILIES))
    integer = lower_to_integer(model, target.family, target.multiplier_bits)
    return [row for segment in split_segments(integer) for row in _rows(segment, march)]


def _bounds(names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """A different threshold for every value, all of one magnitude."""
    for index, name in enumerate(names):
        yield name, 4.0 + index / 1024


def _rows(segment: Segment, march: str) -> Iterator[Row]:
    splits: set[str | None] = set()
    for node in segment.nodes:
        if segment.device == "CPU":
            if not is_integer(node):
                yield Row(graph.node_name(node), "CPU", "--", node.op_type, "float")
            continue
        stem = meta.float_node(node)
        first = node.inputs[0]
        q = meta.qparams(first) if first is not None else None
        kind, name = vendor_type(node), vendor_name(node)
        if kind == "Slice" and "Split" in name:
            # One Slice for each output; the vendor has one row.
            if stem in splits:
                continue
            splits.add(stem)
            kind, name = "Split", str(stem)
        yield Row(name, "BPU", f"id({segment.index})", kind, q.type.name if q else "float")


def vendor_name(node: ir.Node) -> str:
    """The name that the vendor's tool would give the node."""
    name, stem = graph.node_name(node), meta.float_node(node) or ""
    if node.op_type == "Requantize":
        name = name.removesuffix("_Requantize") + "_calibrated_Requantize"
    if stem.rpartition("/")[2].startswith("Div"):
        name = stem + ("_mul" if node.op_type == "Mul" else "_reciprocal")
    return name if len(name) <= LONGEST_NAME else "..." + name[-47:]


def vendor_type(node: ir.Node) -> str:
    """The vendor's type name of an integer node."""
    name, first = graph.node_name(node), node.inputs[0]
    second = graph.input_at(node, 1)
    activation = second is not None and graph.constant(second) is None
    q = meta.qparams(first) if first is not None else None
    if name.startswith("HZ_PREPROCESS_FOR_"):
        return "HzSQuantizedPreprocess"
    if node.op_type in ("MatMul", "Mul", "Add") and not activation:
        return "HzSQuantizedConv"
    if node.op_type == "Add":
        return "HzSElementwiseSub" if read_attributes(node).b_ratio < 0 else "HzSElementwiseAdd"
    if node.op_type in ("Table", "SegmentTable"):
        return "HzLut" if q is not None and q.type.bits == 8 else "HzLut2Layer"
    return TYPES.get(node.op_type, node.op_type)


TYPES = {
    "Conv": "HzSQuantizedConv",
    "ConvTranspose": "HzSQuantizedConvTranspose",
    "MatMul": "HzSQuantizedMatmul",
    "Mul": "HzSElementwiseMul",
    "Requantize": "HzRequantize",
    "MaxPool": "HzQuantizedMaxPool",
    "AveragePool": "HzSQuantizedGlobalAveragePool",
    "Interpolate": "HzQuantizedResizeUpsample",
    "SelectRows": "HzQuantizedResizeUpsample",
    "ReduceExtreme": "HzQuantizedReduceMax",
    "ReduceSum": "HzSQuantizedReduceSum",
}
"""Integer operator -> the vendor's type name, where one name tells it."""


def compare(model: str, theirs: Sequence[Row], ours: Sequence[Row]) -> Comparison:
    """Match the rows of two tables, by name and otherwise by order, and note what differs."""
    segments = [len({r.subgraph for r in rows if r.device == "BPU"}) for rows in (theirs, ours)]
    result = Comparison(model, len(theirs), (segments[0], segments[1]))
    pairs, missing, extra = _pairs(theirs, ours)
    inserted = [sum(r.type == "HzRequantize" for r in rows) for rows in (theirs, ours)]
    result.requantize = (*inserted, sum(a.type == b.type == "HzRequantize" for a, b in pairs))
    for a, b in pairs:
        result.same_device += a.device == b.device
        result.same_type += a.type == b.type and a.dtype == b.dtype
        if a.device != b.device:
            result.note(f"on the {a.device} there, on the {b.device} here", a.node)
        elif (a.type, a.dtype) != (b.type, b.dtype):
            result.note(_why_other_type(a, b), a.node)
    for row in missing:
        result.note(_why_missing(row), row.node)
    for row in extra:
        result.note(_why_extra(row), row.node)
    result.inserted = sum(row.type in INSERTED or _is_tail_reshape(row) for row in missing)
    return result


def _pairs(theirs: Sequence[Row], ours: Sequence[Row]) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    waiting: dict[str, list[Row]] = {}
    for row in ours:
        waiting.setdefault(row.node, []).append(row)
    pairs, missing = [], []
    for row in theirs:
        if waiting.get(row.node):
            pairs.append((row, waiting[row.node].pop(0)))
        else:
            missing.append(row)
    extra = [row for rows in waiting.values() for row in rows]
    if len(pairs) < len(missing):
        return _by_order(theirs, ours)
    return pairs, missing, extra


def _by_order(theirs: Sequence[Row], ours: Sequence[Row]) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Another exporter gave other names: align the sequences of types."""
    matcher = SequenceMatcher(None, [r.type for r in theirs], [r.type for r in ours], autojunk=False)
    pairs: list[tuple[Row, Row]] = []
    missing, extra = set(range(len(theirs))), set(range(len(ours)))
    for i, j, length in matcher.get_matching_blocks():
        pairs += [(theirs[i + k], ours[j + k]) for k in range(length)]
        missing -= set(range(i, i + length))
        extra -= set(range(j, j + length))
    return pairs, [theirs[i] for i in sorted(missing)], [ours[j] for j in sorted(extra)]


def _is_tail_reshape(row: Row) -> bool:
    return row.type == "Reshape" and row.device == "CPU"


INSERTED = ("HzPad",)
"""Kinds of rows that the vendor's tool adds for its own layouts."""


def _why_other_type(a: Row, b: Row) -> str:
    if b.type == "HzLut" and a.type in ("HzSQuantizedConv", "HzSElementwiseMul") and a.node.endswith("Mul"):
        return "a product with one number is a table here, a 1x1 Conv or a product there"
    if "AveragePool" in a.node:
        return "average pooling is a depthwise Conv of ones there, an exact integer sum here"
    return UNEXPLAINED.format(f"{a.type} {a.dtype} there, {b.type} {b.dtype} here")


def _why_missing(row: Row) -> str:
    if row.type == "HzPad":
        return "an older build pads in a node of its own; the Conv pads here"
    if _is_tail_reshape(row):
        return "a CPU Reshape behind the Gemm, which is a 1x1 Conv with two axes too many there; a matrix product here"
    return UNEXPLAINED.format(f"no {row.type} here")


def _why_extra(row: Row) -> str:
    if row.type == "HzSElementwiseAdd":
        return "the Add is part of the Conv before it there, an elementwise operator here"
    if row.type == "Transpose" or "Transpose" in row.node:
        return "a Transpose that the vendor's NHWC tensors absorb (at the tail, and around MatMul)"
    if row.type == "HzRequantize":
        return (
            "the two scales were equal on the vendor's calibration data (see the thresholds); every range differs here"
        )
    if row.type == "Reshape":
        return "the Flatten before a Gemm; the Gemm is a 1x1 Conv there and needs none"
    return UNEXPLAINED.format(f"no {row.type} there")


UNEXPLAINED = "not explained: {}"


def report(results: Sequence[Comparison]) -> str:
    """The two tables of docs/partition.md."""
    lines = [
        "| network | vendor rows | same device | same type | BPU segments (vendor, hbtool) "
        "| Requantize (vendor, hbtool, same place) |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        own = r.rows - r.inserted
        shares = [f"{n} of {own} ({n / own:.1%})" for n in (r.same_device, r.same_type)]
        counts = ", ".join(map(str, r.requantize))
        lines.append(
            f"| {r.model} | {r.rows} | {shares[0]} | {shares[1]} | {r.segments[0]}, {r.segments[1]} | {counts} |"
        )
    lines += ["", "| difference | rows | networks | for example |", "|---|---|---|---|"]
    whats = dict.fromkeys(what for r in results for what in r.differences)
    for what in whats:
        found = [(r.model, r.differences[what]) for r in results if what in r.differences]
        models = ", ".join(model for model, _ in found)
        lines.append(f"| {what} | {sum(len(n) for _, n in found)} | {models} | `{found[0][1][0]}` |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the comparison of every table that has a graph; 1 where a difference has no explanation."""
    shared = Path(arguments[0])
    tables = read_tables(shared / "reference" / "node_tables.csv")
    results = []
    for model in arguments[1:] or list(GRAPHS):
        ours = our_table(shared / "architectures" / f"{GRAPHS[model]}.onnx", "bayes-e")
        results.append(compare(model, tables[model][0], ours))
    print(report(results))
    return int(any(what.startswith(UNEXPLAINED[:13]) for r in results for what in r.differences))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

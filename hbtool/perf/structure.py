"""The model as boxes and arrows: inputs, BPU segments, CPU nodes, the values between them, outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hbtool.perf.facts import NodeFact, SegmentFact, TensorFact
from hbtool.perf.layout import Placed, place_boxes
from hbtool.perf.report import Report, SegmentReport

Kind = Literal["input", "output", "bpu", "cpu", "value", "precise"]

FONT_PX = 13.0
SMALL_PX = 11.0
LINE_PX = 15.0
_EM_WIDTH = 0.56
_PADDING = (14.0, 8.0)
_MOST_CPU_NODES = 12
_LONGEST = 42


@dataclass(frozen=True)
class Item:
    """A box, or the text on an arrow.

    Attributes:
        kind: `value` and `precise` (int32 from the BPU) are texts on arrows.
        title: first line.
        lines: smaller lines below.
        tip: the full text.
    """

    kind: Kind
    title: str
    lines: tuple[str, ...]
    tip: str

    @property
    def is_text(self) -> bool:
        """Whether it is drawn without a box."""
        return self.kind in ("value", "precise")

    @property
    def size(self) -> tuple[float, float]:
        """Width and height its text needs."""
        if self.is_text:
            return max(map(_small_width, self.lines)) + 8, LINE_PX * len(self.lines)
        width = max([len(self.title) * FONT_PX * _EM_WIDTH * 1.08, *map(_small_width, self.lines)])
        return width + 2 * _PADDING[0], LINE_PX * (1 + len(self.lines)) + 2 * _PADDING[1]


@dataclass(frozen=True)
class Structure:
    """The picture.

    Attributes:
        items: by identifier, sources before targets.
        edges: (source, target).
        placed: where they are.
    """

    items: dict[str, Item]
    edges: tuple[tuple[str, str], ...]
    placed: Placed


def structure_of(report: Report) -> Structure:
    """The structure of a model, placed."""
    builder = _Builder(report)
    placed = place_boxes({name: item.size for name, item in builder.items.items()}, builder.edges)
    return Structure(builder.items, tuple(dict.fromkeys(builder.edges)), placed)


def printable(text: str) -> str:
    """The text without characters that XML or a picture cannot show."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def short(name: str) -> str:
    """A name for a box: printable, its end if it is long."""
    name = printable(name)
    return name if len(name) <= _LONGEST else f"\N{HORIZONTAL ELLIPSIS}{name[-_LONGEST + 1 :]}"


def _small_width(text: str) -> float:
    return len(text) * SMALL_PX * _EM_WIDTH


class _Builder:
    def __init__(self, report: Report) -> None:
        self.items: dict[str, Item] = {}
        self.edges: list[tuple[str, str]] = []
        self.source: dict[str, str] = {}
        self.reports = {s.name: s for s in report.segments}
        self.leaving = {t.name for t in report.model.outputs}
        self.read = {t.name for s in report.model.segments for t in s.inputs}
        for tensor in report.model.inputs:
            self.source[tensor.name] = self._add(f"in:{tensor.name}", _end("input", tensor))
        for segment in report.model.segments:
            self._segment(segment)
        for tensor in report.model.outputs:
            self._output(tensor)

    def _segment(self, segment: SegmentFact) -> None:
        if segment.device == "BPU":
            box = self._add(segment.name, _bpu(self.reports[segment.name]))
            self._connect(box, (t.name for t in segment.inputs))
            self._values(box, segment.outputs, "BPU")
        elif len(segment.nodes) > _MOST_CPU_NODES:
            box = self._add(segment.name, _several(segment))
            self._connect(box, (t.name for t in segment.inputs))
            self._values(box, segment.outputs, "CPU")
        else:
            self._nodes(segment)

    def _nodes(self, segment: SegmentFact) -> None:
        read = self.read | {name for node in segment.nodes for name in node.inputs}
        for number, node in enumerate(segment.nodes):
            box = self._add(f"{segment.name}/{number}", _cpu(node))
            self._connect(box, node.inputs)
            self._values(box, [t for t in node.outputs if t.name in read | self.leaving], "CPU")

    def _connect(self, box: str, names: Iterable[str]) -> None:
        self.edges += [(self.source[name], box) for name in names if name in self.source]

    def _values(self, box: str, tensors: Iterable[TensorFact], device: str) -> None:
        for tensor in tensors:
            precise = device == "BPU" and tensor.dtype == "int32"
            if tensor.name in self.leaving and not precise:
                self.source[tensor.name] = box  # the output's own box shows its shape
                continue
            lines = (tensor.text, "high precision") if precise else (tensor.text,)
            kind: Kind = "precise" if precise else "value"
            text = self._add(f"t:{tensor.name}", Item(kind, "", lines, f"{printable(tensor.name)}: {tensor.text}"))
            self.edges.append((box, text))
            self.source[tensor.name] = text

    def _output(self, tensor: TensorFact) -> None:
        box = self._add(f"out:{tensor.name}", _end("output", tensor))
        self._connect(box, [tensor.name])

    def _add(self, name: str, item: Item) -> str:
        self.items[name] = item
        return name


def _end(kind: Literal["input", "output"], tensor: TensorFact) -> Item:
    return Item(kind, short(tensor.name), (f"{kind} {tensor.text}",), f"{kind} {printable(tensor.name)}: {tensor.text}")


def _bpu(segment: SegmentReport) -> Item:
    line = segment.line
    layers = len(segment.layers)
    lines = (
        f"{layers} layer{'' if layers == 1 else 's'}, {segment.ops / 1e6:,.1f} MOPs",
        f"{segment.latency_us / 1e3:,.3f} ms, DDR {line.ddr_bytes / 1e6:,.2f} MB",
    )
    tip = f"BPU segment {segment.name}: {lines[0]}, {lines[1]}, utilisation {segment.utilisation:.1%}"
    return Item("bpu", f"BPU {segment.name}", lines, tip)


def _cpu(node: NodeFact) -> Item:
    return Item("cpu", short(node.type), (short(node.name),), f"CPU {node.type} {node.name}: {node.reason}")


def _several(segment: SegmentFact) -> Item:
    types = Counter(node.type for node in segment.nodes)
    common = ", ".join(f"{count} {short(kind)}" for kind, count in types.most_common(3))
    more = f", {len(types) - 3} more types" if len(types) > 3 else ""
    return Item(
        "cpu", f"{len(segment.nodes)} CPU nodes", (f"{common}{more}",), f"CPU segment {segment.name}: {common}{more}"
    )

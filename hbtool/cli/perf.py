"""`hbtool perf model.bin`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, shortened, shown, text_table

if TYPE_CHECKING:
    from hbtool.perf.facts import TensorFact
    from hbtool.perf.report import Report

SHOWN_TENSORS = 3


@click.command("perf")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("hb_perf_result"),
    show_default=True,
    help="The model's own folder goes here.",
)
@click.option("-m", "--model-name", metavar="NAME", help="Which model of a packed file.")
@click.option("-p", "--packed", is_flag=True, help="Says that the file is packed; it is seen anyway.")
@click.option("--no-measure", is_flag=True, help="Do not time CPU parts on this PC.")
@common_options
def command(
    artifact: Path,
    output_dir: Path,
    model_name: str | None,
    packed: bool,
    no_measure: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Report what ARTIFACT costs on the machine: latency, DDR traffic, layers, CPU parts.

    Writes a page (.html, works offline), the structure as .svg and .png, a Perfetto trace, one .json per BPU segment.
    The numbers come from hbtool's documented model of the BPU, not from the vendor's compiler or a board.

    \b
    Examples:
      hbtool perf model_output/net.bin
      hbtool perf packed.bin -m net -o reports
    """
    from hbtool.flows.perf import perf

    talk = ConsoleTalk(quiet)
    result = perf(artifact, output_dir, talk, model_name=model_name, measure=not no_measure)
    if as_json:
        from hbtool.perf.report_json import report_json

        print_json(report_json(result.report) | {"files": {k: str(v) for k, v in result.files.items()}})
        return
    for text in result.report.warnings:
        talk.warn(text)
    tables = [t for t in (segment_text(result.report), layer_text(result.report), cpu_text(result.report)) if t]
    from hbtool.perf.summary import summary_lines

    print_result(
        "\n\n".join(["\n".join(summary_lines(result.report)), *tables, f"Page: {shown(result.files['html'])}"])
    )


def segment_text(report: Report) -> str:
    """The BPU segments: what each costs, reads and gives; a tail in int32 is a high-precision output."""
    from hbtool.perf.units import bytes_text, shape_text, time_text

    def tensors(facts: Sequence[TensorFact]) -> str:
        listed = [f"{shortened(t.name)} {t.dtype} {shape_text(t.shape or ())}" for t in facts]
        return ", ".join(listed[:SHOWN_TENSORS]) + (f", ... ({len(listed)})" if len(listed) > SHOWN_TENSORS else "")

    rows = [
        (
            s.name,
            str(len(s.program.layers)),
            time_text(s.latency_us),
            bytes_text(s.line.loaded_bytes + s.line.stored_bytes),
            tensors(s.inputs),
            tensors(s.outputs),
        )
        for s in report.segments
    ]
    header = ("Segment", "Layers", "Latency", "DDR", "Reads", "Gives (int32: high precision)")
    return text_table("BPU segments, one after another", header, _safe(rows)) if rows else ""


def layer_text(report: Report) -> str:
    """The layers of all segments; empty without debug."""
    from hbtool.perf.report_json import cost_text, period_text
    from hbtool.perf.units import shape_text, time_text

    if not report.model.debug:
        return ""
    rows = [
        (
            shortened(layer.name),
            segment.name,
            layer.op,
            f"{layer.ops:,}",
            shape_text(layer.shape),
            shape_text(layer.aligned_shape),
            cost_text(layer.compute_us, segment.latency_us),
            cost_text(layer.load_us + layer.store_us, segment.latency_us),
            period_text(layer),
            time_text(layer.latency_us),
            layer.limit,
        )
        for segment in report.segments
        for layer in segment.layers
    ]
    header = (
        "Layer",
        "Segment",
        "Op",
        "Ops",
        "Shape",
        "Aligned shape",
        "Computing cost (no DDR)",
        "Load/store cost",
        "Active period",
        "Of latency",
        "Limited by",
    )
    return text_table("Layers (they overlap; only the column Of latency adds up)", header, _safe(rows)) if rows else ""


def _safe(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Names come from a file: nothing in them may steer the terminal."""
    from hbtool.perf.structure import printable

    return [tuple(printable(cell) for cell in row) for row in rows]


def cpu_text(report: Report) -> str:
    """The CPU parts, and their nodes with reasons; empty if there are none."""
    from hbtool.perf.cuts import ROLE_NAMES
    from hbtool.perf.units import bytes_text, time_text

    if not report.cpu:
        return ""
    parts = [
        (
            part.name,
            ROLE_NAMES[part.role],
            str(len(part.nodes)),
            time_text(part.cost_us),
            bytes_text(part.ddr_bytes),
            "not measured" if part.host_us is None else time_text(part.host_us),
            ", ".join(part.keys) or f"none: {part.stuck} node{'' if part.stuck == 1 else 's'} without a key",
        )
        for part in report.cpu
    ]
    nodes = [
        (shortened(n.node.name), n.node.type, part.name, n.node.reason, f"{n.key}: {n.advice}" if n.key else n.advice)
        for part in report.cpu
        for n in part.nodes
    ]
    costs = text_table(
        f"CPU parts (cost: estimate for {report.cores.cores}; This PC: measured here, says nothing about the board)",
        ("Part", "Where", "Nodes", "Cost", "DDR", "This PC", "Keys that remove it"),
        _safe(parts),
    )
    reasons = text_table(
        "Nodes on the CPU, and why", ("Node", "Type", "Part", "Reason", "What removes it"), _safe(nodes)
    )
    return f"{costs}\n\n{reasons}"

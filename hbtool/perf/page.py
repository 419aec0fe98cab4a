"""The report as one HTML file that needs nothing else: styles, script, pictures and data are inside."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from hbtool.perf.bars import timeline_bars
from hbtool.perf.charts import step_chart
from hbtool.perf.critical import RESOURCE_NAMES
from hbtool.perf.cuts import ROLE_NAMES
from hbtool.perf.diagram import diagram_svg
from hbtool.perf.order import frame_steps
from hbtool.perf.report import Report, SegmentReport
from hbtool.perf.report_json import period_text
from hbtool.perf.structure import Structure
from hbtool.perf.summary import cpu_range_us
from hbtool.perf.units import bytes_text, ops_text, rate_text, shape_text, time_text

COLUMNS = (
    ("#", "number"),
    ("Layer", "text"),
    ("Op", "text"),
    ("Segment", "text"),
    ("Part of latency", "number"),
    ("Limited by", "text"),
    ("Computing", "number"),
    ("Load", "number"),
    ("Store", "number"),
    ("Active period", "number"),
    ("Operations", "number"),
    ("Output shape", "number"),
    ("Aligned shape", "number"),
    ("Padding", "number"),
)
"""Columns of the layer table: title, and how it sorts."""


def report_page(report: Report, structure: Structure, stem: str, files: dict[str, str]) -> str:
    """The page.

    Args:
        report: the numbers.
        structure: the placed structure.
        stem: file name, without ending, of the picture and trace files beside the page.
        files: segment name -> its JSON file's name.
    """
    folder = resources.files("hbtool.perf")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "time": time_text,
        "bytes": bytes_text,
        "ops": ops_text,
        "rate": rate_text,
        "shape": shape_text,
        "period": period_text,
        "count": lambda n: f"{n:,}",
        "percent": lambda share: f"{share:.1%}",
    }
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    low, high = cpu_range_us(report)
    rows = list(_rows(report))
    longest = max(report.segments, key=lambda s: s.latency_us, default=None)
    return template.render(
        r=report,
        css=Markup((folder / "page.css").read_text(encoding="utf-8")),
        js=Markup((folder / "page.js").read_text(encoding="utf-8")),
        bars=_inside_script(timeline_bars(report)),
        diagram=Markup(diagram_svg(structure, f"Structure of {report.model.name}", paper=False)),
        stem=stem,
        cores=max((s.program.cores for s in report.segments), default=0),
        options=next((s.program.options for s in report.segments), ""),
        parts=_parts(report),
        roles=ROLE_NAMES,
        segments=[_segment(report, s, files[s.name], s is longest) for s in report.segments],
        rows=rows,
        limits=sorted({row["layer"].limit for row in rows}),
        columns=COLUMNS,
        figures=_figures(report),
        cpu_low=low,
        cpu_high=high,
    )


def _inside_script(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _parts(report: Report) -> list[dict[str, Any]]:
    total = report.latency_us or 1.0
    parts = sorted(report.resources_us.items(), key=lambda item: -item[1])
    return [
        {"css": resource, "name": RESOURCE_NAMES[resource], "us": us, "share": us / total}
        for resource, us in parts
        if us > 1e-4 * total
    ]


def _segment(report: Report, segment: SegmentReport, file: str, is_open: bool) -> dict[str, Any]:
    curves = segment.curves
    peak = report.target.ddr_bytes_per_second / 1e9
    load = [v / 1e9 for v in curves.load_bytes_per_second]
    store = [v / 1e9 for v in curves.store_bytes_per_second]
    total = [a + b for a, b in zip(load, store, strict=True)]
    share = [100 * v for v in curves.utilisation]
    # Storing is drawn as what stands above loading, so that the two together reach the bandwidth.
    bandwidth = [("storing, on top of loading", "store", total), ("loading", "load", load)]
    return {
        "r": segment,
        "file": file,
        "open": is_open,
        "utilisation_chart": Markup(
            step_chart(
                f"Computing utilisation of {segment.name} over time",
                [("utilisation", "matrix", share)],
                curves.interval_us,
                "%",
                100.0,
            )
        ),
        "bandwidth_chart": Markup(
            step_chart(f"DDR bandwidth of {segment.name} over time", bandwidth, curves.interval_us, "GB/s", peak)
        ),
    }


def _rows(report: Report) -> Iterator[dict[str, Any]]:
    """Rows of the layer table, with the layer's period in the frame for the timeline."""
    begin = {s.bpu.name: s.start_us for s in frame_steps(report) if s.bpu is not None}
    most = max((layer.latency_us for s in report.segments for layer in s.layers), default=0.0) or 1.0
    number = 0
    for segment in report.segments:
        for layer in segment.layers:
            active = layer.start_us is not None and layer.end_us is not None
            yield {
                "number": number,
                "segment": segment.name,
                "layer": layer,
                "padding": layer.aligned_bytes / layer.bytes - 1 if layer.bytes else 0.0,
                "share": layer.latency_us / report.latency_us if report.latency_us else 0.0,
                "bar": 100 * layer.latency_us / most,
                "from_ns": round((begin[segment.name] + (layer.start_us or 0.0)) * 1e3) if active else None,
                "until_ns": round((begin[segment.name] + (layer.end_us or 0.0)) * 1e3) if active else None,
            }
            number += 1


def _figures(report: Report) -> list[tuple[str, str, str]]:
    target = report.target
    return [
        (field.name, str(getattr(target, field.name)), target.sources.get(field.name, ""))
        for field in dataclasses.fields(target)
        if field.name != "sources"
    ]

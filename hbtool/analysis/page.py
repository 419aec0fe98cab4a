"""The debug page: one HTML file with tables and plots that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jinja2
from markupsafe import Markup

from hbtool.analysis.distribution import Distribution
from hbtool.analysis.growth import GrowthRow
from hbtool.analysis.metrics import METRICS, Measures
from hbtool.analysis.plots import boxes_svg, histogram_svg, lines_svg
from hbtool.analysis.sensitivity import SensitivityRow
from hbtool.analysis.stages import LayerRow


@dataclass(frozen=True)
class Plot:
    """A picture with its caption and what is unusual about it."""

    svg: Markup
    caption: str
    remark: str = ""


@dataclass(frozen=True)
class Section:
    """One heading of the page; `names` is how many columns of a row are text."""

    title: str
    text: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    names: int = 1
    plots: Sequence[Plot] = field(default_factory=tuple)


def measure_cells(measures: Measures) -> list[str]:
    """The five measures as text."""
    return [f"{measures.value(m):.6g}" for m in METRICS]


def sensitivity_section(title: str, rows: Sequence[SensitivityRow]) -> Section:
    """The table of nodes, worst first."""
    return Section(
        title,
        "Only this node is rounded; the model's outputs against the float model, worst output, mean over the samples.",
        ("Node", "Type", "Threshold", *METRICS),
        [(r.node, r.op_type, "--" if r.threshold is None else f"{r.threshold:.6g}", *measure_cells(r.measures))
         for r in rows],
        2,
    )  # fmt: skip


def growth_section(curves: Sequence[tuple[str, Sequence[GrowthRow]]]) -> Section:
    """How errors grow from input to output."""
    series = [(name, [r.measures.cosine for r in rows]) for name, rows in curves]
    rows = [(r.node, r.op_type, *measure_cells(r.measures)) for r in curves[0][1]] if curves else []
    plot = Plot(lines_svg(series), "Cosine similarity of every value to the float model, in graph order")
    text = "Every value of the partly quantized model against the float model, upstream errors included."
    return Section("Accumulated error", text, ("Node", "Type", *METRICS), rows, 2, (plot,))


def distribution_section(found: Sequence[Distribution]) -> Section:
    """Histograms and channel plots."""
    plots = []
    for d in found:
        title = f"{d.name} ({d.kind} of {d.node})"
        plots.append(Plot(histogram_svg(d), f"{title}: log counts; lines are the threshold", d.remark))
        if d.channels is not None:
            plots.append(Plot(boxes_svg(d), f"{title}: per channel low, quartiles, high (the widest where many)"))
    return Section("Distributions of the worst nodes", "What has to fit into the integers.", plots=plots)


def layer_section(first: str, second: str, rows: Sequence[LayerRow]) -> Section:
    """Similarity per layer between two stages."""
    plot = Plot(lines_svg([("cosine", [r.measures.cosine for r in rows])]), "Cosine similarity, in graph order")
    cells = [(r.value, r.node, r.op_type, *measure_cells(r.measures)) for r in rows]
    header = ("Value", "Node", "Type", *METRICS)
    return Section(f"{second} against {first}", "Similarity per layer.", header, cells, 3, (plot,) if rows else ())


def debug_page(title: str, summary: str, sections: Sequence[Section], remarks: Sequence[str] = ()) -> str:
    """The whole page; everything from the model is escaped. `remarks` stand on top: what to look at first."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hbtool.analysis", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        title=title, summary=summary, sections=sections, remarks=remarks
    )

"""debug runall: every analysis, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hbtool.analysis.distribution import distributions
from hbtool.analysis.growth import Part, growth
from hbtool.analysis.page import (
    debug_page,
    distribution_section,
    growth_section,
    layer_section,
    sensitivity_section,
)
from hbtool.analysis.sensitivity import Kind, SensitivityRequest, SensitivityRow, sensitivity
from hbtool.flows.debug import Analysis, layers
from hbtool.flows.talk import Talk
from hbtool.ir.save import write_text

WORST = 5


@dataclass(frozen=True)
class RunAll:
    """What runall found.

    Attributes:
        path: the page.
        nodes: sensitivity of the nodes, worst first.
        lowest: lowest cosine similarity of any layer, float against integers.
    """

    path: Path
    nodes: tuple[SensitivityRow, ...]
    lowest: float


def run_all(analysis: Analysis, path: Path, talk: Talk, *, metric: str = "cosine", samples: int = 16) -> RunAll:
    """Sensitivity of nodes, weights and activations; distributions of the worst; growth; layers; written to `path`."""
    tables: dict[Kind, Sequence[SensitivityRow]] = {}
    kinds: tuple[Kind, ...] = ("node", "weight", "activation")
    for kind in kinds:
        talk.info(f"sensitivity: {kind}s")
        tables[kind] = sensitivity(analysis.subject, SensitivityRequest(metric=metric, kind=kind, samples=samples))
    nodes = tuple(tables["node"])
    worst = [r.node for r in nodes[:WORST]]
    talk.info("accumulated error, distributions, layers")
    parts: tuple[Part, ...] = ("all", "weights", "activations")
    curves = [(p, growth(analysis.subject, part=p, samples=min(samples, 4))) for p in parts]
    compared = layers(analysis, "optimized", "quantized")
    lowest = min((r.measures.cosine for r in compared), default=1.0)
    titles = {"node": "Nodes", "weight": "Weights", "activation": "Activations"}
    order = {node: place for place, node in enumerate(worst)}
    shown = sorted(distributions(analysis.subject, worst), key=lambda d: order[d.node])
    remarks = [f"{d.name} ({d.kind} of {d.node}): {d.remark}." for d in shown if d.remark]
    sections = [
        sensitivity_section(f"{titles['node']}, worst first", nodes),
        distribution_section(shown),
        growth_section(curves),
        layer_section("optimized float", "quantized integers", compared),
        *(sensitivity_section(f"{titles[k]}, worst first", tables[k]) for k in kinds[1:]),
    ]
    summary = f"Costs most: {', '.join(worst[:3])}. Lowest similarity of any layer: {lowest:.6f}."
    return RunAll(write_text(path, debug_page(analysis.name, summary, sections, remarks)), nodes, lowest)

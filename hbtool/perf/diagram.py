"""The structure as SVG, in colours that follow the page it stands in (or its own, as a file)."""

from __future__ import annotations

from html import escape
from itertools import pairwise

from hbtool.perf.structure import FONT_PX, LINE_PX, SMALL_PX, Item, Structure, printable

COLOURS = {
    "input": ("#eef4fb", "#4a6fa5", "#16263c"),
    "output": ("#eef4fb", "#4a6fa5", "#16263c"),
    "bpu": ("#00727a", "#004f55", "#ffffff"),
    "cpu": ("#d9dcdf", "#7b8288", "#1c2024"),
}
"""Box, border and text of each kind."""

TEXT = {"value": "#4a535c", "precise": "#a04000"}
"""Text on arrows; `precise` is the int32 high-precision output of a last layer."""

PAPER = "#ffffff"
ARROW = "#6b747c"

_STYLE = (
    ".structure text{font-family:system-ui,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;text-anchor:middle}"
    f".structure .title{{font-size:{FONT_PX:g}px;font-weight:600}}.structure .small{{font-size:{SMALL_PX:g}px}}"
    f".structure .edge{{fill:none;stroke:var(--arrow,{ARROW});stroke-width:1.3}}"
    f".structure .value text{{fill:var(--value,{TEXT['value']})}}"
    f".structure .precise text{{fill:var(--precise,{TEXT['precise']});font-weight:600}}"
)


SMALLEST = 0.7
"""How far a page may shrink the picture to its width; below that it scrolls."""


def diagram_svg(structure: Structure, title: str, *, paper: bool) -> str:
    """The picture as an SVG document.

    Args:
        structure: what to draw.
        title: what it shows, read out by screen readers.
        paper: draw a white ground (a file of its own; in a page the page's ground shows).
    """
    placed = structure.placed
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" class="structure" '
        f'viewBox="0 0 {placed.width:.0f} {placed.height:.0f}" '
        f'width="{placed.width:.0f}" height="{placed.height:.0f}" role="img" aria-label="{_text(title)}" '
        f'style="min-width:{SMALLEST * placed.width:.0f}px">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0.5 L7.5 4 L0 7.5 z" style="fill:var(--arrow,{ARROW})"/></marker></defs>',
    ]
    if paper:
        parts.append(f'<rect width="100%" height="100%" fill="{PAPER}"/>')
    for source, target in structure.edges:
        marker = "" if structure.items[target].is_text else ' marker-end="url(#tip)"'
        parts.append(f'<path class="edge" d="{_curve(placed.paths[source, target])}"{marker}/>')
    for name, item in structure.items.items():
        parts.append(_item(item, placed.boxes[name]))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def curve_points(path: tuple[tuple[float, float], ...], steps: int = 12) -> list[tuple[float, float]]:
    """The smooth line through a path's points, as a polyline."""
    points = [path[0]]
    for (x0, y0), (x1, y1) in pairwise(path):
        for step in range(1, steps + 1):
            t = step / steps
            ease = t * t * (3 - 2 * t)
            points.append((x0 + (x1 - x0) * ease, y0 + (y1 - y0) * t))
    return points


def _curve(path: tuple[tuple[float, float], ...]) -> str:
    text = f"M{path[0][0]:.1f} {path[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(path):
        third = (y1 - y0) / 3
        text += f" C{x0:.1f} {y0 + third:.1f} {x1:.1f} {y1 - third:.1f} {x1:.1f} {y1:.1f}"
    return text


def _item(item: Item, box: tuple[float, float, float, float]) -> str:
    x, y, width, height = box
    middle = x + width / 2
    parts = [f'<g class="{item.kind}"><title>{_text(item.tip)}</title>']
    lines = [("small", line) for line in item.lines]
    fill = ""
    if not item.is_text:
        ground, border, ink = COLOURS[item.kind]
        round_px = height / 2 if item.kind in ("input", "output") else 5
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_px:.1f}" '
            f'fill="{ground}" stroke="{border}"/>'
        )
        lines.insert(0, ("title", item.title))
        fill = f' fill="{ink}"'
    top = y + (height - LINE_PX * len(lines)) / 2
    for number, (size, line) in enumerate(lines):
        base = top + LINE_PX * (number + 0.76)
        parts.append(f'<text class="{size}" x="{middle:.1f}" y="{base:.1f}"{fill}>{_text(line)}</text>')
    return "".join(parts) + "</g>"


def _text(text: str) -> str:
    return escape(printable(text), quote=True)

"""The structure as PNG, drawn from the same positions as the SVG."""

from __future__ import annotations

import io
import math

from PIL import Image, ImageDraw, ImageFont

from hbtool.perf.diagram import ARROW, COLOURS, PAPER, TEXT, curve_points
from hbtool.perf.structure import FONT_PX, LINE_PX, SMALL_PX, Item, Structure

_SCALE = 2.0
_MOST_PIXELS = 25e6
_LONGEST_SIDE = 30_000


def diagram_png(structure: Structure) -> bytes:
    """The picture as PNG bytes, twice the SVG's size unless it would become too large."""
    placed = structure.placed
    room = math.sqrt(_MOST_PIXELS / (placed.width * placed.height))
    scale = min(_SCALE, room, _LONGEST_SIDE / max(placed.width, placed.height))
    size = (max(1, round(placed.width * scale)), max(1, round(placed.height * scale)))
    image = Image.new("RGB", size, PAPER)
    _Painter(ImageDraw.Draw(image), scale).paint(structure)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


class _Painter:
    def __init__(self, draw: ImageDraw.ImageDraw, scale: float) -> None:
        self.draw, self.scale = draw, scale
        self.title = ImageFont.load_default(max(1.0, FONT_PX * scale))
        self.small = ImageFont.load_default(max(1.0, SMALL_PX * scale))

    def paint(self, structure: Structure) -> None:
        for source, target in structure.edges:
            self._edge(structure.placed.paths[source, target], arrow=not structure.items[target].is_text)
        for name, item in structure.items.items():
            self._item(item, structure.placed.boxes[name])

    def _edge(self, path: tuple[tuple[float, float], ...], *, arrow: bool) -> None:
        points = [(x * self.scale, y * self.scale) for x, y in curve_points(path)]
        self.draw.line(points, fill=ARROW, width=max(1, round(1.3 * self.scale)), joint="curve")
        if arrow:
            x, y = points[-1]
            half, long = 3.2 * self.scale, 7 * self.scale
            self.draw.polygon([(x, y), (x - half, y - long), (x + half, y - long)], fill=ARROW)

    def _item(self, item: Item, box: tuple[float, float, float, float]) -> None:
        x, y, width, height = (v * self.scale for v in box)
        lines = [(self.small, line) for line in item.lines]
        if item.kind == "value" or item.kind == "precise":
            ink = TEXT[item.kind]
            self.draw.rectangle((x, y, x + width, y + height), fill=PAPER)
        else:
            ground, border, ink = COLOURS[item.kind]
            radius = height / 2 if item.kind in ("input", "output") else 5 * self.scale
            line_width = max(1, round(self.scale))
            self.draw.rounded_rectangle((x, y, x + width, y + height), radius, ground, border, line_width)
            lines.insert(0, (self.title, item.title))
        step = LINE_PX * self.scale
        top = y + (height - step * len(lines)) / 2
        for number, (font, line) in enumerate(lines):
            self.draw.text((x + width / 2, top + step * (number + 0.5)), line, ink, font, anchor="mm")

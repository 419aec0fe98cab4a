"""Small SVG plots, drawn without any library so that a page needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from hbtool.analysis.distribution import Distribution

_WIDTH, _HEIGHT, _MARGIN = 460, 180, 34
_COLOURS = ("#2a7de1", "#d9480f", "#2f9e44", "#9c36b5", "#f08c00")
_MOST_BOXES = 64


def lines_svg(series: Sequence[tuple[str, Sequence[float]]], low: float | None = None) -> Markup:
    """One polyline per named series over its index; finite values only."""
    values = [v for _, ys in series for v in ys if np.isfinite(v)]
    bottom = min(values, default=0.0) if low is None else low
    top = max(values, default=1.0)
    span = (top - bottom) or 1.0
    parts = [_axis(bottom, top)]
    for number, (name, ys) in enumerate(series):
        step = (_WIDTH - 2 * _MARGIN) / max(1, len(ys) - 1)
        points = " ".join(
            f"{_MARGIN + i * step:.1f},{_y((v - bottom) / span):.1f}" for i, v in enumerate(ys) if np.isfinite(v)
        )
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(
            Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="1.5"/>').format(points, colour)
        )
        # Curves start high, where little is rounded yet: the legend stands low.
        line = _y(0) - 4 - 12 * (len(series) - 1 - number)
        parts.append(
            Markup('<text x="{}" y="{:.0f}" style="fill:{}">{}</text>').format(_MARGIN + 4, line, colour, name)
        )
    return _svg(parts)


def histogram_svg(d: Distribution) -> Markup:
    """Bars of log counts; the threshold as two lines."""
    counts = np.log1p(np.asarray(d.counts, np.float64))
    top = float(counts.max()) or 1.0
    width = (_WIDTH - 2 * _MARGIN) / len(counts)
    parts = [
        Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="#2a7de1"/>').format(
            _MARGIN + i * width, _y(c / top), width, _y(0) - _y(c / top)
        )
        for i, c in enumerate(counts)
        if c > 0
    ]
    span = (d.high - d.low) or 1.0
    for edge in (-d.threshold, d.threshold) if d.threshold is not None else ():
        place = (edge - d.low) / span
        if 0 <= place <= 1:
            x = _MARGIN + place * (_WIDTH - 2 * _MARGIN)
            parts.append(
                Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="8" y2="{1:.1f}" stroke="#d9480f"/>').format(x, _y(0))
            )
    for x, value in ((_MARGIN, d.low), (_WIDTH - _MARGIN - 30, d.high)):
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(x, _HEIGHT - 8, f"{value:.4g}"))
    return _svg(parts)


def boxes_svg(d: Distribution) -> Markup:
    """Whiskers from low to high and boxes between the quartiles, per channel; the widest channels where many."""
    assert d.channels is not None, "only values with channels are drawn per channel"
    order = np.argsort(-np.abs(d.channels[:, [0, 4]]).max(axis=1), kind="stable")[:_MOST_BOXES]
    low, high = float(d.channels[:, 0].min()), float(d.channels[:, 4].max())
    span = (high - low) or 1.0
    step = (_WIDTH - 2 * _MARGIN) / max(1, len(order))
    parts = [_axis(low, high)]
    for place, channel in enumerate(sorted(int(c) for c in order)):
        y0, y1, y2, y3, y4 = (_y((v - low) / span) for v in d.channels[channel])
        x = _MARGIN + (place + 0.5) * step
        parts.append(
            Markup(
                '<g><title>channel {0}</title><line x1="{1:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{3:.1f}" '
                'stroke="#2a7de1"/><rect x="{4:.1f}" y="{5:.1f}" width="{6:.1f}" height="{7:.1f}" fill="#2a7de1"/>'
                '<line x1="{4:.1f}" x2="{8:.1f}" y1="{9:.1f}" y2="{9:.1f}" stroke="#d9480f"/></g>'
            ).format(channel, x, y4, y0, x - step * 0.35, y3, step * 0.7, max(1.0, y1 - y3), x + step * 0.35, y2)
        )
    return _svg(parts)


def _y(share: float) -> float:
    return _HEIGHT - 24 - share * (_HEIGHT - 32)


def _axis(low: float, high: float) -> Markup:
    text = Markup('<text x="2" y="{:.1f}">{}</text>')
    return text.format(_y(0), f"{low:.3g}") + text.format(_y(1) + 4, f"{high:.3g}")


def _svg(parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}">')
    return head.format(_WIDTH, _HEIGHT) + Markup("").join(parts) + Markup("</svg>")

"""Curves as SVG for the page: steps over intervals, a grid, and the peak as a dashed line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 960.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 14.0, 12.0, 26.0


def step_chart(
    title: str,
    series: Sequence[tuple[str, str, Sequence[float]]],
    interval_us: float,
    unit: str,
    peak: float,
) -> str:
    """A chart.

    Args:
        title: what it shows, for screen readers.
        series: (name, CSS class, one value per interval).
        interval_us: length of an interval.
        unit: of the values.
        peak: what the machine can do; the axis ends there.
    """
    count = max((len(values) for _, _, values in series), default=0)
    top = max([peak, *(v for _, _, values in series for v in values)]) or 1.0
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(title, quote=True)}">',
        f"<title>{escape(title)}</title>",
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share * top, top)
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if share in (0.0, 0.5, 1.0):
            label = f"{share * top:.3g} {unit}"
            parts.append(f'<text x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    for name, css, values in series:
        parts.append(f'<path class="{css}" d="{_steps(values, top)}"><title>{escape(name)}</title></path>')
    y = _y(peak, top)
    parts.append(f'<line class="peak" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts += _time_axis(count * interval_us)
    return "".join(parts) + "</svg>"


def _y(value: float, top: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value / top)


def _steps(values: Sequence[float], top: float) -> str:
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    text = f"M{_LEFT:g} {_y(0, top):.1f}"
    for number, value in enumerate(values):
        text += f"V{_y(value, top):.1f}H{_LEFT + (number + 1) * step:.1f}"
    return f"{text}V{_y(0, top):.1f}Z"


def _time_axis(total_us: float) -> list[str]:
    unit, size = ("ms", 1e3) if total_us >= 2e3 else ("us", 1.0)
    labels = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * share
        anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
        label = f"{total_us * share / size:.4g} {unit}"
        labels.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8:g}" text-anchor="{anchor}">{label}</text>')
    return labels

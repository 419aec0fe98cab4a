"""Numbers as people read them."""

from __future__ import annotations


def time_text(us: float) -> str:
    """`57.1 us`, `3.34 ms`, `1.20 s`."""
    if us < 1e3:
        return f"{_digits(us)} us"
    return f"{_digits(us / 1e3)} ms" if us < 1e6 else f"{_digits(us / 1e6)} s"


def bytes_text(count: float) -> str:
    """`512 B`, `4.1 kB`, `12.7 MB` (powers of ten)."""
    if count < 1e3:
        return f"{count:.0f} B"
    for unit, size in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < size * 1e3 or unit == "GB":
            return f"{_digits(count / size)} {unit}"
    raise AssertionError("unreachable: the last unit takes everything")


def ops_text(count: float) -> str:
    """`0`, `12.3 MOPs`, `8.7 GOPs`."""
    if count < 1e3:
        return f"{count:.0f} OPs"
    for unit, size in (("kOPs", 1e3), ("MOPs", 1e6), ("GOPs", 1e9)):
        if count < size * 1e3 or unit == "GOPs":
            return f"{_digits(count / size)} {unit}"
    raise AssertionError("unreachable: the last unit takes everything")


def rate_text(per_second: float) -> str:
    """Frames per second: `17,504`, `252.3`."""
    return f"{per_second:,.0f}" if per_second >= 1000 else f"{per_second:.1f}"


def shape_text(shape: tuple[int, ...]) -> str:
    """`1x3x224x224`."""
    return "x".join(map(str, shape)) or "scalar"


def _digits(value: float) -> str:
    """Three digits that say something, thousands separated."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    if value < 0.005:
        return "<0.01"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"

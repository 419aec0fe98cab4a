"""The BPU generation that a model is prepared for: one process-wide setting."""

from __future__ import annotations

import difflib
import enum
from typing import Any

from hbtool.errors import UsageError


class _MarchMeta(enum.EnumMeta):
    """Gives `March.Bayes` (a spelling found in published scripts) an answer instead of an AttributeError."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        close = difflib.get_close_matches(name.upper().replace("-", "_"), list(cls.__members__), n=1, cutoff=0.4)
        meant = f"Did you mean March.{close[0]}?" if close else f"Known: {', '.join(cls.__members__)}."
        raise AttributeError(f"March has no member {name!r}. {meant}")


class March(str, enum.Enum, metaclass=_MarchMeta):
    """The BPU generations; each value is the string that `config.yaml` uses."""

    BERNOULLI = "bernoulli"
    BERNOULLI2 = "bernoulli2"
    BAYES = "bayes"
    BAYES_E = "bayes-e"
    NASH_E = "nash-e"
    NASH_M = "nash-m"
    NASH_P = "nash-p"
    NASH_H = "nash-h"
    NASH_B = "nash-b"


_current: March | None = None


def as_march(march: March | str) -> March:
    """The enum member for a member or its string value.

    Raises:
        UsageError: no such march (names the nearest).
    """
    try:
        return March(march)
    except ValueError:
        names = [m.value for m in March]
        close = difflib.get_close_matches(str(march).lower(), names, n=1, cutoff=0.4)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names)}."
        raise UsageError(f"unknown march {str(march)!r}.", hint=hint) from None


def set_march(march: March | str) -> None:
    """Choose the BPU generation for this process; call it before a model is prepared.

    Raises:
        UsageError: no such march (names the nearest).
    """
    global _current
    _current = as_march(march)


def get_march() -> March | None:
    """The chosen BPU generation, None before `set_march`."""
    return _current


def require_march(march: March | str | None = None) -> March:
    """`march` if given, else the chosen one.

    Raises:
        UsageError: none was chosen.
    """
    if march is not None:
        return as_march(march)
    if _current is None:
        names = ", ".join(f"March.{m.name}" for m in March)
        raise UsageError("no march is set.", hint=f"Call set_march(...) before prepare; one of {names}.")
    return _current

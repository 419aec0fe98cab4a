"""Places in a configuration file, and the remarks a load makes about them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from hbtool.errors import ConfigError

NoteKind = Literal[
    "unknown", "misplaced", "placeholder", "duplicate", "node", "value", "ignored", "deprecated", "alias", "info"
]
"""Why a note was made. The first five are errors with ``strict=True``."""

STRICT_KINDS: frozenset[str] = frozenset({"unknown", "misplaced", "placeholder", "duplicate", "node"})
LOUD_KINDS: frozenset[str] = STRICT_KINDS | {"value"}


@dataclass(frozen=True)
class Place:
    """A position in a file; line and column count from 1, line 0 means "no line known"."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class ConfigNote:
    """One remark about one key: where it stands and what hbtool made of it."""

    file: str
    line: int
    column: int
    key: str
    message: str
    kind: NoteKind = "info"

    @property
    def loud(self) -> bool:
        """Whether the remark may change what the user expected (a warning rather than a piece of information)."""
        return self.kind in LOUD_KINDS

    def __str__(self) -> str:
        return f"{Place(self.file, self.line)}: {self.message}"


@dataclass
class Notebook:
    """Collects notes; with ``strict`` the serious kinds raise ConfigError at once."""

    strict: bool = False
    notes: list[ConfigNote] = field(default_factory=list)

    def add(self, place: Place, key: str, message: str, kind: NoteKind, hint: str | None = None) -> None:
        """Write a note down, or raise ConfigError where ``strict`` forbids what it says."""
        if self.strict and kind in STRICT_KINDS:
            raise ConfigError(message, where=str(place), hint=hint)
        text = f"{message} {hint}" if hint else message
        note = ConfigNote(place.file, place.line, place.column, key, text, kind)
        if note not in self.notes:
            self.notes.append(note)


def nearest(word: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> tuple[str, ...]:
    """The known words closest to ``word`` in spelling, case aside; empty if none is close."""
    by_lower: dict[str, str] = {}
    for item in known:
        by_lower.setdefault(item.lower(), item)
    found = difflib.get_close_matches(word.lower(), by_lower, n=count, cutoff=cutoff)
    return tuple(by_lower[item] for item in found)


def did_you_mean(word: str, known: Iterable[str], count: int = 1) -> str:
    """`Did you mean 'x'?`, or an empty string when nothing is close."""
    found = nearest(word, known, count)
    return f"Did you mean {' or '.join(repr(item) for item in found)}?" if found else ""

"""What is known of a key besides its Python type: the words users read, its notation, and where it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hbtool.config.marches import is_nash, is_target_file
from hbtool.config.notes import Notebook, NoteKind, Place
from hbtool.config.yaml_items import Item
from hbtool.errors import ConfigError


@dataclass(frozen=True)
class ReadContext:
    """Where a value is being read: its key, its place, and what is already known of the file."""

    book: Notebook
    section: str
    key: str
    place: Place
    folder: Path
    march: str = ""
    input_count: int = 1

    @property
    def path(self) -> str:
        """`section.key`."""
        return f"{self.section}.{self.key}"

    def note(self, message: str, kind: NoteKind, *, hint: str | None = None, place: Place | None = None) -> None:
        """Write down a remark about this key."""
        self.book.add(place or self.place, self.path, f"{self.key}: {message}", kind, hint)

    def error(self, message: str, hint: str, place: Place | None = None) -> ConfigError:
        """The error to raise about this key."""
        return ConfigError(f"{self.key}: {message}", where=str(place or self.place), hint=hint)


@dataclass(frozen=True)
class Kind:
    """A notation: how a value is written, read from YAML, written back, and described to an editor."""

    type_text: str
    read: Callable[[Item, ReadContext], Any]
    write: Callable[[Any], object]
    json: Mapping[str, object]


@dataclass(frozen=True)
class Key:
    """One key of the configuration; ``text`` is the only source of its description.

    ``ignored_on`` maps a march family (bernoulli2, bayes, bayes-e, nash) to the reason the key has no effect there;
    the entry ``all`` marks a key that hbtool knows but never uses.
    """

    kind: Kind
    text: str
    default_text: str = ""
    marches: str = "all"
    per_input: bool = False
    ignored_on: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    def ignored(self, march: str) -> str | None:
        """Why the key has no effect for ``march``; None where it counts."""
        return self.ignored_on.get("all") or self.ignored_on.get(family(march))


def family(march: str) -> str:
    """`nash` for every nash march, `target` for a target file, else the march itself."""
    if is_target_file(march):
        return "target"
    return "nash" if is_nash(march) else march

"""YAML text as a tree of items that remember their place and their spelling.

PyYAML's own constructor turns `ON` into True and `1:30` into 90, forgets duplicate keys and line numbers. Here only
its scanner and parser are used; every scalar stays text until a key says what it means. Tags never construct anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from hbtool.config.notes import Place
from hbtool.errors import ConfigError

MAX_ITEMS = 100_000
"""More items than any real file has: the stop for aliases that multiply."""
MAX_DEPTH = 40

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True)
class ScalarItem:
    """One value as written: ``text`` without quotes; ``quoted`` tells `'True'` from `True`."""

    text: str
    quoted: bool
    place: Place


@dataclass(frozen=True)
class ListItem:
    """A YAML sequence."""

    items: tuple[Item, ...]
    place: Place


@dataclass(frozen=True)
class Entry:
    """One `key: value` pair of a mapping."""

    key: str
    place: Place
    value: Item


@dataclass(frozen=True)
class MapItem:
    """A YAML mapping, in file order, duplicates kept."""

    entries: tuple[Entry, ...]
    place: Place

    def last(self) -> dict[str, Entry]:
        """Each key's last entry, as PyYAML reads duplicates."""
        return {entry.key: entry for entry in self.entries}


Item = ScalarItem | ListItem | MapItem


def is_null(item: Item) -> bool:
    """Whether the item says nothing: empty, `~`, `null`, or the text `None`."""
    if isinstance(item, ScalarItem):
        return (
            item.text.strip().lower() == "none"
            or (item.text.strip() in _NULLS and not item.quoted)
            or not item.text.strip()
        )
    if isinstance(item, MapItem):
        return not item.entries
    return not item.items


def plain_value(item: Item) -> object:
    """The item as PyYAML's safe loader would see it, with numbers and booleans: for free pass-through dicts."""
    if isinstance(item, ListItem):
        return [plain_value(child) for child in item.items]
    if isinstance(item, MapItem):
        return {entry.key: plain_value(entry.value) for entry in item.entries}
    if item.quoted:
        return item.text
    if item.text in _NULLS:
        return None
    lowered = item.text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for convert in (int, float):
        try:
            return convert(item.text)
        except ValueError:
            continue
    return item.text


class _Builder:
    """Turns PyYAML nodes into items: merge keys resolved, size and depth bounded."""

    def __init__(self, file: str, line_offset: int = 0) -> None:
        self.file = file
        self.line_offset = line_offset
        self.count = 0

    def place(self, node: yaml.Node) -> Place:
        mark = node.start_mark
        return Place(self.file, mark.line + 1 + self.line_offset, mark.column + 1)

    def build(self, node: yaml.Node, depth: int = 0) -> Item:
        self.count += 1
        place = self.place(node)
        if self.count > MAX_ITEMS or depth > MAX_DEPTH:
            raise ConfigError(
                f"the file expands to more than {MAX_ITEMS} values or {MAX_DEPTH} levels.",
                where=str(place),
                hint="Write the values out instead of nesting aliases (*name).",
            )
        if isinstance(node, yaml.ScalarNode):
            return ScalarItem(str(node.value), node.style is not None, place)
        if isinstance(node, yaml.SequenceNode):
            return ListItem(tuple(self.build(child, depth + 1) for child in node.value), place)
        assert isinstance(node, yaml.MappingNode)
        entries: list[Entry] = []
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                entries = self.merged(value, depth) + entries
            else:
                entries.append(Entry(self.key_text(key), self.place(key), self.build(value, depth + 1)))
        return MapItem(tuple(entries), place)

    def key_text(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode):
            return str(node.value).strip()
        children = node.value if isinstance(node, (yaml.SequenceNode, yaml.MappingNode)) else []
        inner = [child[0] if isinstance(child, tuple) else child for child in children]
        if len(inner) == 1 and isinstance(inner[0], yaml.ScalarNode):  # `{{name}}`: a template's placeholder
            return "{" + str(inner[0].value) + "}"
        raise ConfigError(
            "a key is a list or a mapping.", where=str(self.place(node)), hint="Keys are plain words; quote the value."
        )

    def merged(self, node: yaml.Node, depth: int) -> list[Entry]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        entries: list[Entry] = []
        for part in reversed(parts):  # the first of several merged maps wins, and `last()` takes the last
            item = self.build(part, depth + 1)
            if not isinstance(item, MapItem):
                raise ConfigError("`<<` must name a mapping.", where=str(item.place), hint="Merge a map: `<<: *name`.")
            entries += item.entries
        return entries


def build_items(text: str, file: str, line_offset: int = 0) -> Item | None:
    """Compose YAML ``text``; None for an empty document. Raises yaml.YAMLError and ConfigError."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return None if node is None else _Builder(file, line_offset).build(node)

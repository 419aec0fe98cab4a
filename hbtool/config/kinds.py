"""The notations of simple values: text, numbers, choices, and `;` lists with one part per input."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from hbtool.config.keys import Kind, ReadContext
from hbtool.config.notes import did_you_mean
from hbtool.config.values import (
    BadValueError,
    clean,
    numbers_text,
    parse_bool,
    parse_choice,
    parse_float,
    parse_int,
    parse_numbers,
    parse_shape,
    says_nothing,
    shape_text,
    split_names,
    split_parts,
    split_shapes,
)
from hbtool.config.yaml_items import Item, ListItem, MapItem, ScalarItem, is_null, plain_value
from hbtool.config.yaml_text import find_placeholder


def scalar(item: Item, context: ReadContext) -> str:
    """The text of a single value; a list of one counts as one."""
    if isinstance(item, ListItem) and len(item.items) == 1:
        item = item.items[0]
    if isinstance(item, ScalarItem):
        return item.text
    placeholder = placeholder_of(item)
    if placeholder:
        raise context.error(f"{placeholder} is a placeholder.", "Fill in the real value, in quotes.", item.place)
    shape = "a list" if isinstance(item, ListItem) else "a mapping"
    raise context.error(f"{shape} stands where one value belongs.", f"Write {context.key}: 'value'.", item.place)


def placeholder_of(item: Item) -> str | None:
    """The placeholder an item is, if it is one; `{OP_name}` without quotes is a mapping to YAML."""
    if isinstance(item, ScalarItem):
        return find_placeholder(item.text)
    if isinstance(item, MapItem) and item.entries and all(is_null(entry.value) for entry in item.entries):
        return "{" + ", ".join(entry.key for entry in item.entries) + "}"
    return None


def _read_text(item: Item, context: ReadContext) -> str:
    return clean(scalar(item, context))


def _read_path(item: Item, context: ReadContext) -> str:
    text = clean(scalar(item, context))
    placeholder = find_placeholder(text)
    if placeholder:
        context.note(f"{text!r} is a placeholder.", "placeholder", hint="Fill in a real path.", place=item.place)
    return text


def _read_bool(item: Item, context: ReadContext) -> bool:
    return parse_bool(scalar(item, context))


def _read_anything(item: Item, context: ReadContext) -> str:
    return item.text if isinstance(item, ScalarItem) else json.dumps(plain_value(item), ensure_ascii=False)


def _same(value: object) -> object:
    return value


def _joined(value: Sequence[str | None]) -> str:
    return "; ".join("None" if part is None else part for part in value)


TEXT = Kind("text", _read_text, _same, {"type": ["string", "number", "null"]})
PATH = Kind("path", _read_path, _same, {"type": ["string", "null"]})
BOOL = Kind("True or False", _read_bool, _same, {"type": ["boolean", "null"]})
ANYTHING = Kind("anything", _read_anything, _same, {})


def integer(low: int | None = None, high: int | None = None, unit: str = "") -> Kind:
    """A whole number in a closed range."""

    def read(item: Item, context: ReadContext) -> int:
        text = scalar(item, context)
        parts = set(split_parts(text)) if ";" in text else {text}
        number = parse_int((parts - {None}).pop() or "" if len(parts - {None}) == 1 else text)
        if low is not None and high is None and number < low:
            raise BadValueError(f"{number} is below {low}", f"Write {low} or more.")
        if (low is not None and number < low) or (high is not None and number > high):
            raise BadValueError(f"{number} is outside {_range_text(low, high)}", f"Write {_range_text(low, high)}.")
        return number

    limits: dict[str, object] = {"type": ["integer", "null"]}
    limits |= {"minimum": low} if low is not None else {}
    limits |= {"maximum": high} if high is not None else {}
    return Kind(f"whole number{f', {unit}' if unit else ''}", read, _same, limits)


def real(low: float, high: float) -> Kind:
    """A number in a closed range."""

    def read(item: Item, context: ReadContext) -> float:
        number = parse_float(scalar(item, context))
        if not low <= number <= high:
            raise BadValueError(f"{number:g} is outside {low:g}..{high:g}", f"Write a number in {low:g}..{high:g}.")
        return number

    return Kind(f"number {low:g}..{high:g}", read, _same, {"type": ["number", "null"], "minimum": low, "maximum": high})


def _range_text(low: int | None, high: int | None) -> str:
    return f"{'' if low is None else low}..{'' if high is None else high}"


def choice(values: Sequence[str], aliases: Mapping[str, str] | None = None) -> Kind:
    """One of a fixed set of words."""

    def read(item: Item, context: ReadContext) -> str:
        return _chosen(scalar(item, context), lambda text: parse_choice(text, values, aliases), context, item)

    return Kind(" / ".join(values), read, _same, {"enum": [*values, "", None]})


def parsed_word(type_text: str, parse: Callable[[str], str]) -> Kind:
    """A word with a parser of its own (march)."""

    def read(item: Item, context: ReadContext) -> str:
        return _chosen(scalar(item, context), parse, context, item)

    return Kind(type_text, read, _same, {"type": "string"})


def _chosen(text: str, parse: Callable[[str], str], context: ReadContext, item: Item) -> str:
    word = clean(text)
    placeholder = find_placeholder(word)
    if placeholder:
        raise BadValueError(f"{word!r} is a placeholder", "Fill in the real value.")
    found = parse(word)
    if found != word:
        context.note(f"{word!r} is read as {found!r}.", "alias", place=item.place)
    return found


def _read_names(item: Item, context: ReadContext) -> tuple[str, ...]:
    placeholder = placeholder_of(item)
    if placeholder:
        hint = "Name the nodes, or remove the line."
        context.note(f"the placeholder {placeholder} is left out.", "placeholder", hint=hint, place=item.place)
        return ()
    if isinstance(item, MapItem):
        raise context.error("a mapping stands where names belong.", "Write 'a; b'.", item.place)
    if isinstance(item, ListItem):
        names = [name for child in item.items for name in _read_names(child, context)]
    else:
        names = split_names(item.text)
    for index, name in enumerate(names):
        if name in names[:index]:
            context.note(f"{name!r} is listed twice.", "value", place=item.place)
    return tuple(dict.fromkeys(names))


NAMES = Kind("names; `;`", _read_names, _joined, {"type": ["string", "array", "null"], "items": {"type": "string"}})


def names_of(values: Sequence[str]) -> Kind:
    """Several of a fixed set of words; a word outside the set is left out with a note."""

    def read(item: Item, context: ReadContext) -> tuple[str, ...]:
        found: list[str] = []
        for word in _read_names(item, context):
            try:
                found.append(_chosen(word, lambda text: parse_choice(text, values), context, item))
            except BadValueError:
                guess = did_you_mean(word, values) or f"Known are {', '.join(values)}."
                context.note(f"{word!r} does not exist and is left out.", "unknown", hint=guess, place=item.place)
        return tuple(dict.fromkeys(found))

    return Kind(f"some of {', '.join(values)}; `;`", read, _joined, NAMES.json)


def _parts(item: Item, context: ReadContext, split: Callable[[str], list[str | None]]) -> list[tuple[str | None, Item]]:
    """The parts of a per-input value with the item each stands in, from a `;` text or a YAML list."""
    if isinstance(item, ScalarItem):
        return [(part, item) for part in split(item.text)]
    if isinstance(item, ListItem):
        found: list[tuple[str | None, Item]] = []
        for child in item.items:
            if isinstance(child, ListItem):
                found.append((" ".join(scalar(leaf, context) for leaf in child.items), child))
            else:
                text = scalar(child, context)
                found.append((None if is_null(child) or says_nothing(text) else clean(text), child))
        return found
    raise context.error("a mapping stands where a list with one part per input belongs.", "Write 'a; b'.", item.place)


def parts_of(values: Sequence[str], aliases: Mapping[str, str] | None = None) -> Kind:
    """One word of a fixed set per input."""

    def read(item: Item, context: ReadContext) -> tuple[str | None, ...]:
        def parse(text: str) -> str:
            return parse_choice(text, values, aliases)

        parts = _parts(item, context, lambda text: split_parts(text, commas=True))
        return tuple(None if part is None else _chosen(part, parse, context, where) for part, where in parts)

    return Kind(" / ".join(values) + "; `;` per input", read, _joined, {"type": ["string", "array", "null"]})


def _read_paths(item: Item, context: ReadContext) -> tuple[str | None, ...]:
    # A comma is a legal character of a path: it separates only where several inputs are declared.
    parts = _parts(item, context, lambda text: split_parts(text, commas=context.input_count > 1))
    for part, where in parts:
        if part and find_placeholder(part):
            context.note(f"{part!r} is a placeholder.", "placeholder", hint="Fill in a real path.", place=where.place)
    return tuple(part for part, _ in parts)


def _read_input_names(item: Item, context: ReadContext) -> tuple[str | None, ...]:
    return tuple(part for part, _ in _parts(item, context, lambda text: split_parts(text, commas=True)))


def _flat(item: Item, context: ReadContext) -> Item:
    """`[1, 2, 3]` for a single input: the numbers of that input, not one number per input."""
    if isinstance(item, ListItem) and len(item.items) > 1 and context.input_count == 1:
        leaves = [child.text for child in item.items if isinstance(child, ScalarItem)]
        if len(leaves) == len(item.items) and all(_is_number(leaf) for leaf in leaves):
            return ScalarItem(" ".join(leaves), True, item.place)
    return item


def _is_number(text: str) -> bool:
    try:
        parse_float(text)
    except BadValueError:
        return False
    return True


def _read_numbers(item: Item, context: ReadContext) -> tuple[tuple[float, ...] | None, ...]:
    parts = _parts(_flat(item, context), context, split_parts)
    return tuple(None if part is None else parse_numbers(part) for part, _ in parts)


def _read_shapes(item: Item, context: ReadContext) -> tuple[tuple[int, ...] | None, ...]:
    found: list[tuple[int, ...] | None] = []
    for part, where in _parts(_flat(item, context), context, split_shapes):
        placeholder = find_placeholder(part) if part else None
        if placeholder:
            raise context.error(f"{part!r} holds the placeholder {placeholder}.", "Fill in the sizes.", where.place)
        found.append(None if part is None else parse_shape(part))
    return tuple(found)


def _write_numbers(value: Sequence[Sequence[float] | None]) -> str:
    return _joined([None if part is None else numbers_text(part) for part in value])


def _write_shapes(value: Sequence[Sequence[int] | None]) -> str:
    return _joined([None if part is None else shape_text(part) for part in value])


_LIST_JSON: dict[str, object] = {"type": ["string", "number", "array", "null"]}
INPUT_NAMES = Kind("names; `;` per input", _read_input_names, _joined, _LIST_JSON)
PATHS = Kind("paths; `;` per input", _read_paths, _joined, {"type": ["string", "array", "null"]})
NUMBERS = Kind("numbers; blanks between channels, `;` per input", _read_numbers, _write_numbers, _LIST_JSON)
SHAPES = Kind("shape such as 1x3x224x224; `;` per input", _read_shapes, _write_shapes, _LIST_JSON)

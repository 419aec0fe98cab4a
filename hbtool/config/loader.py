"""Reads a config.yaml: every key to its typed value, every doubt to a note with file and line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hbtool.config.inputs import check_declared_inputs
from hbtool.config.interactions import settle
from hbtool.config.keys import Key, ReadContext
from hbtool.config.marches import parse_march
from hbtool.config.notes import Notebook, Place, did_you_mean
from hbtool.config.schema import SECTIONS, Config, LoadedConfig
from hbtool.config.section import keys_of
from hbtool.config.values import BadValueError, split_parts
from hbtool.config.yaml_items import Entry, Item, ListItem, MapItem, ScalarItem, is_null
from hbtool.config.yaml_text import parse_items, read_text
from hbtool.errors import ConfigError

_KEYS: Mapping[str, Mapping[str, Key]] = {name: keys_of(section) for name, section in SECTIONS.items()}
_HOME: dict[str, str] = {key: section for section, keys in _KEYS.items() for key in keys}
_KNOWN_INVENTIONS = {
    "model_name": "output_model_file_prefix",
    "output_name": "output_nodes",
    "build_dir": "working_dir",
    "build_parameters": "compiler_parameters",
    "compile_parameters": "compiler_parameters",
    "output_parameters": "model_parameters.output_nodes",
    "quantization_parameters": "calibration_parameters",
}


def load_config(path: str | Path, *, strict: bool = False) -> LoadedConfig:
    """Read a configuration without touching model or data.

    Args:
        path: the YAML file; relative paths in it count from its folder.
        strict: raise for what is otherwise a loud note: unknown or misplaced keys, duplicates, placeholders.

    Raises:
        ConfigError: what, where (`file:line`), and what to write instead.
    """
    path = Path(path)
    text, encoding = read_text(path)
    book = Notebook(strict)
    if encoding not in ("utf-8-sig", "utf-16"):
        book.add(Place(str(path), 1, 1), "", f"the file is not UTF-8; read as {encoding}.", "info")
    return _load(text, str(path), path.absolute().parent, book)


def parse_config(text: str, *, file: str = "<text>", folder: Path | None = None, strict: bool = False) -> LoadedConfig:
    """Read a configuration from a string; ``folder`` is the base of its relative paths (default: the current one)."""
    return _load(text, file, folder or Path.cwd(), Notebook(strict))


def _load(text: str, file: str, folder: Path, book: Notebook) -> LoadedConfig:
    root = parse_items(text, file, book, _known_keys)
    if not isinstance(root, MapItem) or not root.entries:
        what = "empty" if root is None or is_null(root) else "not a mapping of sections"
        line = f"{file}:{root.place.line}" if root is not None else file
        raise ConfigError(
            f"the configuration is {what}.", where=line, hint=f"It has the sections {', '.join(SECTIONS)}."
        )
    entries, places = _collect(root, file, book)
    march = _march(entries, places, file)
    inputs = _declared_inputs(entries)
    values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for section, keys in entries.items():
        for name, entry in keys.items():
            context = ReadContext(book, section, name, entry.place, folder, march, inputs)
            value = _read(entry.value, _KEYS[section][name], context)
            if value is not None:
                values[section][name] = value
    settle(values, march, places, book, file)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise _explained(error, places, file) from None
    loaded = LoadedConfig(config, file, folder, (), places, book.strict)
    check_declared_inputs(loaded, book)
    return replace(loaded, warnings=tuple(book.notes))


def _known_keys(item: Item) -> int:
    """How many keys stand in the section they belong to."""
    if not isinstance(item, MapItem):
        return 0
    score = 0
    for entry in item.entries:
        keys = _KEYS.get(entry.key)
        if keys is not None:
            score += 1
            score += sum(inner.key in keys for inner in entry.value.entries) if isinstance(entry.value, MapItem) else 0
    return score


def _collect(root: MapItem, file: str, book: Notebook) -> tuple[dict[str, dict[str, Entry]], dict[str, Place]]:
    """The known keys of every section, with unknown, misplaced, misspelt and repeated ones noted."""
    found: dict[str, dict[str, Entry]] = {name: {} for name in SECTIONS}
    strays: list[tuple[str, Entry]] = []
    places: dict[str, Place] = {}
    seen: dict[str, Entry] = {}
    for entry in root.entries:
        section = _same_word(entry.key, SECTIONS)
        if section is None:
            strays += _stray_section(entry, book)
            continue
        _note_spelling(entry, section, section, book)
        if section in seen:
            _note_duplicate(section, seen[section], entry, book)
            for old in found[section]:
                places.pop(f"{section}.{old}", None)
            found[section] = {}
            strays = [stray for stray in strays if stray[0] != section]
        seen[section] = entry
        places[section] = entry.place
        for inner in _section_entries(entry, section):
            key = _same_word(inner.key, _KEYS[section])
            if key is None:
                strays.append((section, inner))
            else:
                _take(section, key, inner, found, places, book)
    for stray_section, entry in strays:
        _place_stray(stray_section, entry, found, places, book)
    return found, places


def _take(
    section: str,
    key: str,
    entry: Entry,
    found: dict[str, dict[str, Entry]],
    places: dict[str, Place],
    book: Notebook,
) -> None:
    _note_spelling(entry, key, f"{section}.{key}", book)
    if key in found[section]:
        _note_duplicate(f"{section}.{key}", found[section][key], entry, book)
    found[section][key] = entry
    places[f"{section}.{key}"] = entry.place


def _section_entries(entry: Entry, section: str) -> tuple[Entry, ...]:
    if is_null(entry.value):
        return ()
    if isinstance(entry.value, MapItem):
        return entry.value.entries
    if isinstance(entry.value, ListItem) and all(isinstance(child, MapItem) for child in entry.value.items):
        maps = [child for child in entry.value.items if isinstance(child, MapItem)]
        return tuple(inner for child in maps for inner in child.entries)
    text = entry.value.text[:40] if isinstance(entry.value, ScalarItem) else "a list"
    raise ConfigError(
        f"{section} holds {text!r} instead of keys.",
        where=str(entry.value.place),
        hint="Write its keys below it, indented, as key: 'value' with a blank after the colon.",
    )


def _stray_section(entry: Entry, book: Notebook) -> list[tuple[str, Entry]]:
    """An unknown section is left out with a note; a known key at the top level is handed on."""
    if _same_word(entry.key, _HOME) is not None:
        return [("", entry)]
    guess = _suggestion(entry.key, SECTIONS)
    book.add(entry.place, entry.key, f"unknown section {entry.key!r} is left out.", "unknown", guess)
    return []


def _place_stray(
    section: str, entry: Entry, found: dict[str, dict[str, Entry]], places: dict[str, Place], book: Notebook
) -> None:
    """A key in a section it does not belong to: used where it belongs, if it belongs anywhere."""
    key = _same_word(entry.key, _HOME)
    where = f"{section}.{entry.key}" if section else entry.key
    if key is None:
        known = _KEYS[section] if section else _HOME
        guess = _suggestion(entry.key, known) or _suggestion(entry.key, _HOME)
        book.add(entry.place, where, f"unknown key {where!r} is left out.", "unknown", guess)
        return
    home = _HOME[key]
    if key in found[home]:
        line = places[f"{home}.{key}"].line
        message = f"{where!r} does not belong here and is left out; {home}.{key} on line {line} counts."
        book.add(entry.place, where, message, "misplaced")
        return
    message = f"{where!r} belongs in {home}; read as {home}.{key}."
    book.add(entry.place, where, message, "misplaced", f"Move the line below {home}.")
    found[home][key] = entry
    places[f"{home}.{key}"] = entry.place


def _suggestion(word: str, known: Mapping[str, object]) -> str:
    invented = _KNOWN_INVENTIONS.get(word.lower())
    return f"Did you mean {invented!r}?" if invented else did_you_mean(word, known)


def _same_word(word: str, known: Mapping[str, object]) -> str | None:
    """The known word that differs only in case, `-`, blanks, or a plural s."""
    if word in known:
        return word
    folded = word.strip().lower().replace("-", "_").replace(" ", "_")
    for name in known:
        if folded == name or folded.rstrip("s") == name.rstrip("s"):
            return name
    return None


def _note_spelling(entry: Entry, name: str, path: str, book: Notebook) -> None:
    if entry.key != name:
        book.add(entry.place, path, f"{entry.key!r} is read as {name!r}.", "alias")


def _note_duplicate(path: str, earlier: Entry, later: Entry, book: Notebook) -> None:
    message = f"{path} stands on line {earlier.place.line} and again on line {later.place.line}; the later one counts."
    book.add(later.place, path, message, "duplicate", "Remove one of them.")


def _march(entries: dict[str, dict[str, Entry]], places: dict[str, Place], file: str) -> str:
    """The march, which decides how other keys are read; errors about it are left to its own reading."""
    entry = entries["model_parameters"].get("march")
    if entry is None or is_null(entry.value):
        place = entry.place if entry else places.get("model_parameters", Place(file, 1))
        raise ConfigError(
            "model_parameters.march is missing." if entry is None else "march: the value is empty.",
            where=str(place),
            hint="Write march: 'bayes-e' (RDK X5), 'bernoulli2' (RDK X3), 'nash-e' (RDK S100), ...",
        )
    item = entry.value
    try:
        return parse_march(item.text) if isinstance(item, ScalarItem) else ""
    except BadValueError:
        return ""


def _declared_inputs(entries: dict[str, dict[str, Entry]]) -> int:
    """The number of inputs, as the longest of the keys that cannot be misread say."""
    counts = [1]
    for key in ("input_name", "input_type_rt", "input_type_train", "input_layout_train"):
        entry = entries["input_parameters"].get(key)
        if entry is not None and isinstance(entry.value, ListItem):
            counts.append(len(entry.value.items))
        elif entry is not None and isinstance(entry.value, ScalarItem):
            counts.append(len(split_parts(entry.value.text, commas=True)))
    return max(counts)


def _read(item: Item, key: Key, context: ReadContext) -> object | None:
    if is_null(item):
        return None
    reason = key.ignored(context.march)
    if reason:
        context.note(f"has no effect: {reason}.", "deprecated" if "deprecated" in reason else "ignored")
        return None
    try:
        value: object = key.kind.read(item, context)
    except BadValueError as error:
        raise context.error(f"{error.message}.", error.hint) from None
    return value


def _explained(error: ValidationError, places: Mapping[str, Place], file: str) -> ConfigError:
    """A value that a reader let pass and the typed model refuses."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"][:2])
    place = places.get(path) or places.get(path.split(".")[0]) or Place(file)
    return ConfigError(
        f"{path}: {first['msg']}.", where=str(place), hint=f"See `hbtool explain {path.split('.')[-1]}`."
    )

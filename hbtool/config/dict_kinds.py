"""The notations of structured values: node_info, optimization, quant_config, input_source, free dicts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hbtool.config.keys import Kind, ReadContext
from hbtool.config.kinds import placeholder_of, scalar
from hbtool.config.node_info import NODE_KEYS, InputTypeAt, NodeSetting, parse_attribute, parse_node_types
from hbtool.config.notes import did_you_mean
from hbtool.config.optimization import OptimizationFlags, build_flags, known_flags
from hbtool.config.values import BadValueError, clean, parse_choice, split_flags
from hbtool.config.yaml_items import Entry, Item, ListItem, MapItem, ScalarItem, build_items, is_null, plain_value
from hbtool.errors import ConfigError

_TEXT_OR_MAP: dict[str, object] = {"type": ["object", "string", "null"]}


def mapping(item: Item, context: ReadContext) -> MapItem | None:
    """The mapping that ``item`` is, or that its text spells (`"{'data': 'pyramid'}"`); None if it spells none."""
    if isinstance(item, MapItem):
        return item
    if isinstance(item, ScalarItem) and item.text.strip().startswith("{"):
        try:
            inner = build_items(item.text, context.place.file, item.place.line - 1)
        except yaml.YAMLError:
            raise context.error("the text is not a readable dict.", "Write a YAML mapping.", item.place) from None
        return inner if isinstance(inner, MapItem) else None
    return None


def read_node_info(item: Item, context: ReadContext) -> tuple[NodeSetting, ...]:
    """Both forms of node_info."""
    placeholder = placeholder_of(item)
    if isinstance(item, MapItem) and placeholder and len(item.entries) == 1:
        hint = "Name the nodes, or remove the line."
        context.note(f"the placeholder {placeholder} is left out.", "placeholder", hint=hint, place=item.place)
        return ()
    found = mapping(item, context)
    if found is None and isinstance(item, ScalarItem) and item.text.strip().endswith((".json", ".yaml", ".yml")):
        found = read_json_file(item.text.strip(), context)
    if found is None:
        if isinstance(item, ListItem):
            text = ";".join(scalar(child, context) for child in item.items)
        else:
            text = scalar(item, context)
        return _without_repeats(parse_node_types(text), context)
    settings = [_node_setting(entry, context) for entry in found.last().values()]
    for entry in found.entries:
        if found.last()[entry.key] is not entry:
            later = found.last()[entry.key].place.line
            context.note(f"{entry.key!r} stands here and on line {later}; the later one counts.", "duplicate",
                         place=entry.place)  # fmt: skip
    return tuple(settings)


def _without_repeats(settings: Sequence[NodeSetting], context: ReadContext) -> tuple[NodeSetting, ...]:
    last = {setting.node: setting for setting in settings}
    if len(last) < len(settings):
        context.note("a node is named twice; the later one counts.", "duplicate")
    return tuple(last.values())


def _node_setting(entry: Entry, context: ReadContext) -> NodeSetting:
    if isinstance(entry.value, ScalarItem) and not is_null(entry.value):
        try:  # `node: int16` and `node: BPU`: short for the one thing they can mean
            short = parse_choice(entry.value.text, ("BPU", "CPU", "int8", "int16"))
        except BadValueError as error:
            raise context.error(f"{entry.key}: {error.message}.", error.hint, entry.place) from None
        return NodeSetting.model_validate(
            {"node": entry.key, "device" if short in ("BPU", "CPU") else "output_type": short}
        )
    if not isinstance(entry.value, MapItem):
        if is_null(entry.value):
            context.note(f"{entry.key!r} says nothing.", "value", place=entry.place)
            return NodeSetting(node=entry.key)
        raise context.error(f"{entry.key!r} has a list.", "Write {'ON': 'BPU', 'InputType': 'int16'}.", entry.place)
    fields: dict[str, Any] = {"node": entry.key}
    inputs: tuple[InputTypeAt, ...] = ()
    for name, attribute in entry.value.last().items():
        if is_null(attribute.value):
            continue
        try:
            parsed = parse_attribute(name, scalar(attribute.value, context))
        except BadValueError as error:
            raise context.error(f"{entry.key}: {error.message}.", error.hint, attribute.place) from None
        if parsed is None:
            guess = did_you_mean(name, NODE_KEYS) or f"Known are {', '.join(NODE_KEYS)}."
            context.note(f"{entry.key}: unknown key {name!r}.", "unknown", hint=guess, place=attribute.place)
            continue
        inputs += parsed.pop("input_types", ())  # type: ignore[operator]
        fields |= parsed
    inputs = tuple(sorted(inputs, key=lambda at: at.index))
    return NodeSetting.model_validate(fields | {"input_types": inputs})


def write_node_info(value: Sequence[NodeSetting]) -> object:
    """node_info as a plain dict."""
    return {setting.node: setting.as_dict() for setting in value}


def _read_node_types(item: Item, context: ReadContext) -> tuple[NodeSetting, ...]:
    return read_node_info(item, context)


def _read_flags(item: Item, context: ReadContext) -> OptimizationFlags:
    if isinstance(item, ListItem):
        words = [flag for child in item.items for flag in split_flags(scalar(child, context))]
    else:
        words = split_flags(scalar(item, context))
    flags, unknown = build_flags(words)
    for word in unknown:
        guess = did_you_mean(word, known_flags()) or "The flags are listed by `hbtool explain optimization`."
        if kind := re.fullmatch(r"(set_\w+_(?:input|output)_)\w+", word):
            guess = f"The types are int8 and int16, as in {kind[1]}int8."
        context.note(f"unknown flag {word!r} is left out.", "unknown", hint=guess, place=item.place)
    if context.march != "bernoulli2":
        return flags
    kept = OptimizationFlags(
        model_output="int8" if flags.model_output == "int8" else None, run_fast=flags.run_fast, equalize=flags.equalize
    )
    for word in sorted(set(flags.flags) - set(kept.flags)):
        context.note(f"{word} has no effect on bernoulli2.", "ignored", hint="It knows set_model_output_int8 only.",
                     place=item.place)  # fmt: skip
    return kept


def _write_flags(value: OptimizationFlags) -> str:
    return ",".join(value.flags)


def _read_sources(item: Item, context: ReadContext) -> dict[str, str]:
    found = mapping(item, context)
    sources = ("ddr", "pyramid", "resizer")
    if found is None:
        word = parse_choice(scalar(item, context), sources)
        context.note(f"{word!r} is read for every input.", "alias", hint="Write {'input name': '" + word + "'}.")
        return {"*": word}
    result: dict[str, str] = {}
    for name, entry in found.last().items():
        try:
            result[clean(name)] = parse_choice(scalar(entry.value, context), sources)
        except BadValueError as error:
            raise context.error(f"{name}: {error.message}.", error.hint, entry.place) from None
    return result


def _read_free(item: Item, context: ReadContext) -> dict[str, object]:
    found = mapping(item, context)
    if found is None:
        raise BadValueError("a dict belongs here", "Write {name: value}.")
    return {entry.key: plain_value(entry.value) for entry in found.last().values()}


def read_json_file(text: str, context: ReadContext) -> MapItem:
    """The mapping in a JSON or YAML file beside the configuration."""
    path = context.folder / text
    try:
        inner = build_items(path.read_text(encoding="utf-8"), text)
    except (OSError, UnicodeDecodeError):
        raise context.error(f"cannot read the file {text!r}.", "Give an existing JSON file, or a dict.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not valid JSON: {error.problem}.", where=f"{text}:{line}", hint="Correct it.") from None
    except yaml.YAMLError:
        raise ConfigError("not valid JSON.", where=text, hint="Correct the file.") from None
    if not isinstance(inner, MapItem):
        raise ConfigError("the file holds no dict.", where=text, hint='Write {"name": {...}}.')
    return inner


def _as_json(value: object) -> object:
    return json.loads(json.dumps(value))


def _copy(value: Mapping[str, object]) -> object:
    return dict(value)


NODE_INFO = Kind("dict, or 'node:int16;node2:int16'", read_node_info, write_node_info, _TEXT_OR_MAP)
NODE_TYPES = Kind("'node:int16;node2:int16'", _read_node_types, write_node_info, _TEXT_OR_MAP)
FLAGS = Kind("flags; `,` or `;`", _read_flags, _write_flags, {"type": ["string", "array", "null"]})
SOURCES = Kind("dict: input name → ddr / pyramid / resizer", _read_sources, _copy, _TEXT_OR_MAP)
FREE = Kind("dict", _read_free, _as_json, {"type": ["object", "null"]})

"""Reads the nash `quant_config` from YAML items, with a place for every complaint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hbtool.config.dict_kinds import mapping, read_json_file
from hbtool.config.keys import Kind, ReadContext
from hbtool.config.kinds import scalar
from hbtool.config.notes import did_you_mean
from hbtool.config.quant_config import METRICS, MIN_KL_BINS, MIN_KL_MAX_BINS, QTYPES, QuantConfig, TypeRule
from hbtool.config.values import BadValueError, parse_bool, parse_choice, parse_float, parse_int, split_flags
from hbtool.config.yaml_items import Entry, Item, ListItem, MapItem, ScalarItem, is_null

Parse = Callable[[str], Any]


def _checked(parse: Parse, entry: Entry, item: Item, context: ReadContext) -> Any:
    try:
        return parse(scalar(item, context))
    except BadValueError as error:
        raise context.error(f"{entry.key}: {error.message}.", error.hint, item.place) from None


def _several(parse: Parse) -> Callable[[Entry, ReadContext], tuple[Any, ...]]:
    """One value, a YAML list, or a `,` list: a space to search."""

    def read(entry: Entry, context: ReadContext) -> tuple[Any, ...]:
        if isinstance(entry.value, ListItem):
            leaves: Sequence[Item] = entry.value.items
        else:
            place = entry.value.place
            leaves = [ScalarItem(word, True, place) for word in split_flags(scalar(entry.value, context))]
        return tuple(_checked(parse, entry, leaf, context) for leaf in leaves)

    return read


def _one(parse: Parse) -> Callable[[Entry, ReadContext], Any]:
    def read(entry: Entry, context: ReadContext) -> Any:
        return _checked(parse, entry, entry.value, context)

    return read


def _bounded(low: float, high: float) -> Parse:
    def parse(text: str) -> float:
        number = parse_float(text)
        if not low <= number <= high:
            raise BadValueError(f"{number:g} is outside {low:g}..{high:g}", f"Write a number in {low:g}..{high:g}.")
        return number

    return parse


def _at_least(low: int) -> Parse:
    def parse(text: str) -> int:
        number = parse_int(text)
        if number < low:
            raise BadValueError(f"{number} is below {low}", f"Write {low} or more.")
        return number

    return parse


def _qtype(text: str) -> str:
    return parse_choice(text, QTYPES, {"float": "float32", "fp32": "float32", "fp16": "float16"})


def _choice(values: Sequence[str]) -> Parse:
    return lambda text: parse_choice(text, values)


def _section(fields: dict[str, Callable[[Entry, ReadContext], Any]]) -> Callable[[Entry, ReadContext], dict[str, Any]]:
    """A nested mapping with known fields; unknown ones become notes."""

    def read(entry: Entry, context: ReadContext) -> dict[str, Any]:
        found = _mapping_of(entry, context)
        result: dict[str, Any] = {}
        for written, inner in found.last().items():
            name = _known(written, fields)
            if name not in fields:
                guess = did_you_mean(name, fields) or f"Known are {', '.join(fields)}."
                inside = "" if entry.key == context.key else f"{entry.key}: "
                context.note(f"{inside}unknown key {name!r}.", "unknown", hint=guess, place=inner.place)
            elif not is_null(inner.value):
                result[name] = fields[name](inner, context)
        return result

    return read


def _known(word: str, fields: Iterable[str]) -> str:
    """The field that a word means, letter case and `-` aside; the word itself where it means none."""
    folded = word.strip().lower().replace("-", "_")
    return next((name for name in fields if name == folded), word)


def _mapping_of(entry: Entry, context: ReadContext) -> MapItem:
    if is_null(entry.value):
        return MapItem((), entry.place)
    found = mapping(entry.value, context)
    if found is None:
        raise context.error(f"{entry.key}: a dict belongs here.", "Write name: value pairs below it.", entry.place)
    return found


def _rules(entry: Entry, context: ReadContext) -> tuple[dict[str, Any], ...]:
    """op_config and node_config: name → {qtype, input0, ...}."""
    rules = []
    for name, inner in _mapping_of(entry, context).last().items():
        rule: dict[str, Any] = {"name": name}
        inputs: list[tuple[int, str]] = []
        for key, field in _mapping_of(inner, context).last().items():
            numbered = re.fullmatch(r"input(\d{1,4})", key)
            if key == "qtype":
                rule["qtype"] = _checked(_qtype, field, field.value, context)
            elif numbered:
                inputs.append((int(numbered[1]), _checked(_qtype, field, field.value, context)))
            else:
                guess = did_you_mean(key, ("qtype", "input0", "input1")) or "Known are qtype, input0, input1, ..."
                context.note(f"{name}: unknown key {key!r}.", "unknown", hint=guess, place=field.place)
        rules.append(rule | {"input_types": tuple(sorted(inputs))})
    return tuple(rules)


def _subgraphs(entry: Entry, context: ReadContext) -> tuple[dict[str, Any], ...]:
    read = _section({"inputs": _several(str.strip), "outputs": _several(str.strip), "qtype": _one(_qtype)})
    found = []
    for name, inner in _mapping_of(entry, context).last().items():
        rule = {"name": name} | read(inner, context)
        missing = [key for key in ("inputs", "outputs") if not rule.get(key)]
        if missing:
            raise context.error(f"{name}: {' and '.join(missing)} missing.", "Name the border tensors.", inner.place)
        found.append(rule)
    return tuple(found)


_BIAS = _section({"num_sample": _one(_at_least(1)), "metric": _one(_choice(METRICS))})
_ACTIVATION = _section(
    {
        "calibration_type": _several(_choice(("max", "kl"))),
        "num_bin": _several(_at_least(MIN_KL_BINS)),
        "max_num_bin": _one(_at_least(MIN_KL_MAX_BINS)),
        "max_percentile": _several(_bounded(0.5, 1.0)),
        "per_channel": _several(parse_bool),
        "asymmetric": _several(parse_bool),
    }
)
_FIELDS: dict[str, Callable[[Entry, ReadContext], Any]] = {
    "model_config": _section(
        {
            "all_node_type": _one(_qtype),
            "model_output_type": _one(_qtype),
            "activation": _ACTIVATION,
            "weight": _section({"bias_correction": _BIAS}),
            "search": _one(parse_bool),
        }
    ),
    "op_config": _rules,
    "subgraph_config": _subgraphs,
    "node_config": _rules,
}


def read_quant_config(item: Item, context: ReadContext) -> QuantConfig | None:
    """The typed quant_config from a dict, a dict in quotes, or the path of a JSON file; None if it asks for nothing."""
    found = mapping(item, context)
    if found is None:
        found = read_json_file(scalar(item, context), context)
    fields = _section(_FIELDS)(Entry("quant_config", item.place, found), context)
    config = QuantConfig.model_validate(fields)
    return None if config == QuantConfig() else config


def _rule_dict(rule: TypeRule) -> dict[str, str]:
    types: dict[str, str] = {f"input{index}": dtype for index, dtype in rule.input_types}
    return {"qtype": rule.qtype, **types} if rule.qtype else types


def write_quant_config(value: QuantConfig) -> object:
    """The dict form again."""
    whole = value.whole_model.model_dump(mode="json", exclude_defaults=True)
    found: dict[str, object] = {"model_config": whole} if whole else {}
    if value.op_config:
        found["op_config"] = {rule.name: _rule_dict(rule) for rule in value.op_config}
    if value.subgraph_config:
        found["subgraph_config"] = {
            rule.name: {"inputs": list(rule.inputs), "outputs": list(rule.outputs)}
            | ({"qtype": rule.qtype} if rule.qtype else {})
            for rule in value.subgraph_config
        }
    if value.node_config:
        found["node_config"] = {rule.name: _rule_dict(rule) for rule in value.node_config}
    return found


QUANT = Kind(
    "dict, or path of a JSON file", read_quant_config, write_quant_config, {"type": ["object", "string", "null"]}
)

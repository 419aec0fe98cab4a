"""A JSON schema of the YAML notation, so that editors complete and check a config.yaml."""

from __future__ import annotations

import json
from typing import Any

from hbtool.config.schema import SECTIONS
from hbtool.config.section import keys_of

TITLE = "hbtool configuration"


def json_schema() -> dict[str, Any]:
    """The schema, draft 2020-12: every key with its description, its notation and, where it has one, its default."""
    groups: dict[str, Any] = {}
    for section, model in SECTIONS.items():
        properties: dict[str, Any] = {}
        for name, key in keys_of(model).items():
            info: dict[str, Any] = {"description": key.text, **key.kind.json}
            default = model.model_fields[name].default
            if isinstance(default, (str, int, float, bool)) and not key.default_text:
                info["default"] = default
            if key.ignored_on.get("all"):
                info["deprecated"] = True
            properties[name] = info
        groups[section] = {
            "type": ["object", "null"],
            "description": (model.__doc__ or "").strip().split("\n")[0],
            "additionalProperties": False,
            "properties": properties,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        "type": "object",
        "additionalProperties": False,
        "required": ["model_parameters", "input_parameters"],
        "properties": groups,
    }


def json_schema_text() -> str:
    """The schema as the text of `configs/hbtool.schema.json`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"

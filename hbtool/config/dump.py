"""A configuration as YAML again: groups and keys sorted, values in the format's own notation."""

from __future__ import annotations

from typing import Any

import yaml

from hbtool.config.schema import SECTIONS, Config
from hbtool.config.section import keys_of


def dump(config: Config, *, full: bool = False) -> str:
    """The configuration as sorted YAML, as makertbin prints it under "Dump config".

    Args:
        config: what to print.
        full: also the keys that were not given, with their defaults.

    The text loads to an equal configuration. Keys without effect were dropped on load and are not in it.
    """
    groups: dict[str, dict[str, Any]] = {}
    for section, model in SECTIONS.items():
        group = getattr(config, section)
        keys = keys_of(model)
        chosen = keys if full else [name for name in keys if name in group.model_fields_set]
        written = {}
        for name in chosen:
            # The old spelling of node_info was merged into it on load.
            if name == "set_node_data_type" or keys[name].ignored(config.march):
                continue
            value = getattr(group, name)
            written[name] = None if value is None else keys[name].kind.write(value)
        if written:
            groups[section] = written
    # Inside a value the order stays: of two globs in node_info the later one counts.
    ordered = {section: dict(sorted(keys.items())) for section, keys in sorted(groups.items())}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)

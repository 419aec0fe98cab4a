"""The base of the five groups, and the access to what is known of their keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hbtool.config.keys import Key


class Section(BaseModel):
    """A frozen group of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def keys_of(section: type[Section]) -> dict[str, Key]:
    """The keys of a group in the order they are declared."""
    found: dict[str, Key] = {}
    for name, field in section.model_fields.items():
        found[name] = next(item for item in field.metadata if isinstance(item, Key))
    return found

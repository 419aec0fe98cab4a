"""Reads the YAML of the torch commands: every error names file and line, unknown keys get the nearest known ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hbtool.config.notes import Notebook, Place, did_you_mean
from hbtool.config.training import ModuleQuantization, TrainingConfig
from hbtool.config.yaml_items import Item, ListItem, MapItem, plain_value
from hbtool.config.yaml_text import parse_items, read_text
from hbtool.errors import ConfigError


@dataclass(frozen=True)
class LoadedTraining:
    """A configuration with its file.

    Attributes:
        config: the typed values.
        file: the YAML file.
        folder: absolute base of its relative paths.
        places: dotted key path -> where it stands.
    """

    config: TrainingConfig
    file: str = "<config>"
    folder: Path = field(default_factory=Path.cwd)
    places: Mapping[str, Place] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """`file:line` of a key, of its section, or the file."""
        while path:
            if path in self.places:
                return str(self.places[path])
            path = path.rpartition(".")[0]
        return self.file

    @property
    def working_dir(self) -> Path:
        """Folder of the results, absolute."""
        return (self.folder / self.config.model_parameters.working_dir).resolve()


def load_training_config(path: str | Path) -> LoadedTraining:
    """Read the file; models and data are not touched.

    Raises:
        ConfigError: what, where (`file:line`), and what to write instead.
    """
    path = Path(path)
    text, _ = read_text(path)
    return parse_training_config(text, file=str(path), folder=path.absolute().parent)


def parse_training_config(text: str, *, file: str = "<text>", folder: Path | None = None) -> LoadedTraining:
    """Read a configuration from a string; `folder` is the base of its relative paths."""
    root = parse_items(text, file, Notebook(), lambda item: len(item.entries) if isinstance(item, MapItem) else 0)
    if not isinstance(root, MapItem) or not root.entries:
        sections = ", ".join(TrainingConfig.model_fields)
        raise ConfigError(
            "the configuration is empty or not a mapping.", where=file, hint=f"It has the sections {sections}."
        )
    places = dict(_places(root))
    _refuse_duplicates(root, "")
    try:
        config = TrainingConfig.model_validate(_values(root))
    except ValidationError as error:
        raise _explained(error, places, file) from None
    return LoadedTraining(config, file, folder or Path.cwd(), places)


def _values(item: Item) -> Any:
    """Plain values; a section without keys has its defaults."""
    value = plain_value(item)
    assert isinstance(value, dict)
    return {key: {} if inner is None else inner for key, inner in value.items()}


def _places(item: Item, path: str = "") -> Iterator[tuple[str, Place]]:
    if isinstance(item, MapItem):
        for entry in item.entries:
            inner = f"{path}.{entry.key}" if path else entry.key
            yield inner, entry.place
            yield from _places(entry.value, inner)
    elif isinstance(item, ListItem):
        for index, child in enumerate(item.items):
            yield f"{path}.{index}", child.place
            yield from _places(child, f"{path}.{index}")


def _refuse_duplicates(item: Item, path: str) -> None:
    if not isinstance(item, MapItem):
        return
    seen: set[str] = set()
    for entry in item.entries:
        inner = f"{path}.{entry.key}" if path else entry.key
        if entry.key in seen:
            raise ConfigError(f"{inner} stands twice.", where=str(entry.place), hint="Remove one of them.")
        seen.add(entry.key)
        _refuse_duplicates(entry.value, inner)


def _explained(error: ValidationError, places: Mapping[str, Place], file: str) -> ConfigError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    found = path
    while found and found not in places:
        found = found.rpartition(".")[0]
    where = str(places[found]) if found else file
    if first["type"] == "extra_forbidden":
        known = _known(path.rpartition(".")[0])
        guess = did_you_mean(path.rpartition(".")[2], known) or f"Known here are {', '.join(known)}."
        return ConfigError(f"unknown key {path!r}.", where=where, hint=guess)
    if first["type"] == "missing":
        return ConfigError(f"{path} is missing.", where=where, hint=_description(path))
    message = str(first["msg"]).removeprefix("Value error, ")
    return ConfigError(f"{path}: {message}.".replace("..", "."), where=where, hint=_description(path))


def _group(path: str) -> type[BaseModel] | None:
    """The model of a dotted path, None where a path leaves the schema."""
    group: type[BaseModel] | None = TrainingConfig
    parts = path.split(".") if path else []
    for index, part in enumerate(parts):
        if group is None or part not in group.model_fields:
            # A mapping's key (a module path may hold dots): its values' model.
            return group if index else None
        annotation = group.model_fields[part].annotation
        inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        group = inner[0] if inner else None
    return group


def _known(path: str) -> list[str]:
    group = _group(path)
    return list(group.model_fields) if group is not None else []


def _description(path: str) -> str | None:
    group = _group(path.rpartition(".")[0])
    found = group.model_fields.get(path.rpartition(".")[2]) if group is not None else None
    return f"It is: {found.description}." if found is not None and found.description else None


def training_schema_page() -> str:
    """Every key of the YAML with its default and meaning, as a Markdown table per section."""
    lines = [
        "# The YAML of `hbtool calib`, `qat`, `convert` and `export-onnx`: all keys",
        "",
        "*Generated by `docs/generate_training_page.py` from the schema in `hbtool/config/training.py`; do not edit.*",
        "",
        "How to use it: [tutorials/pytorch_qat.md](tutorials/pytorch_qat.md).",
        "",
    ]
    for section, info in TrainingConfig.model_fields.items():
        group = info.annotation
        assert isinstance(group, type) and issubclass(group, BaseModel)
        lines += _table(f"`{section}`", group)
    return "\n".join([*lines, *_table("A module under `quantization_parameters.module_name`", ModuleQuantization)])


def _table(title: str, group: type[BaseModel]) -> list[str]:
    lines = [f"## {title}", "", (group.__doc__ or "").strip(), "", "| key | default | meaning |", "|---|---|---|"]
    for name, key in group.model_fields.items():
        default = "required" if key.is_required() else f"`{key.get_default()!r}`"
        lines.append(f"| `{name}` | {default} | {key.description} |")
    return [*lines, ""]

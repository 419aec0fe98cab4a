"""init: a commented config.yaml from a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hbtool.config.template import template
from hbtool.errors import UsageError
from hbtool.flows.quick_config import facts_of
from hbtool.ir.save import write_text
from hbtool.target.target import load as load_target


@dataclass(frozen=True)
class WrittenConfig:
    """The file, and the inputs it describes."""

    path: Path
    inputs: tuple[str, ...]


def init_config(model: Path, march: str, output: Path | None = None, *, force: bool = False) -> WrittenConfig:
    """Write the configuration beside the model, or to `output`.

    Raises:
        UsageError: the file exists already and `force` is not given.
        ModelError: the model cannot be read.
        ConfigError: there is no such march.
    """
    facts = facts_of(model)
    load_target(march)
    path = output if output is not None else model.with_name("config.yaml")
    if path.exists() and not force:
        raise UsageError(f"{path} exists already", hint="Give another --output, or --force to replace it.")
    named = os.path.relpath(model.absolute(), path.absolute().parent)
    text = template(facts, march=march, onnx_model=named, prefix=model.stem)
    return WrittenConfig(write_text(path, text), tuple(entry.name for entry in facts.inputs))

"""init: a commented config.yaml from a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hbtool.config.marches import is_target_file
from hbtool.config.template import EXAMPLE, Extent, template
from hbtool.errors import UsageError
from hbtool.flows.named_target import named_target
from hbtool.flows.quick_config import facts_of
from hbtool.ir.save import write_text


@dataclass(frozen=True)
class WrittenConfig:
    """The file, and the inputs it describes."""

    path: Path
    inputs: tuple[str, ...]


def init_config(
    model: Path | None, march: str, output: Path | None = None, *, force: bool = False, extent: Extent = "usual"
) -> WrittenConfig:
    """Write the configuration beside the model, or to `output`; without a model, one for an example input.

    Raises:
        UsageError: the file exists already and `force` is not given.
        ModelError: the model cannot be read.
        ConfigError: there is no such march.
    """
    facts = facts_of(model) if model is not None else EXAMPLE
    march = named_target(march).march if not is_target_file(march) else march
    beside = (model if model is not None else Path("model.onnx")).with_name("config.yaml")
    path = output if output is not None else beside
    if path.exists() and not force:
        raise UsageError(f"{path} exists already", hint="Give another --output, or --force to replace it.")
    file = model if model is not None else path.with_name("model.onnx")
    named = os.path.relpath(file.absolute(), path.absolute().parent)
    text = template(facts, march=march, onnx_model=named, prefix=file.stem, extent=extent)
    return WrittenConfig(write_text(path, text), tuple(entry.name for entry in facts.inputs))

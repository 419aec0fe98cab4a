"""TorchScript files of fixed-point models, with the hbtool version they were written by."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

import hbtool
from hbtool.quantization.program import integer_program

_log = logging.getLogger(__name__)
_VERSION = "hbtool_version"

_ = integer_program  # a saved model needs the operator


def save(
    m: torch.jit.ScriptModule, f: str | os.PathLike[str] | Any, _extra_files: dict[str, Any] | None = None
) -> None:
    """torch.jit.save with the version of hbtool beside the model."""
    torch.jit.save(m, f, _extra_files={**(_extra_files or {}), _VERSION: hbtool.__version__})


def load(f: str | os.PathLike[str] | Any, map_location: Any = None, _extra_files: dict[str, Any] | None = None) -> Any:
    """torch.jit.load; warns where another version of hbtool wrote the file."""
    extra = {**(_extra_files or {}), _VERSION: ""}
    loaded = torch.jit.load(f, map_location=map_location, _extra_files=extra)  # type: ignore[no-untyped-call]
    written = extra.pop(_VERSION)
    version = written.decode() if isinstance(written, bytes) else written
    if version != hbtool.__version__:
        _log.warning("written by hbtool %s, read by %s: the bits may differ", version or "(none)", hbtool.__version__)
    if _extra_files is not None:
        _extra_files.update(extra)
    return loaded


def to_device(script: Any, device: str | torch.device) -> Any:
    """The model on another device; an integer program follows the device of its inputs by itself."""
    return script.to(device)

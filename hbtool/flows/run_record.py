"""`run.json`: what was run with what, so that a result can be traced and repeated."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import hbtool
from hbtool.ir.save import write_text
from hbtool.numerics.finite import finite

_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "safetensors")


def versions() -> dict[str, str]:
    """Versions of hbtool and of the libraries that take part in the numbers."""
    return {"hbtool": hbtool.__version__, "python": platform.python_version()} | {
        name: metadata.version(name) for name in _PACKAGES
    }


def write_run_record(path: Path, facts: Mapping[str, Any], files: Mapping[str, Path]) -> Path:
    """Write the record; `files` are hashed."""
    record = {
        **facts,
        "versions": versions(),
        "files": {
            role: {"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)}
            for role, file in files.items()
            if file.is_file()
        },
    }
    return write_text(path, json.dumps(finite(record), indent=2, sort_keys=True, allow_nan=False) + "\n")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _by_parts(file)


def _by_parts(file: Path) -> str:
    """hashlib.file_digest is there from Python 3.11."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()

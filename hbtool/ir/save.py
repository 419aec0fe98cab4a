"""Writes files so that a failure leaves nothing half-written: beside the target, then renamed into place."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from hbtool.errors import OutputError


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` to `path` as one step.

    Raises:
        HbError: the disk is full or the folder cannot be written.
    """
    with written_beside(path) as beside:
        beside.write_bytes(data)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write text (UTF-8) to `path` as one step."""
    return write_bytes(path, text.encode())


def model_bytes(model: ir.Model) -> bytes:
    """The ONNX file of a model."""
    return bytes(ir.to_proto(model).SerializeToString())


def save_model(model: ir.Model, path: str | Path) -> Path:
    """Write a model as ONNX as one step."""
    return write_bytes(path, model_bytes(model))


@contextlib.contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """A temporary file in the target's folder that takes the target's name when the block ends without an error."""
    target = Path(path)
    beside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        beside = Path(name)
        yield beside
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, target)
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror or error}",
            where=str(target),
            hint="Check the free space and the rights of the folder; nothing was changed.",
        ) from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

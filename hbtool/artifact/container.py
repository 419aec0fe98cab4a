"""The artifact: one file with everything the runtime needs; safetensors as container, checked before it is used.

| tensor | holds |
|---|---|
| `graph` | the INTEGER graph as ONNX bytes, initializers without their data |
| `const/<name>` | the data of one initializer, unless it lies in a weight region (`shared` in the header says where) |
| `program/<segment>` | the Program of one BPU segment, JSON |
| `weights/<segment>` | the bytes of the Program's weight region |

The safetensors metadata carry one JSON header: format, version, march, inputs, build configuration, and a checksum of
every tensor and of the header itself. Nothing in the file is ever executed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from hbtool.errors import ArtifactError
from hbtool.ir.save import write_bytes

FORMAT = "hbtool-artifact"
VERSION = 1
MAX_HEADER_BYTES = 64 << 20
MAX_TENSORS = 1_000_000


@dataclass(frozen=True)
class Container:
    """A file's content, checked.

    Attributes:
        header: the JSON header (plain dicts, lists, strings, numbers).
        tensors: read-only views into the memory-mapped file, or arrays to be written.
    """

    header: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray] = field(repr=False)


def write_container(path: str | Path, container: Container) -> Path:
    """Write a container as one step.

    Raises:
        HbError: the file cannot be written.
    """
    tensors = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in sorted(container.tensors.items())}
    body = {
        **container.header,
        "format": FORMAT,
        "version": VERSION,
        "checksums": {name: zlib.crc32(a.tobytes()) for name, a in tensors.items()},
    }
    text = json.dumps(body, sort_keys=True)
    # One key only: safetensors writes several in an order that changes from run to run.
    metadata = {"hbtool": f"{zlib.crc32(text.encode())}:{text}"}
    return write_bytes(path, save(tensors, metadata))


def read_container(path: str | Path) -> Container:
    """Read and check a container.

    Raises:
        ArtifactError: missing, not an artifact, truncated, damaged, or of another version.
    """
    file = Path(path)
    if not file.is_file():
        raise ArtifactError("the artifact does not exist", where=str(path), hint="Build it with hbtool makertbin.")
    _check_head(file)
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            header = _header(metadata, str(path))
            names = list(opened.keys())
            if len(names) > MAX_TENSORS or set(names) != set(header["checksums"]):
                raise ArtifactError("the tensors do not match the header", where=str(path), hint=_DAMAGED)
            tensors = {name: opened.get_tensor(name) for name in names}
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"the artifact cannot be read: {str(error).splitlines()[0]}", where=str(path), hint=_DAMAGED
        ) from error
    for name, array in tensors.items():
        if zlib.crc32(array.tobytes()) != header["checksums"][name]:
            raise ArtifactError(f"the content of {name!r} does not match its checksum", where=str(path), hint=_DAMAGED)
    return Container(header, tensors)


_DAMAGED = "The file is truncated or damaged; copy or build it again."


def _check_head(file: Path) -> None:
    """The length prefix against the file's size, before anything of that length is read."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > MAX_HEADER_BYTES or length + 8 > size:
        raise ArtifactError(
            f"this is not an hbtool artifact, or it is truncated ({size} bytes)",
            where=str(file),
            hint="hbtool runs its own artifacts; binaries of the vendor's compiler cannot be read.",
        )


def _header(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    checksum, _, text = metadata.get("hbtool", "").partition(":")
    if not text:
        raise ArtifactError("this safetensors file is not an hbtool artifact", where=where)
    if str(zlib.crc32(text.encode())) != checksum:
        raise ArtifactError("the header does not match its checksum", where=where, hint=_DAMAGED)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError("the header is not JSON", where=where, hint=_DAMAGED) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("checksums"), dict):
        raise ArtifactError("this safetensors file is not an hbtool artifact", where=where)
    if header.get("version") != VERSION:
        raise ArtifactError(
            f"the artifact has format version {header.get('version')!r}, this hbtool reads {VERSION}",
            where=where,
            hint="Build it again with this version of hbtool.",
        )
    return header

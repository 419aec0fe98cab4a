"""Several artifacts in one file, each under its model's name.

| tensor | holds |
|---|---|
| `<name>/<tensor>` | a tensor of the artifact `name` |

The header's `packed` maps names to the headers of the artifacts.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hbtool.artifact.container import Container, read_container, write_container
from hbtool.errors import ArtifactError, UsageError

_PACKED = "packed"


def model_names(container: Container) -> tuple[str, ...]:
    """Names of the models in a file (one, unless it is packed)."""
    packed = container.header.get(_PACKED)
    return tuple(packed) if isinstance(packed, Mapping) else (str(container.header.get("name", "")),)


def is_packed(container: Container) -> bool:
    """Whether the file holds several artifacts."""
    return _PACKED in container.header


def pack(paths: Sequence[str | Path], output: str | Path) -> tuple[str, ...]:
    """Write several artifacts into one file; returns the models' names in order.

    Raises:
        ArtifactError: a file is no artifact, or packed already.
        UsageError: two models have one name, or nothing to pack.
    """
    if not paths:
        raise UsageError("there is nothing to pack", hint="Name the artifacts.")
    headers: dict[str, Mapping[str, Any]] = {}
    tensors: dict[str, np.ndarray] = {}
    for path in paths:
        container = read_container(path)
        if is_packed(container):
            names = ", ".join(model_names(container))
            raise ArtifactError(
                f"this file is packed already ({names})", where=str(path), hint="Pack the single artifacts instead."
            )
        name = model_names(container)[0]
        if name in headers:
            raise UsageError(
                f"two artifacts hold a model called {name!r} (the second is {path})",
                hint="Build one of them with another output_model_file_prefix.",
            )
        headers[name] = {k: v for k, v in container.header.items() if k not in ("format", "version", "checksums")}
        tensors.update({f"{name}/{key}": array for key, array in container.tensors.items()})
    write_container(output, Container({_PACKED: headers}, tensors))
    return tuple(headers)


def select_model(container: Container, name: str | None, where: str) -> Container:
    """The one artifact `name` of a file; without a name the file must hold one.

    Raises:
        UsageError: a name is needed, or there is no such model.
    """
    known = model_names(container)
    if name is not None and name not in known:
        near = difflib.get_close_matches(name, known, 1)
        guess = f"Did you mean {near[0]!r}?" if near else f"Models: {', '.join(known)}."
        raise UsageError(f"{where} holds no model called {name!r}", hint=guess)
    if not is_packed(container):
        return container
    if name is None:
        raise UsageError(f"{where} holds {len(known)} models: {', '.join(known)}", hint="Choose one with its name.")
    header = container.header[_PACKED][name]
    if not isinstance(header, Mapping):
        raise ArtifactError("the header of a packed model is damaged", where=where, hint="Pack the files again.")
    prefix = f"{name}/"
    # A name may begin with another one and a slash; what belongs to that one is not a tensor this one knows.
    others = tuple(f"{other}/" for other in known if other != name and other.startswith(prefix))
    tensors = {
        key.removeprefix(prefix): array
        for key, array in container.tensors.items()
        if key.startswith(prefix) and not (others and key.startswith(others))
    }
    return Container(header, tensors)

"""pack: several artifacts in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hbtool.artifact.pack import pack
from hbtool.runtime.artifact import load_artifact


def pack_artifacts(paths: Sequence[Path], output: Path) -> tuple[str, ...]:
    """Pack the artifacts, then load each model from the new file as proof; returns their names.

    Raises:
        ArtifactError, UsageError: see `hbtool.artifact.pack.pack`.
    """
    names = pack(paths, output)
    for name in names:
        load_artifact(output, name)
    return names

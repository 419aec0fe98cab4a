"""vec_diff: two folders of layer outputs, file by file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbtool.calibration.similarity import similarity
from hbtool.errors import DataError, UsageError
from hbtool.ir.save import write_text

_COLUMNS = (
    "Left Files",
    "Right Files",
    "Cosine Similarity",
    "Relative Euclidean Distance",
    "Max Absolute Error",
    "Mean Square Error",
)


@dataclass(frozen=True)
class FileDifference:
    """Two files of the same name.

    Attributes:
        left: file of the first folder.
        right: file of the second folder.
        cosine: cosine similarity.
        relative: |left - right| / |left|, Euclidean; infinite where left is zero and right is not.
        largest: largest absolute error.
        mse: mean square error.
    """

    left: Path
    right: Path
    cosine: float
    relative: float
    largest: float
    mse: float


def vec_diff(left: Path, right: Path) -> tuple[tuple[FileDifference, ...], tuple[str, ...]]:
    """Compare the files that both folders have; also the names that only one has.

    Raises:
        UsageError: a folder does not exist, or no name is common.
        DataError: two files of one name hold different numbers of elements, or no float32.
    """
    names = [_names(folder) for folder in (left, right)]
    common = sorted(names[0] & names[1])
    if not common:
        raise UsageError(
            f"{left} and {right} have no file name in common",
            hint="Write both with hbtool infer --model-file ... --output-dir DIR.",
        )
    rows = tuple(_compare(left / name, right / name) for name in common)
    return rows, tuple(sorted(names[0] ^ names[1]))


def write_csv(rows: Sequence[FileDifference], path: Path) -> Path:
    """The table in the columns of the vendor's vec_diff."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(_COLUMNS)
    table.writerows((r.left, r.right, r.cosine, r.relative, r.largest, r.mse) for r in rows)
    return write_text(path, text.getvalue())


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="Give two folders of layer outputs.")
    return {path.name for path in folder.iterdir() if path.is_file() and path.suffix in (".bin", ".npy")}


def _compare(left: Path, right: Path) -> FileDifference:
    a, b = _array(left), _array(right)
    if a.size != b.size:
        raise DataError(f"{a.size} elements, and {b.size} in {right}", where=str(left), hint="Dump the same model.")
    seen = similarity(a, b)
    length, distance = float(np.linalg.norm(a)), float(np.linalg.norm(a - b))
    relative = distance / length if length else (0.0 if distance == 0.0 else float("inf"))
    return FileDifference(left, right, seen.cosine, relative, seen.chebyshev, seen.mse)


def _array(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False).astype(np.float64).ravel()
        except (OSError, ValueError) as error:
            raise DataError(f"the file cannot be read: {error}", where=str(path)) from error
    data = path.read_bytes()
    if len(data) % 4:
        raise DataError(f"{len(data)} bytes are no float32 numbers", where=str(path), hint="Give layer outputs.")
    return np.frombuffer(data, np.float32).astype(np.float64)

"""Writes the calibration tensors as the model gets them (`debug_mode: dump_calibration_data`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from hbtool.ir.save import written_beside


def dump_samples(samples: Iterable[Mapping[str, np.ndarray]], folder: Path) -> Path:
    """One `<folder>/<input name>/<index>.npy` per sample and input."""
    for index, sample in enumerate(samples):
        for name, array in sample.items():
            with written_beside(folder / name / f"{index}.npy") as beside, beside.open("wb") as stream:
                np.save(stream, array)
    return folder

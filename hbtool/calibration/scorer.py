"""How close an integer model comes to the float model, on a few calibration samples.

The cosine similarity is what logs and users know; it forgives a result that is too small as a whole, and near 1 it
hardly tells good from better. Which of two settings is taken is decided by the relative squared error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hbtool.calibration.instrument import Samples, spread
from hbtool.calibration.similarity import relative_error, similarity
from hbtool.errors import DataError
from hbtool.ir.onnx_session import make_session
from hbtool.passes.quantize import Quantized

SCORED_SAMPLES = 16
"""Samples a setting is scored on."""


@dataclass(frozen=True)
class Closeness:
    """Means over the samples of the output that does worst.

    Attributes:
        cosine: smallest cosine similarity.
        error: largest relative squared error, sum d² / sum reference².
    """

    cosine: float
    error: float


class Scorer:
    """Compares integer models with one float model on a few samples; float outputs are computed once."""

    def __init__(self, placed: ir.Model, samples: Samples, count: int = SCORED_SAMPLES) -> None:
        if not len(samples):
            raise DataError("there are no calibration samples")
        session = make_session(placed)
        inputs = [v.name for v in session.get_inputs()]
        self._samples = spread(samples, count)
        self._expected: list[list[Any]] = [
            session.run(None, {name: sample[name] for name in inputs}) for sample in self._samples
        ]

    def score(self, quantized: Quantized) -> float:
        """Mean over the samples of the smallest cosine similarity of any output."""
        return self.measure(quantized).cosine

    def measure(self, quantized: Quantized) -> Closeness:
        """Run the integer model on all samples."""
        session = make_session(quantized.standard)
        types = {v.name: np.int8 if "int8" in v.type else None for v in session.get_inputs()}
        cosines, errors = [], []
        for sample, expected in zip(self._samples, self._expected, strict=True):
            results = session.run(None, {k: as_graph_input(sample[k], kind) for k, kind in types.items()})
            pairs = list(zip(expected, results, strict=True))
            cosines.append(min(similarity(a, b).cosine for a, b in pairs))
            errors.append(max(relative_error(a, b) for a, b in pairs))
        return Closeness(float(np.mean(cosines)), float(np.mean(errors)))


def as_graph_input(array: Any, integer: Any) -> Any:
    """A sample of the float graph as the quantized graph takes it: images rounded to int8."""
    if integer is None:
        return array
    return np.clip(np.rint(np.asarray(array, np.float32)), -128, 127).astype(integer)

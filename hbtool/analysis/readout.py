"""Runs a graph and reads values out of its inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.calibration.instrument import Sample
from hbtool.errors import ModelError
from hbtool.ir import graph
from hbtool.ir.onnx_session import make_session

Arrays = dict[str, NDArray[Any]]


class Readout:
    """A session that answers with chosen values of a model.

    Args:
        model: any graph that onnxruntime runs; it is not changed.
        names: values to read, model inputs included.
        optimize: let onnxruntime optimize; off, Q/DQ pairs are computed as they stand.

    Raises:
        ModelError: a name is unknown.
    """

    def __init__(self, model: ir.Model, names: Iterable[str], *, optimize: bool = True) -> None:
        self.names = list(dict.fromkeys(names))
        fed = {graph.value_name(v) for v in model.graph.inputs}
        self._from_feeds = [n for n in self.names if n in fed]
        read = [n for n in self.names if n not in fed]
        copy = model.clone()
        values = {v.name: v for node in copy.graph for v in node.outputs if v.name}
        if unknown := [n for n in read if n not in values]:
            raise ModelError("the model has no such value", where=unknown[0])
        del copy.graph.outputs[:]
        copy.graph.outputs.extend(values[n] for n in read)
        self._session = make_session(copy, optimize=optimize) if read else None
        self._read = read
        self.inputs = [i.name for i in self._session.get_inputs()] if self._session is not None else []

    def run(self, sample: Sample) -> Arrays:
        """The values for one sample, by name.

        Raises:
            ModelError: the model does not run on this sample.
        """
        found: Arrays = {n: np.asarray(sample[n]) for n in self._from_feeds}
        if self._session is None:
            return found
        try:
            results = self._session.run(self._read, {n: sample[n] for n in self.inputs if n in sample})
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise ModelError(f"the model does not run on this sample: {str(error).splitlines()[0]}") from error
        found.update(zip(self._read, (np.asarray(r) for r in results), strict=True))
        return found


def limited(samples: Iterable[Sample], count: int) -> Sequence[Sample]:
    """The first `count` samples, held in memory."""
    found = []
    for sample in samples:
        found.append(sample)
        if len(found) == count:
            break
    return found

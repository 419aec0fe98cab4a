"""Reads whole values out of a float model, for one sample at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.calibration.instrument import Instrument, Sample, float_feeds, run


def capture(
    model: ir.Model, value_names: Iterable[str], samples: Iterable[Sample]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the named float32 values of each sample (model inputs included), by name.

    One session serves all samples; only one sample's values are held at a time.

    Raises:
        ModelError: a name is unknown or not float32, or the model cannot run.
    """
    instrument = Instrument(model)
    names = list(dict.fromkeys(value_names))
    for name in names:
        instrument.shape(name)
    outputs = [instrument.output(instrument.copied(name)) for name in names]
    session = instrument.session()
    inputs = [i.name for i in session.get_inputs()]
    for number, sample in enumerate(samples):
        results = run(session, outputs, float_feeds(sample, inputs), f"sample {number}")
        yield dict(zip(names, results, strict=True))

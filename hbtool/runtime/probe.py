"""Reads inner values of a quantized model as real numbers, to hold them against the float model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph, meta
from hbtool.ir.onnx_session import make_session
from hbtool.numerics import qtype
from hbtool.ops.onnx_builder import decode
from hbtool.passes.to_standard_onnx import to_standard_onnx


def probe(integer: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every value of an INTEGER graph that stands for a float value, dequantized, by the float value's name.

    Args:
        integer: the INTEGER graph.
        feeds: arrays by graph input name, in the graph's own types.
    """
    standard = to_standard_onnx(integer)
    outputs = list(standard.graph.outputs)
    taken = set(outputs)
    wanted: dict[str, ir.Value] = {}
    for node in standard.graph:
        for value in node.outputs:
            name = meta.float_value(value)
            if value.name and (name is not None or meta.qparams(value) is None):
                wanted.setdefault(name or graph.value_name(value), value)
    for value in wanted.values():
        if value not in taken and value.dtype is not None:
            standard.graph.outputs.append(value)
            taken.add(value)
    session = make_session(standard)
    names = [v.name for v in session.get_outputs()]
    results = dict(zip(names, session.run(None, dict(feeds)), strict=True))
    return {
        name: _real(value, results[graph.value_name(value)])
        for name, value in wanted.items()
        if graph.value_name(value) in results
    }


def _real(value: ir.Value, array: np.ndarray) -> np.ndarray:
    q = meta.qparams(value)
    if q is None or meta.float_value(value) is None:
        return array
    return qtype.dequantize(decode(array, q.type), q)

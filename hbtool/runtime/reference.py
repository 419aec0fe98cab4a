"""The definition, executed: every integer operator by its kernel in numpy, CPU nodes in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from hbtool.compiler.segments import Segment, split_segments
from hbtool.ir import graph
from hbtool.ir.onnx_session import make_session
from hbtool.numerics.int_math import NumpyMath
from hbtool.ops.op import integer_op, is_integer, read_attributes
from hbtool.passes.extract import extract_nodes
from hbtool.passes.to_standard_onnx import to_standard_onnx


def run_node(node: ir.Node, inputs: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """The outputs of one integer node."""
    result = integer_op(node).kernel(NumpyMath(), read_attributes(node), *inputs)
    results = result if isinstance(result, tuple) else (result,)
    # numpy turns zero-dimensional arrays into scalars, which onnxruntime does not take.
    return tuple(np.asarray(r) for r in results)


RunSegment = Callable[[Segment, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Runs one BPU segment: its input arrays by value name -> its output arrays by value name."""


def run_reference(
    model: ir.Model, feeds: Mapping[str, np.ndarray], *, keep: bool = False, run_bpu: RunSegment | None = None
) -> dict[str, np.ndarray]:
    """Run an INTEGER graph by definition.

    Args:
        model: the INTEGER graph.
        feeds: arrays by graph input name, in the graph's own types.
        keep: return every value, not only the graph's outputs.
        run_bpu: what runs the BPU segments instead (the simulator); the CPU's nodes run here.

    Returns:
        Arrays by value name.
    """
    values: dict[ir.Value, np.ndarray] = {v: np.asarray(feeds[graph.value_name(v)]) for v in model.graph.inputs}
    for segment in split_segments(model):
        if segment.device == "BPU" and run_bpu is not None:
            results = run_bpu(segment, {graph.value_name(v): values[v] for v in segment.inputs})
            values.update((v, np.asarray(results[graph.value_name(v)])) for v in segment.outputs)
        elif all(is_integer(n) for n in segment.nodes):
            _run_integer(segment, values)
        else:
            _run_cpu(model, segment, values)
    wanted = values if keep else model.graph.outputs
    return {graph.value_name(v): _read(v, values) for v in wanted}


def _read(value: ir.Value, values: Mapping[ir.Value, np.ndarray]) -> np.ndarray:
    array = graph.constant(value)
    return values[value] if array is None else array


def _run_integer(segment: Segment, values: dict[ir.Value, np.ndarray]) -> None:
    for node in segment.nodes:
        inputs = [None if v is None else _read(v, values) for v in node.inputs]
        values.update(zip(node.outputs, run_node(node, inputs), strict=True))


def _run_cpu(model: ir.Model, segment: Segment, values: dict[ir.Value, np.ndarray]) -> None:
    part = to_standard_onnx(extract_nodes(model, segment.nodes, segment.inputs, segment.outputs))
    session = make_session(part)
    results = session.run(None, {graph.value_name(v): values[v] for v in segment.inputs})
    values.update(zip(segment.outputs, (np.asarray(r) for r in results), strict=True))

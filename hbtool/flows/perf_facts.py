"""An artifact as the plain data a report is made of, CPU segments timed on this PC."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import yaml

from hbtool.compiler.segments import Segment, captured
from hbtool.config.model_section import REMOVABLE
from hbtool.flows.talk import Talk
from hbtool.ir import graph, meta
from hbtool.ir.onnx_session import make_session
from hbtool.ops.op import is_integer
from hbtool.passes.extract import extract_nodes
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.perf.facts import ModelFact, NodeFact, SegmentFact, TensorFact
from hbtool.runtime.artifact import Artifact

_MOST_RUNS = 20
_SECONDS_PER_SEGMENT = 0.3
_SEED = 0

REMOVABLE_TYPES: tuple[str, ...] = REMOVABLE
"""Node types that `remove_node_type` takes off head and tail."""


def model_fact(artifact: Artifact, talk: Talk, measure: bool = True) -> ModelFact:
    """The artifact as plain data.

    Args:
        artifact: as loaded.
        talk: hears which segments are timed.
        measure: time the CPU segments on this PC.
    """
    segments = artifact.segments()
    model = artifact.model
    facts = []
    with talk.progress("timing CPU parts on this PC", len(segments)) as step:
        for number, segment in enumerate(segments, 1):
            facts.append(_segment(artifact, segment, measure))
            step(number)
    settings = _settings(artifact.build)
    images = [form.nchw[0] for form in artifact.inputs if form.is_image]
    return ModelFact(
        artifact.name,
        artifact.target,
        f"hbtool {artifact.build.get('hbtool', '?')}",
        tuple(_tensor(v) for v in model.graph.inputs),
        tuple(_tensor(v) for v in model.graph.outputs),
        tuple(facts),
        images[0] if images else 1,
        settings.get(("compiler_parameters", "debug")) is not False,
        settings.get(("model_parameters", "layer_out_dump")) is True,
        float(advice) if isinstance(advice := settings.get(("compiler_parameters", "advice")), int) else 0.0,
    )


def _settings(build: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The keys given in the stored configuration; nothing where it cannot be read (it may come from anywhere)."""
    try:
        groups = yaml.safe_load(str(build.get("configuration", "")))
    except (yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(groups, dict):
        return {}
    return {(g, k): v for g, keys in groups.items() if isinstance(keys, dict) for k, v in keys.items()}


def _segment(artifact: Artifact, segment: Segment, measure: bool) -> SegmentFact:
    inputs = tuple(_tensor(v) for v in segment.inputs)
    outputs = tuple(_tensor(v) for v in segment.outputs)
    if segment.device == "BPU":
        return SegmentFact(segment.name, "BPU", inputs, outputs, artifact.programs[segment.name].program)
    host_us, note = _host_time(artifact.model, segment) if measure else (None, "not asked for")
    nodes = tuple(_node(n) for n in segment.nodes)
    return SegmentFact(segment.name, "CPU", inputs, outputs, None, nodes, host_us, note)


def _tensor(value: ir.Value) -> TensorFact:
    dtype = value.dtype.numpy().name if value.dtype is not None else "unknown"
    return TensorFact(graph.value_name(value), graph.known_shape(value), dtype, _bytes(value))


def _bytes(value: ir.Value) -> int:
    array = graph.constant(value)
    if array is not None:
        return array.nbytes
    shape = graph.known_shape(value)
    if shape is None or value.dtype is None:
        return 0
    return graph.elements(shape) * int(value.dtype.numpy().itemsize)


def _node(node: ir.Node) -> NodeFact:
    read = list(dict.fromkeys(captured(node)))
    return NodeFact(
        graph.node_name(node),
        node.op_type,
        meta.placement(node).reason,
        is_integer(node),
        tuple(graph.value_name(v) for v in read if graph.constant(v) is None),
        tuple(_tensor(v) for v in node.outputs),
        sum(_bytes(v) for v in (*read, *node.outputs)),
    )


def _host_time(model: ir.Model, segment: Segment) -> tuple[float | None, str]:
    """Median time of the segment in onnxruntime on this PC, microseconds; or None and why."""
    if unknown := [v.name for v in segment.inputs if graph.known_shape(v) is None]:
        return None, f"the shape of {unknown[0]!r} is not known before it runs"
    try:
        part = extract_nodes(model, segment.nodes, segment.inputs, segment.outputs)
        session = make_session(to_standard_onnx(part))
        feeds = _random_feeds(segment.inputs)
        return _median_us(session, feeds), ""
    except Exception as error:  # random inputs may be out of range for some nodes (an index, a loop count)
        return None, f"it does not run on random inputs ({type(error).__name__})"


def _random_feeds(inputs: Sequence[ir.Value]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(_SEED)
    feeds = {}
    for value in inputs:
        shape = graph.static_shape(value)
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        if np.issubdtype(dtype, np.floating):
            feeds[graph.value_name(value)] = random.standard_normal(shape).astype(dtype)
        else:
            feeds[graph.value_name(value)] = random.integers(0, 2, shape).astype(dtype)
    return feeds


def _median_us(session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> float:
    session.run(None, feeds)
    times: list[float] = []
    while len(times) < _MOST_RUNS and sum(times) < _SECONDS_PER_SEGMENT:
        since = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - since)
    return statistics.median(times) * 1e6

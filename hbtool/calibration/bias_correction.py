"""Corrects biases for the mean error that quantization leaves in the outputs of convolutions and matrix products.

The empirical way (M. Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", 2019,
section 4.2 and appendix D): the mean of the float output minus the mean of the quantized one, per channel, node after
node, because a node only shows its own error once those before it are corrected.

* Both means are taken over the same samples, so what the choice of samples does to a mean cancels, and few suffice.
* The quantized mean is that of the int32 accumulator: a clamp behind it (Relu6) would hide part of the shift.
* The model is run in pieces, each from one corrected node to the next, on all samples at a time: the whole correction
  costs about two passes over the samples, however many nodes there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.calibration.instrument import Instrument, Sample, Samples, float_feeds, run
from hbtool.errors import DataError, ModelError
from hbtool.ir import graph, meta
from hbtool.ir.onnx_session import make_session
from hbtool.numerics.qtype import INT32, QParams
from hbtool.ops.op import Family, float_op
from hbtool.passes.extract import extract_nodes
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.to_standard_onnx import to_standard_onnx

FloatArray = NDArray[np.float64]
Arrays = dict[str, NDArray[np.generic]]

MOST_SAMPLES = 64
"""More samples change a correction by less than the step of the bias."""
FEWEST_SAMPLES = 4
MEMORY_BYTES = 256 << 20
"""What the values between two pieces may take, over all samples."""


@dataclass(frozen=True)
class Piece:
    """Consecutive nodes of a graph.

    Attributes:
        head: the node whose bias is corrected, None before the first one.
        nodes: head included, in execution order.
        inputs: values from earlier pieces or of the model.
        outputs: values that later pieces read.
    """

    head: ir.Node | None
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def correct_biases(
    ranged: ir.Model, placed: ir.Model, samples: Samples, family: Family, multiplier_bits: int
) -> ir.Model:
    """A copy of a RANGED graph in which the biases make up for the mean error of quantization.

    Args:
        ranged: the float graph with placements and `QParams`.
        placed: the same graph before; the truth.
        samples: calibration samples; the first ones are used, as many as fit (`MOST_SAMPLES`, `MEMORY_BYTES`).
        family: BPU family.
        multiplier_bits: significant bits of the requantization multiplier.

    Raises:
        DataError: no samples. ModelError: the model cannot run.
    """
    corrected = ranged.clone()
    pieces = cut(corrected)
    heads = {graph.value_name(p.head.outputs[0]): p.head for p in pieces if p.head is not None}
    if not heads:
        return corrected
    chosen = list(islice(samples, sample_count(pieces)))
    truth = channel_means(placed, {name: _bias(head)[1] for name, head in heads.items()}, chosen)
    runner = PieceRunner(corrected, pieces, chosen, family, multiplier_bits)
    for piece in pieces:
        if piece.head is not None:
            target = truth[graph.value_name(piece.head.outputs[0])]
            add_to_bias(corrected, piece.head, target - runner.accumulator_means(piece.head))
        runner.advance(piece)
    return corrected


def cut(model: ir.Model) -> list[Piece]:
    """The graph in pieces that each start with a node on the BPU that has a bias."""
    fused = {root: node for node in model.graph if (root := meta.fused_into(node)) is not None}
    groups: list[tuple[ir.Node | None, list[ir.Node]]] = [(None, [])]
    for node in model.graph:
        if meta.fused_into(node) is not None:
            continue  # comes with the node that does its work
        op = float_op(node)
        if meta.on_bpu(node) and op is not None and op.bias(node) is not None:
            groups.append((node, []))
        groups[-1][1].append(node)
        if (clamp := fused.get(graph.node_name(node))) is not None:
            groups[-1][1].append(clamp)
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        for value in graph.read_values(node):
            readers.setdefault(value, []).append(node)
    return [_piece(head, nodes, readers) for head, nodes in groups if nodes]


def _piece(head: ir.Node | None, nodes: Sequence[ir.Node], readers: Mapping[ir.Value, Sequence[ir.Node]]) -> Piece:
    inside = set(nodes)
    inputs: dict[ir.Value, None] = {}
    outputs: dict[ir.Value, None] = {}
    for node in nodes:
        for value in graph.read_values(node):
            if value.producer() not in inside and graph.constant(value) is None:
                inputs.setdefault(value)
        for value in node.outputs:
            if any(reader not in inside for reader in readers.get(value, ())):
                outputs.setdefault(value)
    return Piece(head, tuple(nodes), tuple(inputs), tuple(outputs))


def sample_count(pieces: Sequence[Piece]) -> int:
    """How many samples fit into `MEMORY_BYTES`."""
    last: dict[ir.Value, int] = {v: index for index, piece in enumerate(pieces) for v in piece.inputs}
    born = {v: index for index, piece in enumerate(pieces) for v in piece.outputs}
    sizes = [
        sum(4 * graph.elements(graph.known_shape(v) or ()) for v, end in last.items() if born.get(v, -1) <= i < end)
        for i in range(len(pieces))
    ]
    return max(FEWEST_SAMPLES, min(MOST_SAMPLES, MEMORY_BYTES // max(*sizes, 1)))


class PieceRunner:
    """Runs a RANGED graph piece by piece on all samples, with the values between pieces in memory."""

    def __init__(
        self,
        model: ir.Model,
        pieces: Sequence[Piece],
        samples: Sequence[Sample],
        family: Family,
        multiplier_bits: int,
    ) -> None:
        if not samples:
            raise DataError("there are no calibration samples")
        self._model = model
        self._family = family
        self._bits = multiplier_bits
        self._live: list[Arrays] = [dict(sample) for sample in samples]
        self._last = {v: piece for piece in pieces for v in piece.inputs}

    def accumulator_means(self, head: ir.Node) -> FloatArray:
        """Means `[C]` of what the node's accumulator stands for, before it is rounded or clamped."""
        output = head.outputs[0]
        part = extract_nodes(self._model, [head], graph.activations(head), [output])
        meta.set_qparams(part.graph.outputs[0], QParams(INT32, (1.0,)))
        session = self._session(part)
        axis = _bias(head)[1] % len(graph.static_shape(output))
        total = np.zeros(graph.static_shape(output)[axis])
        for number, values in enumerate(self._live):
            (array,) = run(session, None, _feeds(session, values), f"calibration sample {number}")
            others = tuple(i for i in range(array.ndim) if i != axis)
            total += array.mean(axis=others, dtype=np.float64)
        return np.asarray(total / len(self._live))

    def advance(self, piece: Piece) -> None:
        """Run the piece on all samples; values that no later piece reads are dropped."""
        session = None
        if piece.outputs:
            session = self._session(extract_nodes(self._model, piece.nodes, piece.inputs, piece.outputs))
        dead = [graph.value_name(v) for v in piece.inputs if self._last[v] is piece]
        names = [graph.value_name(v) for v in piece.outputs]
        for number, values in enumerate(self._live):
            if session is not None:
                results = run(session, None, _feeds(session, values), f"calibration sample {number}")
                values.update(zip(names, results, strict=True))
            for name in dead:
                values.pop(name, None)

    def _session(self, part: ir.Model):  # type: ignore[no-untyped-def]  # onnxruntime has no types
        return make_session(to_standard_onnx(lower_to_integer(part, self._family, self._bits)))


def _feeds(session, values: Mapping[str, NDArray[np.generic]]) -> Arrays:  # type: ignore[no-untyped-def]
    """Real numbers as the piece takes them: its image inputs are int8."""
    feeds: Arrays = {}
    for value in session.get_inputs():
        array = values[value.name]
        if value.type == "tensor(int8)":
            array = np.clip(np.rint(array.astype(np.float32)), -128, 127).astype(np.int8)
        feeds[value.name] = array
    return feeds


def _bias(node: ir.Node) -> tuple[int, int]:
    op = float_op(node)
    found = op.bias(node) if op is not None else None
    assert found is not None, "only nodes with a bias are heads"
    return found


def add_to_bias(model: ir.Model, node: ir.Node, addend: FloatArray) -> None:
    """Give the node a bias of its own that is `addend` `[C]` larger (float32)."""
    position, _ = _bias(node)
    before = graph.constant(graph.input_at(node, position))
    array = np.asarray(addend if before is None else before.reshape(-1).astype(np.float64) + addend, np.float32)
    name = f"{graph.node_name(node)}/corrected_bias"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.FLOAT
    model.graph.initializers[name] = value
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, value)


def channel_means(model: ir.Model, channel_axis: Mapping[str, int], samples: Samples) -> dict[str, FloatArray]:
    """Mean of each channel of float32 values over all samples, accumulated in float64.

    Args:
        model: a float model.
        channel_axis: value name -> its channel axis (negative counts from the end): 1 for a convolution's output,
            -1 for a matrix product's.
        samples: the calibration samples.

    Returns:
        name -> means `[C]`.

    Raises:
        DataError: no samples. ModelError: a name is unknown or the model cannot run.
    """
    if not len(samples):
        raise DataError("there are no calibration samples")
    instrument = Instrument(model)
    parts: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for name, axis in channel_axis.items():
        shape = instrument.shape(name)
        if not -len(shape) <= axis < len(shape):
            raise ModelError(f"has {len(shape)} dimensions, so no channel axis {axis}", where=name)
        axis %= len(shape)
        parts.append(instrument.reduce("ReduceMean", name, tuple(range(axis + 1, len(shape)))))
        shapes.append(shape[: axis + 1])
    output = instrument.output(instrument.joined(parts))
    session = instrument.session()
    inputs = [i.name for i in session.get_inputs()]
    total = np.zeros(sum(math.prod(s) for s in shapes))
    for number, sample in enumerate(samples):
        total += run(session, [output], float_feeds(sample, inputs), f"calibration sample {number}")[0]
    total /= len(samples)
    ends = np.cumsum([math.prod(s) for s in shapes])
    pieces = np.split(total, ends[:-1])
    return {n: p.reshape(-1, s[-1]).mean(axis=0) for n, p, s in zip(channel_axis, pieces, shapes, strict=True)}

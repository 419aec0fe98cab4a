"""Corrected biases: the shift that rounding leaves in every channel is gone, whatever lies behind the accumulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import hbtool.calibration.search as search_module
import hbtool.ops  # noqa: F401  # registers the operators
from hbtool.calibration.bias_correction import channel_means, cut
from hbtool.calibration.histogram import Histogram
from hbtool.calibration.mix import mix, noise_share
from hbtool.calibration.ranges import Method
from hbtool.calibration.scorer import Scorer
from hbtool.calibration.search import SEARCH_SPACE, Calibrated, CalibrationJob, calibrate, describe, search
from hbtool.errors import DataError
from hbtool.ir import meta
from hbtool.numerics.qtype import INT8, dequantize, quantize, symmetric
from hbtool.passes.attach_ranges import RangeOptions
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.place import place
from hbtool.passes.simplify import simplify
from hbtool.runtime.probe import probe

BITS = 24


def network() -> onnx.ModelProto:
    """Conv-Relu6 -> depthwise Conv -> (Conv, skip) -> Add -> pooling -> Gemm without bias; weights far from a grid."""
    rng = np.random.default_rng(3)

    def const(name: str, *shape: int, scale: float = 0.3) -> onnx.TensorProto:
        wide = np.exp(rng.standard_normal((shape[0], *(1 for _ in shape[1:]))))
        return onnx.numpy_helper.from_array((rng.standard_normal(shape) * scale * wide).astype(np.float32), name)

    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], name="c0", pads=[1, 1, 1, 1]),
        node("Clip", ["c0", "zero", "six"], ["r0"], name="r0"),
        node("Conv", ["r0", "w1"], ["c1"], name="c1", pads=[1, 1, 1, 1], group=8),
        node("Relu", ["c1"], ["r1"], name="r1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], name="c2"),
        node("Add", ["c2", "r1"], ["a"], name="a"),
        node("GlobalAveragePool", ["a"], ["p"], name="p"),
        node("Flatten", ["p"], ["f"], name="f"),
        node("Gemm", ["f", "w3"], ["y"], name="y"),
    ]
    constants = [
        const("w0", 8, 3, 3, 3),
        const("b0", 8),
        const("w1", 8, 1, 3, 3),
        const("w2", 8, 8, 1, 1),
        const("b2", 8),
        const("w3", 8, 5),
        onnx.numpy_helper.from_array(np.float32(0), "zero"),
        onnx.numpy_helper.from_array(np.float32(6), "six"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, 12, 12])],
        [value("y", onnx.TensorProto.FLOAT, [1, 5])],
        constants,
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(scope="module")
def job() -> CalibrationJob:
    placed = simplify(ir.from_proto(onnx.shape_inference.infer_shapes(network())))
    place(placed, "bayes-e")
    fuse_clamps(placed)
    rng = np.random.default_rng(5)
    samples = [{"x": (rng.standard_normal((1, 3, 12, 12)) + 0.5).astype(np.float32)} for _ in range(24)]
    return CalibrationJob(placed, samples, "bayes-e", BITS, RangeOptions())


def mean_shift(job: CalibrationJob, found: Calibrated, name: str) -> float:
    """Largest mean error of a channel of value `name`."""
    truth = channel_means(job.placed, {name: 1}, job.samples)[name]
    got = [probe(found.quantized.integer, sample)[name] for sample in job.samples]
    mean = np.mean([g.mean(axis=tuple(i for i in range(g.ndim) if i != 1)) for g in got], axis=0)
    return float(np.abs(mean - truth).max())


@pytest.mark.parametrize("method", [Method("max"), Method("max", asymmetric=True), Method("max", per_channel=True)])
def test_mean_errors_are_gone(job: CalibrationJob, method: Method) -> None:
    plain = calibrate(job, method)
    corrected = calibrate(replace(job, bias_correction=True), method)
    assert corrected.corrected and not plain.corrected
    assert mean_shift(job, corrected, "y") < 0.1 * mean_shift(job, plain, "y")
    # What is left in an inner value is the rounding of its own step.
    for name in ("c2",):
        q = next(meta.qparams(v) for n in corrected.quantized.ranged.graph for v in n.outputs if v.name == name)
        assert q is not None
        assert mean_shift(job, corrected, name) < 0.1 * max(q.scales)


def test_the_source_graph_is_left_alone(job: CalibrationJob) -> None:
    before = ir.to_proto(job.placed).SerializeToString()
    calibrate(replace(job, bias_correction=True), Method("max"))
    assert ir.to_proto(job.placed).SerializeToString() == before


def test_pieces_hold_every_node_once_and_keep_clamps_with_their_head(job: CalibrationJob) -> None:
    pieces = cut(job.placed)
    assert [n.name for p in pieces for n in p.nodes] == [n.name for n in job.placed.graph]
    assert [p.head.name for p in pieces if p.head is not None] == ["c0", "c1", "c2", "y"]
    assert [n.name for n in pieces[0].nodes] == ["c0", "r0"]


def test_search_stops_at_a_good_setting(job: CalibrationJob) -> None:
    said: list[str] = []
    found = search(job, say=said.append)
    assert {t.method for t in found.trials} == {SEARCH_SPACE[0]}
    assert "stops here" in said[1]
    assert said[-1].startswith(f"Select {describe(SEARCH_SPACE[0])}")


def test_search_keeps_the_best_trial(job: CalibrationJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "GOOD_ENOUGH", 1.1)
    monkeypatch.setattr(search_module, "ALMOST_PERFECT", 1.1)
    found = search(job)
    assert [t.method for t in found.trials if not (t.refined or t.corrected)] == list(SEARCH_SPACE)
    assert any(t.corrected for t in found.trials)
    error = Scorer(job.placed, job.samples).measure(found.quantized).error
    assert error == pytest.approx(min(t.error for t in found.trials))


def test_mix_is_never_worse_than_the_search_without_correction(job: CalibrationJob) -> None:
    found = mix(job)
    plain = [t.error for t in search(job).trials if not t.corrected]
    assert Scorer(job.placed, job.samples).measure(found.quantized).error <= min(plain) + 1e-12


def test_noise_share_is_that_of_the_values() -> None:
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)
    q = symmetric(6.0, INT8)
    # The middles of bins stand for their contents; at the ends a bin is half a step wide.
    noise = float(((dequantize(quantize(values, q), q) - values) ** 2).mean())
    assert noise_share(histogram, q) == pytest.approx(noise / float((values**2).mean()), rel=0.25)
    assert noise_share(histogram, symmetric(1.0, INT8)) > 100 * noise  # clips


def test_no_samples_is_an_error(job: CalibrationJob) -> None:
    with pytest.raises(DataError, match="no calibration samples"):
        search(replace(job, samples=[]))

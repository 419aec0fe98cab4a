"""Ranges chosen by the error they make where a value is read, and by what they cost the outputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import hbtool.ops  # noqa: F401  # registers the operators
from hbtool.calibration.ranges import Method
from hbtool.calibration.reader_error import least_reader_error
from hbtool.calibration.refine import OutputErrors, refined_ranges
from hbtool.calibration.search import CalibrationJob, calibrate
from hbtool.ir.onnx_session import make_session
from hbtool.numerics.qtype import INT8, QParams, dequantize, quantize
from hbtool.numerics.ranges import Range, to_qparams
from hbtool.passes.attach_ranges import RangeOptions
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.place import place
from hbtool.passes.quantize import quantize as quantize_model
from hbtool.passes.simplify import simplify

PEAK = 64.0


def network(reads_peak: float) -> ir.Model:
    """x -> Relu -> MaxPool -> 1x1 Conv that reads channel 0 and, with weight `reads_peak`, channel 1."""
    weight = np.zeros((2, 2, 1, 1), np.float32)
    weight[0, 0], weight[1, 0], weight[1, 1] = 1.0, -0.5, reads_peak
    node = onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        [
            node("Relu", ["x"], ["r"], name="r"),
            node("MaxPool", ["r"], ["m"], name="m", kernel_shape=[2, 2]),
            node("Conv", ["m", "w"], ["y"], name="y"),
        ],
        "net",
        [value("x", onnx.TensorProto.FLOAT, [1, 2, 9, 9])],
        [value("y", onnx.TensorProto.FLOAT, [1, 2, 8, 8])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    proto = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    placed = simplify(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))
    place(placed, "bayes-e")
    fuse_clamps(placed)
    return placed


def samples() -> list[dict[str, np.ndarray]]:
    """Channel 0 is of the order of 1, channel 1 holds a peak."""
    found = []
    for seed in range(6):
        x = np.random.default_rng(seed).standard_normal((1, 2, 9, 9)).astype(np.float32)
        x[0, 1, 4, 4] = PEAK
        found.append({"x": x})
    return found


def job_of(placed: ir.Model, options: RangeOptions | None = None) -> CalibrationJob:
    return CalibrationJob(placed, samples(), "bayes-e", 24, options or RangeOptions())


LARGEST = {"x": Range((-4.0,), (PEAK,)), "r": Range((0.0,), (PEAK,)), "y": Range((-PEAK,), (PEAK,))}


def test_a_peak_that_no_reader_looks_at_is_cut() -> None:
    found = least_reader_error(network(0.0), LARGEST, samples(), True, frozenset())
    assert found["r"].high[0] < PEAK / 4
    needed = least_reader_error(network(4.0), LARGEST, samples(), True, frozenset())
    assert needed["r"].high[0] == PEAK


def test_an_end_that_the_reader_clamps_away_is_cut() -> None:
    """Only a Relu reads x: what is negative need not be told apart."""
    lopsided = {**LARGEST, "x": Range((-PEAK,), (PEAK,))}
    found = least_reader_error(network(4.0), lopsided, samples(), True, frozenset())
    assert found["x"].low[0] > -PEAK / 2
    assert found["x"].high[0] == PEAK


def test_symmetric_ranges_stay_symmetric_and_kept_values_whole() -> None:
    found = least_reader_error(network(0.0), LARGEST, samples(), False, frozenset({"x"}))
    assert found["x"] == LARGEST["x"]
    assert found["r"].low[0] == -found["r"].high[0]


def test_no_range_grows() -> None:
    found = least_reader_error(network(1.0), LARGEST, samples(), True, frozenset())
    assert all(abs(found[n].low[0]) <= abs(LARGEST[n].low[0]) and found[n].high[0] <= LARGEST[n].high[0] for n in found)


def test_the_error_of_one_value_is_that_of_rounding_it_alone() -> None:
    placed = network(1.0)
    q = to_qparams(LARGEST["r"], INT8, True)
    measured = OutputErrors(placed, ["x", "r"], samples()).error("r", q)
    session = make_session(placed)
    expected = []
    for sample in samples():
        y = session.run(None, sample)[0]
        rounded = dequantize(quantize(np.maximum(sample["x"], 0), q), q)
        other = session.run(None, {"x": rounded})[0]
        expected.append(((y - other) ** 2).sum() / (y**2).sum())
    assert measured == pytest.approx(float(np.mean(expected)), rel=1e-3)
    fine = QParams(INT8, (2.0**-20,))
    assert OutputErrors(placed, ["x"], samples()).error("x", fine) > 0.5  # everything is clipped away


def test_refined_ranges_cost_the_outputs_no_more() -> None:
    placed = network(0.0)
    options = RangeOptions(asymmetric=True)
    ranged = quantize_model(placed, LARGEST, options, "bayes-e", 24).ranged
    found = refined_ranges(placed, ranged, LARGEST, samples(), True, 0.0)
    assert found["x"].high[0] < PEAK / 3
    errors = OutputErrors(placed, ["x", "r"], samples())
    for name in ("x", "r"):
        before, after = (errors.error(name, to_qparams(r[name], INT8, True)) for r in (LARGEST, found))
        assert after <= before


@pytest.mark.parametrize("name", ["kl", "mse", "reader-mse"])
def test_int16_values_keep_their_maximum(name: str) -> None:
    """They have steps enough: cutting peaks, which serves int8, would only cost."""
    options = RangeOptions(int16_values=frozenset({"x", "r", "m"}))
    found = calibrate(job_of(network(0.0), options), Method(name))  # type: ignore[arg-type]
    assert found.ranges["x"].high[0] == PEAK

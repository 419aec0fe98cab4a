"""Streaming statistics and means against numpy on the whole values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from hbtool.calibration.bias_correction import channel_means
from hbtool.calibration.capture import capture
from hbtool.calibration.histogram import Histogram
from hbtool.calibration.observe import Wanted, observe
from hbtool.calibration.ranges import Method, ranges_of
from hbtool.errors import DataError, ModelError

VALUES = ("x", "c", "r", "m", "y")


def small_model(opset: int = 21) -> ir.Model:
    """Conv, Relu, mean over the image and a matrix product; every float value has a static shape."""
    rng = np.random.default_rng(7)
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(6).astype(np.float32),
        "f": rng.standard_normal((6, 4)).astype(np.float32),
    }
    text = f"""
    <ir_version: 10, opset_import: ["" : {opset}]>
    small (float[1,3,8,10] x) => (float[1,4] y)
    <float[1,6,8,10] c, float[1,6,8,10] r, float[1,6] m>
    {{
        c = Conv <pads = [1,1,1,1]> (x, w, b)
        r = Relu (c)
        g = GlobalAveragePool (r)
        m = Flatten (g)
        y = MatMul (m, f)
    }}
    """
    graph_text = text.replace("(float[1,3,8,10] x)", "(float[1,3,8,10] x, float[6,3,3,3] w, float[6] b, float[6,4] f)")
    model = ir.from_onnx_text(graph_text)
    for name, array in weights.items():
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    return model


def batch(count: int = 5) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [{"x": (rng.standard_normal((1, 3, 8, 10)) * (i + 1)).astype(np.float32)} for i in range(count)]


def whole_values(model: ir.Model, samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    found = list(capture(model, VALUES, samples))
    return {name: np.stack([f[name] for f in found]) for name in VALUES}


@pytest.mark.parametrize("opset", [13, 21])
def test_extremes_are_exact(opset: int) -> None:
    model, samples = small_model(opset), batch()
    values = whole_values(model, samples)
    for name, found in observe(model, VALUES, samples).items():
        value = values[name]
        assert (found.low, found.high) == (value.min(), value.max())
        others = tuple(a for a in range(value.ndim) if a != 2)
        np.testing.assert_array_equal(found.channel_low, value.min(axis=others))
        np.testing.assert_array_equal(found.channel_high, value.max(axis=others))
        assert found.histogram is None


def test_histograms_of_small_values_count_everything() -> None:
    model, samples = small_model(), batch()
    values = whole_values(model, samples)
    for name, found in observe(model, VALUES, samples, Wanted(histogram=True, channel_histogram=True)).items():
        expected = Histogram()
        expected.add(values[name])
        assert found.histogram is not None
        np.testing.assert_array_equal(found.histogram.counts, expected.counts)
        assert found.channel_histogram is not None
        per_channel = found.channel_histogram.counts.sum(axis=1)
        np.testing.assert_array_equal(per_channel, np.full(values[name].shape[2], per_channel[0]))
        one = Histogram(found.channel_histogram.resolution)
        one.add(values[name][:, :, 1])
        np.testing.assert_array_equal(found.channel_histogram.counts[1], one.counts[0])


def test_selections_of_large_values_are_even() -> None:
    """A selection of a uniform ramp has the ramp's distribution, in every channel, and visits most positions."""
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1,4,150,100] x) => (float[1,4,150,100] y) { y = Neg (x) }'
    )
    ramp = np.linspace(1, 2, 15000, dtype=np.float32).reshape(150, 100)
    samples = [{"x": np.broadcast_to(ramp, (1, 4, 150, 100)).copy()}] * 40
    found = observe(model, ["x"], samples, Wanted(histogram=True, channel_histogram=True, elements=1))["x"]
    assert found.histogram is not None
    assert found.channel_histogram is not None
    counted = found.histogram.counts.sum()
    assert 40 * 3000 < counted < 40 * 6000
    magnitudes = found.histogram.magnitudes()
    filled = magnitudes[magnitudes > 0]
    assert filled.size == 129  # 128 bins of the octave, and 2.0 itself
    np.testing.assert_allclose(filled[1:127], counted / 128, rtol=0.02)
    np.testing.assert_allclose(filled[[0, 127]], counted / 128, rtol=0.1)  # the outermost positions are met less often
    np.testing.assert_allclose(found.channel_histogram.counts.sum(axis=1), counted / 4, rtol=0.01)


def test_nonnegative_values_are_not_searched_for_minima() -> None:
    model, samples = small_model(), batch()
    with_hint = observe(model, ["c", "r"], samples, Wanted(nonnegative=frozenset(["r"])))
    plain = observe(model, ["c", "r"], samples)
    assert with_hint["r"].low == 0
    assert with_hint["r"].high == plain["r"].high
    assert with_hint["c"].low == plain["c"].low


@pytest.mark.parametrize("name", ["max", "percentile", "kl", "mse"])
def test_ranges_are_the_same_every_time(name: str) -> None:
    method = Method(name)  # type: ignore[arg-type]
    runs = [ranges_of(observe(small_model(), VALUES, batch(), method.wanted()), method) for _ in range(2)]
    assert runs[0] == runs[1]
    assert list(runs[0]) == list(VALUES)


def test_the_callers_model_is_left_alone() -> None:
    model = small_model()
    before = ir.to_proto(model).SerializeToString()
    observe(model, VALUES, batch(), Wanted(histogram=True))
    assert ir.to_proto(model).SerializeToString() == before


def test_progress_is_told() -> None:
    done: list[int] = []
    observe(small_model(), ["c"], batch(3), progress=done.append)
    assert done == [1, 2, 3]


def test_no_samples_and_unknown_values_are_errors() -> None:
    with pytest.raises(DataError, match="no calibration samples"):
        observe(small_model(), ["c"], [])
    with pytest.raises(ModelError, match="'nowhere'"):
        observe(small_model(), ["nowhere"], batch())
    with pytest.raises(ModelError, match="'w'"):
        observe(small_model(), ["w"], batch())


@pytest.mark.parametrize(("bad", "said"), [(np.nan, "NaN"), (np.inf, "'c' of the float model becomes infinite")])
def test_bad_values_are_found_at_their_sample(bad: float, said: str) -> None:
    samples = batch()
    samples[2]["x"][0, 1, 4, 4] = bad
    with pytest.raises(DataError, match=said) as caught:
        observe(small_model(), ["c"], samples)
    assert caught.value.where == "calibration sample 2"


def test_samples_that_do_not_fit_the_model_are_errors() -> None:
    with pytest.raises(ModelError, match="cannot run") as caught:
        observe(small_model(), ["c"], [{"x": np.zeros((1, 3, 8, 9), np.float32)}])
    assert caught.value.where == "calibration sample 0"


def test_channel_means_are_those_of_numpy() -> None:
    model, samples = small_model(), batch()
    values = whole_values(model, samples)
    found = channel_means(model, {"c": 1, "y": -1}, samples)
    np.testing.assert_allclose(found["c"], values["c"].astype(np.float64).mean(axis=(0, 1, 3, 4)), rtol=1e-4)
    np.testing.assert_allclose(found["y"], values["y"].astype(np.float64).mean(axis=(0, 1)), rtol=1e-4, atol=1e-5)

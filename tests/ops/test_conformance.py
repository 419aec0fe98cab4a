"""Every operator x every sample x every executor: the same bits; and near the float operator, as the sample states."""

from __future__ import annotations

import numpy as np
import pytest
from one_op import feeds_of, lower_sample

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ir import meta
from hbtool.numerics.qtype import INT8, INT16, INT32
from hbtool.ops.op import Sample, float_ops
from hbtool.passes.attach_ranges import RangeOptions
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.runtime.onnx_session import make_session
from hbtool.runtime.reference import run_reference

SAMPLES = [
    pytest.param(sample, id=f"{type(op).__name__}-{sample.name}")
    for op in dict.fromkeys(float_ops().values())
    for sample in op.samples()
]

OPTIONS = {
    "int32 or int8": RangeOptions(),
    "int8": RangeOptions(output_type=INT8),
    "asymmetric": RangeOptions(asymmetric=True, output_type=INT8),
    "int16": RangeOptions(int16_values={"x0", "x1", "x2", "y0", "y1"}, output_type=INT16),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_executor_gives_the_bits_of_the_definition(sample: Sample, options: RangeOptions) -> None:
    model, integer, _ = lower_sample(sample, options=options)
    assert all(meta.on_bpu(n) for n in model.graph), [meta.placement(n).reason for n in model.graph]
    feeds = feeds_of(integer, sample)
    expected = run_reference(integer, feeds)
    standard = make_session(to_standard_onnx(integer)).run(None, feeds)
    for (name, want), got in zip(expected.items(), standard, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=f"{name} in onnxruntime")


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_error_against_the_float_operator_is_within_the_stated_steps(sample: Sample) -> None:
    _, integer, floats = lower_sample(sample, options=RangeOptions(output_type=INT8))
    results = run_reference(integer, feeds_of(integer, sample))
    for output in integer.graph.outputs:
        producer = output.producer()
        q = meta.qparams(producer.inputs[0])
        assert q is not None and q.type is not INT32
        error = np.abs(results[output.name] - floats[output.name]).max() / max(q.scales)
        assert error <= sample.steps, f"{error:.2f} steps"

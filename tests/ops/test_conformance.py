"""Every operator x every sample x every executor: the same bits; and near the float operator, as the sample states."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from one_op import feeds_of, float_model, lower_sample, on_quantized_inputs

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ir import graph, meta
from hbtool.ir.onnx_session import make_session
from hbtool.numerics.qtype import INT8, INT16, INT32
from hbtool.ops.op import Family, Sample, float_op, float_ops, integer_op, is_integer, read_attributes
from hbtool.passes.attach_ranges import RangeOptions
from hbtool.passes.to_standard_onnx import to_standard_onnx
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


@pytest.mark.parametrize("family", ["bernoulli2", "bayes", "nash"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_family_refuses_with_a_sentence_or_gives_the_bits(sample: Sample, family: Family) -> None:
    model = float_model(sample)
    op = float_op(model.graph[0])
    assert op is not None
    refusal = op.refusal(model.graph[0], family)
    if refusal is not None:
        assert refusal.startswith(("the BPU needs ", sample.op_type))
        return
    _, integer, _ = lower_sample(sample, family, OPTIONS["int8"])
    feeds = feeds_of(integer, sample)
    standard = make_session(to_standard_onnx(integer)).run(None, feeds)
    for (name, want), got in zip(run_reference(integer, feeds).items(), standard, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=f"{name} in onnxruntime")


@pytest.mark.parametrize("sample", SAMPLES)
def test_torch_gives_the_bits_of_the_definition(sample: Sample) -> None:
    torch = pytest.importorskip("torch")
    from hbtool.quantization.torch_math import TorchMath

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(np.array(array))

    _, integer, _ = lower_sample(sample, options=OPTIONS["asymmetric"])
    values = run_reference(integer, feeds_of(integer, sample), keep=True)
    for node in integer.graph:
        if not is_integer(node):
            continue
        constants = [graph.constant(v) for v in node.inputs]
        operands = [values[v.name] if a is None else a for v, a in zip(node.inputs, constants, strict=True)]
        result = integer_op(node).kernel(TorchMath(), read_attributes(node), *(tensor(a) for a in operands))
        for value, got in zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=True):
            np.testing.assert_array_equal(np.asarray(got), values[value.name], err_msg=node.name)


def error_in_steps(integer: ir.Model, results: dict[str, np.ndarray], floats: dict[str, np.ndarray]) -> float:
    """The largest difference of an output, in steps of its own scale; a wrong truth value or index: infinity."""
    worst = 0.0
    for output in integer.graph.outputs:
        got, want = results[output.name], floats[output.name]
        if got.dtype != np.float32:
            worst = max(worst, 0.0 if np.array_equal(got, want) else np.inf)
            continue
        producer = output.producer()
        q = meta.qparams(producer.inputs[0])
        assert q is not None and q.type is not INT32
        # Beyond the calibrated range nothing can be represented; that is no error of the arithmetic.
        reachable = np.clip(want, *q.real_range)
        worst = max(worst, float(np.abs(got - reachable).max() / max(q.scales)))
    return worst


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_error_against_the_float_operator_is_within_the_stated_steps(sample: Sample) -> None:
    _, integer, floats = lower_sample(sample, options=RangeOptions(output_type=INT8))
    results = run_reference(integer, feeds_of(integer, sample))
    if all(a.dtype == np.float32 for a in floats.values()):
        error = error_in_steps(integer, results, floats)
        assert error <= sample.steps, f"{error:.2f} steps"


@pytest.mark.parametrize("sample", SAMPLES)
def test_integer_arithmetic_adds_no_more_than_the_operator_states(sample: Sample) -> None:
    model, integer, _ = lower_sample(sample, options=RangeOptions(output_type=INT8))
    feeds = feeds_of(integer, sample)
    error = error_in_steps(integer, run_reference(integer, feeds), on_quantized_inputs(model, feeds))
    op = float_op(model.graph[0])
    assert op is not None
    assert error <= op.error_steps, f"{error:.2f} steps"

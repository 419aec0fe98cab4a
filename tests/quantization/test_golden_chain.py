"""The published chain: every printed scale, and the printed distances between QAT and fixed point."""

import numpy as np
import pytest
import torch
from qat_samples import GoldenChain, golden_input

from hbtool.ir import meta
from hbtool.ir.onnx_session import make_session
from hbtool.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hbtool.quantization.onnx_graph import export

PRINTED = {
    "quant_stubx": 0.0115294,
    "quant_stuby": 0.0115294,
    "mul_op": 0.0168156,
    "cat_op": 0.0167490,
    "sigmoid": 0.0070079,
    "softmax.sub": 0.0000041,
    "softmax.exp": 0.0000305,
    "softmax.sum": 0.0002541,
    "softmax.reciprocal": 0.0000037,
    "softmax.mul": 0.0009545,
    "silu": 0.0005042,
    "avgpool": 0.0005022,
}
INT16 = {"softmax.sub", "softmax.exp", "softmax.sum", "softmax.reciprocal"}


@pytest.fixture(scope="module")
def trained():
    from hbtool.quantization import set_march

    set_march("bayes")
    model = prepare_qat_fx(GoldenChain(), {"": get_default_qat_qconfig()})
    model.train()
    model(golden_input(), golden_input())
    model.eval()
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    return model


@pytest.mark.parametrize(("path", "scale"), PRINTED.items())
def test_scale_is_the_printed_one(trained, path, scale):
    quantizer = trained.get_submodule(path).activation_post_process
    assert f"{quantizer.scale.item():.7f}" == f"{scale:.7f}"
    assert quantizer.dtype == ("qint16" if path in INT16 else "qint8")


@pytest.fixture(scope="module")
def both(trained):
    """Real values of every INTEGER-graph value, and of the same values of the QAT model's Q/DQ graph."""
    x = golden_input()
    fixed = convert_fx(trained)
    program = fixed.program(x, x)
    values = program.run_all(x, x)
    real = {}
    for value, tensor in values.items():
        q = meta.qparams(value)
        if q is not None and q.axis is None:
            real[meta.float_value(value)] = tensor.numpy().astype(np.float64) * q.scale
    return real, program, trained


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_product_differs_by_one_step_and_the_printed_cosine(both):
    real, _, model = both
    x = golden_input()
    qat = model.mul_op(model.quant_stubx(x), model.quant_stuby(x), method="mul").detach().numpy().astype(np.float64)
    fixed = real["mul_op/Mul_output_0"]
    assert f"{_cosine(qat, fixed):.7f}" == "0.9999989"
    steps = np.abs(qat - fixed).max() / model.mul_op.activation_post_process.scale.item()
    assert round(steps) == 1


def test_concatenations_are_two_steps_apart_at_the_printed_cosines(both):
    real, _, model = both
    x = golden_input()
    q = model.quant_stubx(x)
    first = model.cat_op([q, model.mul_op(q, q, method="mul")], 1, method="cat").detach()
    second = model.cat_op([first, q], 1, method="cat").detach()
    # Printed 0.9999971 and 0.9999980; float32 summation of the printing tool moves the last digit.
    for qat, name, cosine in (
        (first, "cat_op/Concat_output_0", 0.9999971),
        (second, "cat_op/Concat_1_output_0", 0.9999980),
    ):
        a, b = qat.numpy().astype(np.float64), real[name]
        assert _cosine(a, b) == pytest.approx(cosine, abs=1.5e-7)
        assert round(np.abs(a - b).max() / model.cat_op.activation_post_process.scale.item()) == 2


def test_whole_chain_is_on_the_bpu_and_ends_within_two_steps(both):
    _, program, model = both
    x = golden_input()
    reasons = {n.name: meta.placement(n) for n in program.model.graph if n.op_type not in ("Quantize", "Dequantize")}
    assert {p.device for p in reasons.values()} == {"BPU"}, reasons
    step = model.avgpool.activation_post_process.scale.item()
    assert (program.run(x, x)[0] - model(x, x)).abs().max().item() <= 2 * step


def test_qdq_file_computes_what_the_qat_model_computes(trained):
    x = golden_input()
    session = make_session(export(trained, (x, x)))
    feeds = dict.fromkeys((i.name for i in session.get_inputs()), x.numpy())
    got = session.run(None, feeds)[0]
    want = trained(x, x).detach().numpy()
    assert np.abs(got - want).max() <= 1.01 * trained.avgpool.activation_post_process.scale.item()


# The (min, max) and scale columns of the published statistics have this relation in all 14 rows; these are the rows
# whose exact values the reference file repeats.
@pytest.mark.parametrize(
    ("largest", "dtype", "printed"),
    [
        (1.47, "qint8", "0.0115294"),
        (2.1355774 + 0.01 * (2.1272 - 2.1355774), "qint8", "0.0167490"),
        (1.0, "qint16", "0.0000305"),
    ],
)
def test_range_over_half_the_number_of_steps(largest, dtype, printed):
    quantizer = get_default_qat_qconfig(dtype).activation()
    quantizer(torch.tensor([-largest / 2, largest]))
    assert f"{quantizer.scale.item():.7f}" == printed

"""The twelve acceptance tests of the reference on the QAT plugin (section 10), by number.

Those that live with their subject are listed in `ELSEWHERE`; the others are here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from qat_samples import GoldenChain, golden_input
from test_golden_chain import PRINTED
from torch import Tensor, nn

from hbtool.quantization import (
    DeQuantStub,
    FakeQuantState,
    QuantStub,
    convert_fx,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hbtool.quantization.observed import fake_quantizers
from hbtool.utils.quant_profiler import check_deploy_device

TESTS = Path(__file__).resolve().parents[1]

ELSEWHERE = {
    1: "quantization/test_golden_chain.py: test_scale_is_the_printed_one "
    "test_product_differs_by_one_step_and_the_printed_cosine "
    "test_concatenations_are_two_steps_apart_at_the_printed_cosines",
    3: "quantization/test_vendor_paths.py: test_seed_scripts_run_as_printed",
    5: "quantization/test_prepare.py: test_plus_becomes_a_generated_fused_add",
    8: "quantization/test_prepare.py: test_calibration_then_qat_keeps_scales_and_loads_strictly",
    9: "troubleshooting/test_table.py: test_all_rows_are_there test_every_row_has_a_test_that_reads_what_it_promises",
    10: "quantization/test_sample_networks.py: test_zero_differing_elements",
    11: "quantization/test_prepare.py: test_printed_form_of_high_precision_output",
    12: "quantization/test_vendor_paths.py: test_exported_name",
}


@pytest.mark.parametrize("number", sorted(ELSEWHERE))
def test_elsewhere(number: int) -> None:
    file, _, names = ELSEWHERE[number].partition(": ")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert set(names.split()) <= functions


def test_02_scales_are_ranges_over_half_the_number_of_steps() -> None:
    """Of the four divisors that the vendor's texts suggest, only half the number of steps prints every scale."""
    model = prepare_qat_fx(GoldenChain(), {"": get_default_qat_qconfig()})
    model.train()
    model(golden_input(), golden_input())
    fits = dict.fromkeys((127.5, 128, 127, 256), 0)
    for path, printed in PRINTED.items():
        quantizer = model.get_submodule(path).activation_post_process
        observer = quantizer.activation_post_process
        largest = torch.maximum(-observer.min_val, observer.max_val).item()
        wide = quantizer.dtype == "qint16"
        for divisor in fits:
            # The same divisor for int16, whose steps are 256 times finer.
            steps = divisor if not wide else 32767.5 if divisor == 127.5 else divisor * 256
            fits[divisor] += f"{largest / steps:.7f}" == f"{printed:.7f}"
    assert fits[127.5] == len(PRINTED)
    assert all(count < len(PRINTED) for divisor, count in fits.items() if divisor != 127.5)


@pytest.mark.parametrize(
    ("largest", "printed"), [(1.47, "0.0115294"), (2.9943717, "0.0234853"), (2.135493637, "0.0167490")]
)
def test_02_printed_pairs(largest: float, printed: str) -> None:
    quantizer = get_default_qat_qconfig().activation()
    quantizer(torch.tensor([largest, -largest / 3]))
    assert f"{quantizer.scale.item():.7f}" == printed


class ConvAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()
        self.add = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.add.add(self.conv(x), x))


class HybridDemo(nn.Module):
    """A network with the traits of the published one: PReLU and selu on the CPU, a convolution forced there, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.convmod1 = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
        self.convmod2 = ConvAdd()
        self.prelu, self.identity = nn.PReLU(), nn.Identity()
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(3, 3, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convmod2(self.convmod1(self.quant(x)))
        x = F.selu(F.selu(self.prelu(x)))
        x = self.identity(self.conv2(self.conv1(x)))
        x = self.conv3(x)
        x = self.conv4(x) + x
        return self.dequant(F.selu(x))


def test_04_hybrid_demo() -> None:
    prepared = prepare_qat_fx(
        HybridDemo().eval(),
        {"": get_default_qat_qconfig(), "module_name": [("conv4", get_default_qat_out_qconfig())]},
        hybrid=True,
        hybrid_dict={"module_name": ["conv3"]},
    )
    inserted = [n for n, _ in prepared.named_children() if n.endswith(("_input_dequant", "_activation_post_process"))]
    assert inserted == [
        "prelu_input_dequant",
        "selu_1_activation_post_process",
        "conv3_activation_post_process",
        "conv3_input_dequant",
        "selu_2_input_dequant",
    ]
    nodes = [n.name for n in prepared.graph.nodes if n.op not in ("placeholder", "output")]
    table = check_deploy_device(prepared, print_tabulate=False)
    rows = {
        "quant": ("CPU", "module"),
        "convmod1_0": ("BPU", "module"),
        "add": ("BPU", "method"),
        "prelu_input_dequant_0": ("CPU", "module"),
        "prelu": ("CPU", "module"),
        "selu": ("CPU", "function"),
        "selu_1": ("CPU", "function"),
        "selu_1_activation_post_process": ("CPU", "module"),
        "conv1": ("BPU", "module"),
        "conv2": ("BPU", "module"),
        "conv3_input_dequant_0": ("CPU", "module"),
        "conv3": ("CPU", "module"),
        "conv3_activation_post_process": ("CPU", "module"),
        "add_1": ("BPU", "method"),
        "selu_2_input_dequant_0": ("CPU", "module"),
        "selu_2": ("CPU", "function"),
        "dequant": ("CPU", "module"),
    }
    assert len(rows) == 17
    assert list(table) == list(rows)
    assert {k: tuple(v) for k, v in table.items()} == rows
    assert [n for n in nodes if n != "identity"] == list(rows)
    assert type(prepared.get_submodule("_generated_add_0")).__name__ == "ConvAdd2d"
    assert prepared.get_submodule("_generated_add_0").activation_post_process is None
    assert type(prepared.conv3) is nn.Conv2d
    assert type(prepared.prelu) is nn.PReLU
    assert not any(path.startswith(("conv3.", "prelu.")) for path in fake_quantizers(prepared))


def test_04_the_sum_behind_an_int32_convolution_is_exact() -> None:
    x = torch.randn(1, 3, 6, 6)
    prepared = prepare_qat_fx(
        HybridDemo().eval(),
        {"": get_default_qat_qconfig(), "module_name": [("conv4", get_default_qat_out_qconfig())]},
        hybrid=True,
        hybrid_dict={"module_name": ["conv3"]},
    ).eval()
    prepared(x)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    want = convert_fx(prepared)(x)
    torch.testing.assert_close(prepared(x).detach(), want, rtol=0, atol=2e-2)

"""What torch really exports of common idioms, by either exporter: one BPU node each, or none."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from itertools import pairwise

import onnx
import onnx_ir as ir
import pytest

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.ir import meta
from hbtool.ir.load import prepare_model
from hbtool.passes.place import place
from hbtool.passes.simplify import simplify

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

Idiom = Callable[["torch.Tensor"], "torch.Tensor"]


def _layer_norm(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-6) * 0.7


ONE_NODE: dict[str, Idiom] = {
    "SiLU": F.silu,
    "SiLU in pieces": lambda x: x * torch.sigmoid(x),
    "GELU": F.gelu,
    "GELU, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "GELU in pieces": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "HardSwish": F.hardswish,
    "HardSwish in pieces": lambda x: x * F.relu6(x + 3) / 6,
    "HardSigmoid": F.hardsigmoid,
    "Mish": F.mish,
    "Mish in pieces": lambda x: x * torch.tanh(F.softplus(x)),
    "a choice by sign": lambda x: torch.where(x > 0, x, 0.1 * x),
    "a constant divisor": lambda x: torch.sigmoid(x) / 3.5,
    "Pow": lambda x: x**2,
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "mean as pooling": lambda x: x.mean((2, 3), keepdim=True),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, 1),
    "clamp": lambda x: x.clamp(-1, 2),
}
NO_NODE: dict[str, Idiom] = {
    "negation": lambda x: -x,
    "constant minus x": lambda x: 1 - x,
    "a factor": lambda x: x / 3.5,
    "Squeeze and Unsqueeze": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(0).squeeze(0),
    "Dropout": lambda x: F.dropout(x, 0.5, False),
    "a cast and back": lambda x: x.double().float(),
    "Reshape of computed sizes": lambda x: x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1).reshape(x.shape),
    "padding": lambda x: F.pad(x, (0, 1, 1, 0)),
}


class Between(torch.nn.Module):
    """Idioms with a 1x1 convolution before, between and behind them."""

    def __init__(self, idioms: dict[str, Idiom]) -> None:
        super().__init__()
        self.idioms = list(idioms.values())
        self.convolutions = torch.nn.ModuleList(torch.nn.Conv2d(4, 4, 1) for _ in range(len(idioms) + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *others = self.convolutions
        x = first(x)
        for idiom, convolution in zip(self.idioms, others, strict=True):
            x = convolution(idiom(x))
        return x


class Tokens(torch.nn.Module):
    """A transformer block written by hand: layer norm in pieces, attention, MLP; then a Focus of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.joint, self.project = (torch.nn.Linear(16, n) for n in (16, 48, 16))
        self.norm, self.focus = torch.nn.LayerNorm(16), torch.nn.Conv2d(12, 16, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        corners = [image[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = self.focus(torch.cat(corners, 1)).flatten(2).transpose(1, 2)
        batch, count, width = x.shape
        joint = self.joint(_layer_norm(self.embed(x))).reshape(batch, count, 3, 2, width // 2)
        q, k, v = joint.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = ((q * 8**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.norm(x + self.project(mixed.transpose(1, 2).reshape(batch, count, width)))


@pytest.fixture(params=["torchscript", "dynamo"])
def dynamo(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "dynamo")


def placed(model: torch.nn.Module, x: torch.Tensor, dynamo: bool) -> ir.Model:
    """Export, simplify, place for bayes-e."""
    logging.disable(logging.WARNING)
    try:
        if dynamo:
            proto = torch.onnx.export(model.eval(), (x,), dynamo=True, verbose=False).model_proto
        else:
            stream = io.BytesIO()
            torch.onnx.export(model.eval(), (x,), stream, dynamo=False, opset_version=17)
            proto = onnx.load_from_string(stream.getvalue())
    finally:
        logging.disable(logging.NOTSET)
    simplified = simplify(prepare_model(proto, "exported"))
    place(simplified, "bayes-e")
    return simplified


def test_an_idiom_is_one_node_on_the_bpu(dynamo: bool) -> None:
    model = placed(Between(ONE_NODE), torch.randn(1, 4, 8, 8), dynamo)
    assert [meta.placement(n).reason for n in model.graph if not meta.on_bpu(n)] == []
    ops = [n.op_type for n in model.graph]
    assert ops[::2] == ["Conv"] * (len(ONE_NODE) + 1)
    assert len(ops) == 2 * len(ONE_NODE) + 1


def test_what_changes_nothing_or_fits_into_weights_is_gone(dynamo: bool) -> None:
    model = placed(Between(NO_NODE), torch.randn(1, 4, 8, 8), dynamo)
    assert [n.op_type for n in model.graph] == ["Conv"] * (len(NO_NODE) + 1)


def test_a_transformer_block_is_on_the_bpu_but_for_its_softmax(dynamo: bool) -> None:
    model = placed(Tokens(), torch.randn(1, 3, 8, 8), dynamo)
    ops = [n.op_type for n in model.graph]
    assert [n.op_type for n in model.graph if not meta.on_bpu(n)] == ["Softmax"]
    assert (ops.count("Conv"), ops.count("LayerNormalization"), ops.count("MatMul")) == (1, 2, 2)
    assert not any(a == b == "Transpose" for a, b in pairwise(ops))

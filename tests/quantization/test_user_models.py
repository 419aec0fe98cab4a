"""Ordinary networks as users write them: prepared, calibrated, trained, converted; or refused with a reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree

from hbtool.errors import HbError
from hbtool.quantization import (
    DeQuantStub,
    FakeQuantState,
    QuantStub,
    agreement,
    convert_fx,
    get_default_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)


class Stubs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()


class DictOfOutputs(Stubs):
    shapes = ((2, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = F.relu(self.body(self.quant(x)))
        return {"boxes": self.dequant(self.boxes(y)), "scores": [self.dequant(torch.sigmoid(self.scores(y)))]}


class SeveralInputs(Stubs):
    shapes = ((2, 3, 8, 8), (2, 3, 8, 8))

    def __init__(self) -> None:
        super().__init__()
        self.second, self.conv = QuantStub(), nn.Conv2d(6, 4, 3)

    def forward(self, a, b):
        return self.dequant(self.conv(torch.cat([self.quant(a), self.second(b)], 1)))


class SharedWeights(Stubs):
    shapes = ((2, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return self.dequant(self.relu(self.conv(self.relu(self.conv(self.quant(x))))))


class Perceptron(Stubs):
    shapes = ((4, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x):
        return self.dequant(self.body(self.quant(x)))


class TransformerBlock(Stubs):
    """Linear layers on three dimensions, one of them fused with the residual sum."""

    shapes = ((2, 5, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16, bias=False)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        x = self.quant(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.dequant(self.out(x))


class OneDimension(Stubs):
    shapes = ((2, 3, 9),)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.pool, self.head = nn.AdaptiveAvgPool1d(1), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(self.quant(x))))
        return self.dequant(self.head(self.pool(x).flatten(1)))


MODELS = [DictOfOutputs, SeveralInputs, SharedWeights, Perceptron, TransformerBlock, OneDimension]


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_the_whole_road(build):
    torch.manual_seed(0)
    model, inputs = build().eval(), tuple(torch.randn(shape) for shape in build.shapes)
    prepared = prepare_qat_fx(model, {"": get_default_qconfig()}).eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    with torch.no_grad():
        prepared(*inputs)
        want = model(*inputs)
    prepared.train()
    set_fake_quantize(prepared, FakeQuantState.QAT)
    sum(t.square().sum() for t in _pytree.tree_leaves(prepared(*inputs))).backward()
    assert [n for n, p in prepared.named_parameters() if p.grad is None] == []
    prepared.eval()
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    assert agreement(prepared, *inputs).rate > 0.98
    fixed = convert_fx(prepared)(*inputs)
    assert _pytree.tree_structure(fixed) == _pytree.tree_structure(want)
    for a, b in zip(_pytree.tree_leaves(want), _pytree.tree_leaves(fixed), strict=True):
        assert (a - b).abs().max() < 0.06 * a.abs().max()


class Branch(Stubs):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        if x.mean() > 0:
            x = x + 1
        return self.dequant(self.conv(self.quant(x)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Branch, r"test_user_models.py:\d+.*control flow.*wrap"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)), "no QuantStub"),
    ],
    ids=["branch", "no stubs"],
)
def test_refusals_name_the_place_and_the_next_step(build, message):
    with pytest.raises(HbError, match=message):
        prepare_qat_fx(build().eval(), {"": get_default_qconfig()})

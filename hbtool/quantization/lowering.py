"""From a prepared torch model to its INTEGER graph: export, read the ranges, place, lower. The one road to integers."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from torch import Tensor, nn

from hbtool.ops.op import Family
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.range_trained import range_trained
from hbtool.quantization import onnx_graph
from hbtool.quantization.fake_quantize import FakeQuantState
from hbtool.quantization.observed import fake_quantizers

_FAMILY: dict[str, Family] = {"bernoulli": "bernoulli2", "bernoulli2": "bernoulli2", "bayes": "bayes", "bayes-e": "bayes-e"}
_MULTIPLIER_BITS = {"bayes": 15, "bayes-e": 15}


def family_of(march: str) -> Family:
    """The BPU family of a march."""
    return _FAMILY.get(march, "nash")


def ranged_graph(model: nn.Module, args: Sequence[Tensor], march: str) -> ir.Model:
    """The RANGED graph of a prepared model: float nodes with devices, values with meanings."""
    return range_trained(onnx_graph.export(model, args), family_of(march))


def integer_graph(model: nn.Module, args: Sequence[Tensor], march: str) -> ir.Model:
    """The INTEGER graph of a prepared model for inputs of these shapes.

    Raises:
        ModelError: torch cannot export it, or an operator has no integer form (names the node).
    """
    ranged = ranged_graph(model, args, march)
    return lower_to_integer(ranged, family_of(march), _MULTIPLIER_BITS.get(march, 24))


def freeze(model: nn.Module) -> None:
    """Scales as they are: eval mode, fake quantizers round and do not observe."""
    model.eval()
    for quantizer in fake_quantizers(model).values():
        quantizer.set_state(FakeQuantState.VALIDATION)

"""From a prepared torch model to its INTEGER graph: export, read the ranges, place, lower. The one road to integers."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from torch import Tensor, nn

from hbtool.nn.qat.weighted import Weighted
from hbtool.passes.keep_rounding import keep_rounding
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import PlacementRequest
from hbtool.passes.range_trained import range_trained
from hbtool.quantization import onnx_graph
from hbtool.quantization.fake_quantize import FakeQuantizeBase, FakeQuantState
from hbtool.quantization.layer_names import note_functionals
from hbtool.quantization.observed import fake_quantizers
from hbtool.target.target import Target
from hbtool.target.target import load as load_target

_STANDS_FOR = {"bernoulli": "bernoulli2"}
"""The march without a target, and the one of the same family that stands for it."""


def target_of(march: str) -> Target:
    """The figures of a march."""
    return load_target(_STANDS_FOR.get(march, march))


def ranged_graph(model: nn.Module, args: Sequence[Tensor], march: str) -> ir.Model:
    """The RANGED graph of a prepared model: float nodes with devices, values with meanings.

    Modules with `preserve_qat_mode` and a scale stay float operators between the roundings of training.
    """
    preserved = tuple(path for path, m in model.named_modules() if _preserved(m))
    request = PlacementRequest(run_on_cpu=preserved) if preserved else None
    ranged = range_trained(onnx_graph.export(model, args), target_of(march).family, request)
    if preserved:
        keep_rounding(ranged, preserved)
    return ranged


def _preserved(module: nn.Module) -> bool:
    owns_scale = isinstance(getattr(module, "activation_post_process", None), FakeQuantizeBase)
    return bool(getattr(module, "preserve_qat_mode", False)) and (owns_scale or isinstance(module, Weighted))


def integer_graph(model: nn.Module, args: Sequence[Tensor], march: str) -> ir.Model:
    """The INTEGER graph of a prepared model for inputs of these shapes.

    Raises:
        ModelError: torch cannot export it, or an operator has no integer form (names the node).
    """
    ranged = ranged_graph(model, args, march)
    target = target_of(march)
    integer = lower_to_integer(ranged, target.family, target.multiplier_bits)
    integer.metadata_props["hbtool.march"] = march
    note_functionals(integer, model)
    return integer


def freeze(model: nn.Module) -> None:
    """Scales as they are: eval mode, fake quantizers round and do not observe, batch normalizations are absorbed."""
    model.eval()
    for module in model.modules():
        if isinstance(module, Weighted):
            module.absorb_bn()
        if "exact_mode" in module.__dict__:
            module.__dict__["exact_mode"].enabled = False
    for quantizer in fake_quantizers(model).values():
        quantizer.set_state(FakeQuantState.VALIDATION)

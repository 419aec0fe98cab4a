"""Eager mode: modules are swapped where they stand; the model's own forward keeps running."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional as TorchFloatFunctional

from hbtool.errors import UsageError
from hbtool.march import require_march
from hbtool.nn.functional_module import FloatFunctional
from hbtool.nn.intrinsic import Fused
from hbtool.nn.qat import activation, chains, weighted
from hbtool.quantization import torch_ops
from hbtool.quantization.fake_quantize import FakeQuantState
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.observed import fake_quantizers
from hbtool.quantization.stubs import is_dequant_stub, is_quant_stub
from hbtool.quantization.torch_ops import Rule
from hbtool.quantization.tracing import copy_model, set_module


def _swapped(module: nn.Module, qconfig: Any, mapping: Mapping[type, Any]) -> nn.Module | None:
    """The QAT form of one leaf module, None where it stays."""
    if type(module) in mapping:
        return mapping[type(module)].from_float(module)
    if is_dequant_stub(module):
        return activation.DeQuantStub.from_float(module)
    if qconfig is None:
        return None
    if is_quant_stub(module):
        return activation.QuantStub.from_float(module, qconfig)
    if (cls := weighted.qat_class(module)) is not None:
        return cls.from_float(module, qconfig)
    if isinstance(module, (FloatFunctional, TorchFloatFunctional)):
        source = module if isinstance(module, FloatFunctional) else FloatFunctional()
        source.training = module.training
        return activation.FloatFunctional.from_float(source, qconfig)
    op = torch_ops.of_module(module)
    if op.rule is not Rule.OWN:
        return None
    if (chain := chains.chain_class(module)) is not None:
        made_chain: nn.Module = chain.from_float(module, qconfig)
        return made_chain
    made: nn.Module = activation.derived_class(activation.OwnScale, type(module)).from_float(module, qconfig)
    return made


def prepare_qat(
    model: nn.Module,
    mapping: Mapping[type, Any] | None = None,
    inplace: bool = False,
    optimize_graph: bool = False,
    hybrid: bool = False,
    optimize_kwargs: dict[str, Any] | None = None,
) -> nn.Module:
    """`model` (a copy unless `inplace`) with its modules in QAT form, by their `.qconfig` attributes.

    A qconfig holds for everything below it; None leaves a part float. Fuse first (`fuse_modules`).

    Args:
        model: float model.
        mapping: float class -> QAT class with `from_float(module)`, before the built-in ones.
        inplace: change `model` itself.
        optimize_graph: accepted for compatibility.
        hybrid: accepted for compatibility; float modules may stand anywhere in eager mode.
        optimize_kwargs: accepted for compatibility.

    Raises:
        UsageError: no march set, or no qconfig anywhere.
    """
    require_march()
    made = model if inplace else copy_model(model)
    if not any(getattr(m, "qconfig", None) is not None for m in made.modules()):
        raise UsageError(
            "no module has a qconfig.",
            where=type(model).__name__,
            hint="Set model.qconfig = get_default_qat_qconfig().",
        )
    _swap_below(made, "", getattr(made, "qconfig", None), dict(mapping or {}), made)
    return made


def _swap_below(root: nn.Module, path: str, qconfig: Any, mapping: Mapping[type, Any], module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        inherited = getattr(child, "qconfig", qconfig)
        child_path = f"{path}.{name}" if path else name
        replacement = _swapped(child, inherited, mapping)
        if replacement is not None:
            replacement.train(child.training)
            set_module(root, child_path, replacement)
        elif not isinstance(child, Fused):
            _swap_below(root, child_path, inherited, mapping, child)


def prepare_calibration(model: nn.Module, inplace: bool = False) -> nn.Module:
    """As `prepare_qat`, and the result observes only (CALIBRATION state, eval mode)."""
    made = prepare_qat(model, inplace=inplace)
    for quantizer in fake_quantizers(made).values():
        quantizer.set_state(FakeQuantState.CALIBRATION)
    return made.eval()


def convert(
    module: nn.Module,
    mapping: Mapping[type, Any] | None = None,
    inplace: bool = False,
    remove_qconfig: bool = True,
    fast_mode: bool = False,
) -> QuantizedGraphModule:
    """The fixed-point model of an eager-mode QAT model; arguments as `convert_fx`."""
    if not fake_quantizers(module):
        raise UsageError("the model has no fake quantizer.", where=type(module).__name__, hint="Use prepare_qat first.")
    source = module if inplace else copy_model(module)
    return QuantizedGraphModule(source, require_march().value, False)


def auto_calibrate(model: nn.Module, data: Any, steps: int | None = None) -> nn.Module:
    """Run calibration on `data` (an iterable of inputs, or of tuples whose first member is the input); returns `model`.

    Leaves the model in eval mode and VALIDATION state.
    """
    model.eval()
    for quantizer in fake_quantizers(model).values():
        quantizer.set_state(FakeQuantState.CALIBRATION)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    with torch.no_grad():
        for step, batch in enumerate(data):
            if steps is not None and step >= steps:
                break
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            model(x.to(device) if isinstance(x, Tensor) else x)
    for quantizer in fake_quantizers(model).values():
        quantizer.set_state(FakeQuantState.VALIDATION)
    return model

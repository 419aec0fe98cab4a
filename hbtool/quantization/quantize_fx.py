"""fx mode: trace, fuse, prepare for calibration or QAT, convert."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from hbtool.errors import UsageError
from hbtool.march import require_march
from hbtool.quantization.attach import attach
from hbtool.quantization.bias_correction import adopt_biases
from hbtool.quantization.fake_quantize import FakeQuantState
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.fusion import fuse
from hbtool.quantization.observed import ObservedGraphModule, fake_quantizers, load_observer_params
from hbtool.quantization.rewrite import rewrite
from hbtool.quantization.tracing import QuantGraphModule, copy_model, trace

_log = logging.getLogger(__name__)

__all__ = ["convert_fx", "fuse_fx", "prepare_calibration_fx", "prepare_qat_fx"]


class GraphModuleWithAttr(QuantGraphModule):
    """A traced, fused float model."""

    original_types: dict[str, type]


def fuse_fx(model: nn.Module, fuse_custom_config_dict: dict[str, Any] | None = None) -> GraphModuleWithAttr:
    """A traced and fused copy of `model`; optional, as prepare does the same.

    Raises:
        TrainingError: the model cannot be traced (where = file:line).
    """
    if isinstance(model, GraphModuleWithAttr):
        return copy_model(model)  # type: ignore[return-value]
    types: dict[str, type] = {path: type(m) for path, m in model.named_modules()}
    traced = rewrite(trace(model))
    types.update({path: type(m) for path, m in traced.named_modules() if path not in types})
    fused = fuse(traced)
    made = GraphModuleWithAttr(fused, fused.graph, type(model).__name__)
    made.original_types = types
    made.train(model.training)
    return made


def prepare_qat_fx(
    model: nn.Module | fx.GraphModule,
    qconfig_dict: Mapping[Any, Any] | None = None,
    prepare_custom_config_dict: dict[str, Any] | None = None,
    optimize_graph: bool = False,
    hybrid: bool = False,
    hybrid_dict: Mapping[str, Any] | None = None,
) -> ObservedGraphModule:
    """A copy of `model` with fake quantizers, on its device; the model itself is never changed.

    Args:
        model: a float model, the result of `fuse_fx`, or a model prepared for calibration (its scales are kept).
        qconfig_dict: `{"": qconfig, "module_type": [(cls, qconfig)], "module_name": [(path, qconfig)]}`; a qconfig
            None leaves the module float; a name covers everything below it.
        prepare_custom_config_dict: accepted for compatibility (attributes are always preserved).
        optimize_graph: accepted for compatibility.
        hybrid: allow CPU operators between BPU operators (deployed through the mapper).
        hybrid_dict: `{"module_name": [...], "module_type": [...]}` forced to the CPU.

    Raises:
        UsageError: no march set; unknown names (with the nearest ones) or keys.
        TrainingError, UnsupportedError: the model cannot be traced or quantized (where = module or file:line).
    """
    march = require_march().value
    if not isinstance(model, nn.Module):
        raise UsageError(f"{type(model).__name__} is not a Module.", hint="Give a float model.")
    if isinstance(model, ObservedGraphModule):
        # Deep copy first: the calibrated model stays usable and shares nothing with the result.
        previous = copy_model(model)
        assert isinstance(previous, ObservedGraphModule)
        plan = previous.hb
        made = attach(plan.source, plan.types, qconfig_dict, hybrid, hybrid_dict, march)
        load_observer_params(model, made)
        adopt_biases(model, made)
        made.hb.example = plan.example
    else:
        source = fuse_fx(model)
        made = attach(source, source.original_types, qconfig_dict, hybrid, hybrid_dict, march)
    made.train(model.training)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    return made.to(device)


def prepare_calibration_fx(
    model: nn.Module | fx.GraphModule,
    qconfig_dict: Mapping[Any, Any] | None = None,
    prepare_custom_config_dict: dict[str, Any] | None = None,
    optimize_graph: bool = False,
    hybrid: bool = False,
    hybrid_dict: Mapping[str, Any] | None = None,
) -> ObservedGraphModule:
    """As `prepare_qat_fx`, and the result observes only (CALIBRATION state, eval mode)."""
    made = prepare_qat_fx(model, qconfig_dict, prepare_custom_config_dict, optimize_graph, hybrid, hybrid_dict)
    for quantizer in fake_quantizers(made).values():
        quantizer.set_state(FakeQuantState.CALIBRATION)
    return made.eval()


def convert_fx(
    graph_module: nn.Module,
    inplace: bool = False,
    convert_custom_config_dict: dict[str, Any] | None = None,
    _remove_qconfig: bool = True,
    fast_mode: bool = False,
) -> QuantizedGraphModule:
    """The fixed-point model of a calibrated or QAT model, which stays usable.

    Args:
        graph_module: result of `prepare_qat_fx`.
        inplace: use `graph_module` itself as the source (it is put into eval mode and VALIDATION state).
        convert_custom_config_dict: accepted for compatibility.
        _remove_qconfig: accepted for compatibility.
        fast_mode: accepted for compatibility; the fixed-point model has one form.

    Raises:
        UsageError: the model was not prepared.
        ModelError: an operator has no integer form (where = node); only if the model has run before, else at the
            first call.
    """
    if not isinstance(graph_module, ObservedGraphModule):
        raise UsageError(
            f"convert_fx got a {type(graph_module).__name__} that was not prepared.",
            hint="Pass the result of prepare_qat_fx.",
        )
    source = graph_module if inplace else copy_model(graph_module)
    assert isinstance(source, ObservedGraphModule)
    for path, quantizer in fake_quantizers(source).items():
        if not quantizer.was_observed() and "weight_fake_quant" not in path:
            name = path.removesuffix(".activation_post_process")
            _log.warning(
                "%s has not collected any statistics of activations and its scale is 1, "
                "please check whether this is intended!",
                name,
            )
    made = QuantizedGraphModule(source, source.hb.march, source.hb.hybrid)
    examples = source.example_inputs()
    if examples:
        made.program(*examples)
    return made

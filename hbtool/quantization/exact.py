"""Exact mode: QAT whose forward is the fixed-point model's, bit for bit, with straight-through gradients.

Fake quantization in float comes near the deployed integers, not to them (multipliers of 15 bits, dyadic ratios, integer
chains). In exact mode the INTEGER program runs beside the float graph on every batch; each module's float result is
replaced by the program's integers times their scale, and the gradient goes through the float result as before. What is
trained is what is deployed, at the price of a second forward.

Activation scales stay as they are: calibrate first, or train without exact mode first. Weights and their scales train.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from hbtool.errors import UsageError
from hbtool.ir import graph, meta
from hbtool.nn.qat.weighted import Weighted
from hbtool.numerics.qtype import INT32
from hbtool.ops.op import is_integer
from hbtool.quantization.deployed import multiplier, weight_integers
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.lowering import freeze, integer_graph, target_of
from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.onnx_graph import quantized_values
from hbtool.quantization.program import Program
from hbtool.quantization.straight_through import substitute
from hbtool.quantization.tracing import copy_model

_KEPT_PROGRAMS = 4


def set_exact_mode(model: nn.Module, enabled: bool = True) -> None:
    """Switch the exact mode of a prepared model on or off; call it after calibration.

    Args:
        model: result of `prepare_qat_fx` (or a DistributedDataParallel around it).
        enabled: off restores plain fake quantization.

    Raises:
        UsageError: the model was not prepared in fx mode, trains batch normalization, or learns activation scales.
    """
    inner = getattr(model, "module", model) if not isinstance(model, ObservedGraphModule) else model
    if not isinstance(inner, ObservedGraphModule):
        raise UsageError("exact mode needs a model prepared in fx mode.", hint="Use prepare_qat_fx.")
    mode: ExactMode | None = inner.__dict__.get("exact_mode")
    if mode is None and enabled:
        mode = ExactMode(inner)
        # Not a child module, and copied together with its hooks.
        inner.__dict__["exact_mode"] = mode
    if mode is not None:
        mode.enabled = enabled


class ExactMode:
    """The hooks of one model."""

    def __init__(self, model: ObservedGraphModule) -> None:
        for path, module in model.named_modules():
            if isinstance(module, Weighted) and "bn" in module._modules:
                raise UsageError(
                    f"{path} trains its batch normalization.", hint="Use exact mode with qat_mode fuse_bn."
                )
            if isinstance(module, FakeQuantizeBase) and isinstance(module.scale, nn.Parameter):
                raise UsageError(f"{path} learns its scale.", hint="Exact mode needs fixed activation scales.")
        self.enabled = True
        self.pending: dict[str, list[Tensor]] = {}
        self.programs: dict[tuple[Any, ...], _PatchedProgram] = {}
        model.register_forward_pre_hook(self.before)
        for path, module in model.named_modules():
            if path and not isinstance(module, FakeQuantizeBase):
                module.register_forward_hook(_Overlay(self, path))

    def __deepcopy__(self, memo: dict[int, Any]) -> ExactMode:
        """The copy of a model builds its own programs."""
        made: ExactMode = object.__new__(ExactMode)
        memo[id(self)] = made
        made.enabled, made.pending, made.programs = self.enabled, {}, {}
        return made

    @torch.no_grad()
    def before(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Run the integer program on the batch; its values wait for the modules."""
        self.pending = {}
        if not self.enabled or torch.compiler.is_compiling() or not isinstance(model, ObservedGraphModule):
            return
        for path, module in model.named_modules():
            if isinstance(module, FakeQuantizeBase) and not path.endswith("weight_fake_quant"):
                if not module.flags()[1]:
                    return
                module.disable_observer()
        for module in model.modules():
            if isinstance(module, Weighted) and module.weight_fake_quant is not None:
                if model.training:
                    module.weight_fake_quant._observe(module.weight, None)
                module.weight_fake_quant.disable_observer()
        key = (*(tuple(a.shape) for a in args), model.hb.hybrid)
        if key not in self.programs:
            if len(self.programs) >= _KEPT_PROGRAMS:
                self.programs.pop(next(iter(self.programs)))
            self.programs[key] = _PatchedProgram(model, args)
        self.pending = self.programs[key].values(model, args)


class _Overlay:
    """Forward hook: the program's value in place of the module's, with the module's gradient."""

    def __init__(self, mode: ExactMode, path: str) -> None:
        self.mode, self.path = mode, path

    def __call__(self, module: nn.Module, args: Any, y: Any) -> Any:
        waiting = self.mode.pending.get(self.path)
        if not waiting or torch.compiler.is_compiling():
            return y
        exact = waiting.pop(0)
        return substitute(y, exact.view_as(y)) if y.requires_grad else exact.view_as(y)


class _PatchedProgram:
    """An integer program whose weights follow the model's parameters."""

    def __init__(self, model: ObservedGraphModule, args: tuple[Tensor, ...]) -> None:
        self.program = self._build(model, args)
        self.bits = target_of(model.hb.march).multiplier_bits
        self.weighted = {path: m for path, m in model.named_modules() if isinstance(m, Weighted)}
        nodes = [n for n in self.program.model.graph if is_integer(n) and n.op_type in ("Conv", "MatMul")]
        self.nodes = {p: n for n in nodes if (p := meta.torch_module(n) or "") in self.weighted}
        self.raw = {p: n for p, n in self.nodes.items() if self.weighted[p].activation_post_process is None}
        # Where CPU operators follow, or a layer has another form, the program is lowered anew for each batch.
        self.patchable = not model.hb.hybrid and all(
            p in self.nodes and m.deployment is not None for p, m in self.weighted.items()
        )

    @staticmethod
    def _build(model: ObservedGraphModule, args: tuple[Tensor, ...]) -> Program:
        frozen = copy_model(model)
        freeze(frozen)
        return Program(integer_graph(frozen, tuple(torch.zeros_like(a) for a in args), model.hb.march))

    def values(self, model: ObservedGraphModule, args: tuple[Tensor, ...]) -> dict[str, list[Tensor]]:
        """Module path -> real values of its calls."""
        if self.patchable:
            for path, node in self.nodes.items():
                self._patch(node, self.weighted[path], str(args[0].device))
        else:
            self.program = self._build(model, args)
        found, raw = {}, {}
        for value, tensor in self.program.run_all(*args).items():
            name, q = meta.float_value(value), meta.qparams(value)
            if name is None or q is None:
                continue
            if q.type is INT32:
                raw[value] = tensor
            elif q.axis is None:
                scale = torch.tensor(q.scale, dtype=torch.float32, device=tensor.device)
                found[name] = (tensor.double() - q.zero_point).float() * scale
        made = {}
        for path, names in quantized_values(self.program.model).items():
            if all(n in found for n in names):
                made[path] = [found[n] for n in names]
        for path, node in self.raw.items():
            if self.patchable and node.outputs[0] in raw:
                made[path] = [self._dequantized(self.weighted[path], raw[node.outputs[0]])]
        return made

    def _patch(self, node: ir.Node, module: Weighted, device: str) -> None:
        assert module.deployment is not None
        input_scale = module.deployment.input.scale.detach()
        constants = weight_integers(module, input_scale)
        is_linear = isinstance(module, nn.Linear)
        new = {"weight": constants.weight.t().contiguous() if is_linear else constants.weight, "bias": constants.bias}
        q = meta.qparams(node.outputs[0])
        assert q is not None
        if q.type is not INT32:
            new["multiplier"] = multiplier(input_scale, constants.scales, q.scale, self.bits)
        for value in node.inputs[1:]:
            assert value is not None
            name = graph.value_name(value)
            role = name.rpartition("/")[2].rstrip("_")
            if role in new:
                self.program.constants[(name, device)] = new[role]

    @staticmethod
    def _dequantized(module: Weighted, integers: Tensor) -> Tensor:
        assert module.deployment is not None
        input_scale = module.deployment.input.scale.detach()
        scales = input_scale * weight_integers(module, input_scale).scales
        shape = [1] * integers.dim()
        shape[-1 if isinstance(module, nn.Linear) else 1] = -1
        return integers.float() * scales.view(shape)

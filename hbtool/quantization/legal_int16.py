"""Makes the int16 of a qconfig legal: where the BPU has an operator in int8 only, its neighbours become int8, with why.

Sources: the plugin's operator table (`TorchOp.int8_in`, `int8_out`) and the operators' own limits (`hbtool.ops.int16`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import fx, nn

from hbtool.dtype import qint8, qint16
from hbtool.nn.intrinsic import Fused
from hbtool.nn.qat.weighted import Weighted
from hbtool.ops.int16 import kind_refusal, weight_sum_refusal
from hbtool.ops.op import Family, float_ops
from hbtool.quantization import torch_ops
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.torch_ops import TorchOp

_log = logging.getLogger(__name__)

_PLUGIN_LISTS: tuple[Family, ...] = ("bayes", "bayes-e")
"""Families that the plugin's table is for."""


def legalize_int16(
    graph: fx.Graph,
    scales: Mapping[fx.Node, FakeQuantizeBase | None],
    modules: Mapping[str, nn.Module],
    qat_modules: Callable[[str], nn.Module],
    family: Family,
) -> dict[str, str]:
    """Narrow and widen the fake quantizers of a prepared graph.

    Args:
        graph: the graph, every scale decided.
        scales: the fake quantizer that gave each node its scale.
        modules: path -> float module, by which the operator of a node is known.
        qat_modules: path -> module of the prepared model.
        family: BPU family.

    Returns:
        Node name -> why its result is int8 although int16 was asked for (or int16, where only that is of use).
    """
    of = {id(q): q for q in scales.values() if q is not None}
    found: dict[str, str] = {}
    for key, quantizer in of.items():
        nodes = [n for n, q in scales.items() if q is not None and id(q) == key]
        uses = list(_uses(nodes, scales, modules, key))
        if quantizer.dtype == qint16:
            reason = next((r for use in uses if (r := _refusal(*use, qat_modules, family)) is not None), None)
            if reason is not None:
                quantizer.set_dtype(qint8)
                found[nodes[0].name] = reason
                _log.warning("%s: int8 instead of int16: %s", nodes[0].name, reason)
        elif family != "bernoulli2" and _only_coordinates(uses):
            quantizer.set_dtype(qint16)
            found[nodes[0].name] = "int16 instead of int8: it holds coordinates"
            _log.info("%s: %s", nodes[0].name, found[nodes[0].name])
    return found


Use = tuple[fx.Node, TorchOp, str, "int | None"]
"""(node, its operator, its ONNX operator, position of the value among its operands or None: it is the result)."""


def _uses(
    nodes: list[fx.Node],
    scales: Mapping[fx.Node, FakeQuantizeBase | None],
    modules: Mapping[str, nn.Module],
    key: int,
) -> Iterator[Use]:
    """Who writes and who reads the values that share one scale."""
    for node in nodes:
        op = torch_ops.of_node(node, dict(modules)) if node.op != "call_module" or node.target in modules else None
        if op is not None:
            yield node, op, _onnx(node, op, modules, 1), None
        for user in node.users:
            if user.op == "call_module" and user.target not in modules:
                continue
            reader = torch_ops.of_node(user, dict(modules))
            if reader is None:
                continue
            for position, operand in enumerate(user.all_input_nodes):
                if operand is node:
                    yield user, reader, _onnx(user, reader, modules, position), position


def _onnx(node: fx.Node, op: TorchOp, modules: Mapping[str, nn.Module], position: int) -> str:
    """The ONNX operator that meets the value; the second operand of a fused sum meets the Add."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, Fused) and module.has_add and position == 1:
        return "Add"
    if op.name == "float_functional":
        return torch_ops.combining(str(node.kwargs["method"])).onnx
    return op.onnx


def _refusal(
    node: fx.Node, op: TorchOp, onnx: str, position: int | None, qat: Callable[[str], nn.Module], family: Family
) -> str | None:
    listed = torch_ops.combining(str(node.kwargs["method"])) if op.name == "float_functional" else op
    if family in _PLUGIN_LISTS and onnx == listed.onnx:
        if position in listed.int8_in:
            return f"{node.name} ({listed.name}) reads int8 only on {family}"
        if position is None and listed.int8_out:
            return f"{node.name} ({listed.name}) writes int8 only on {family}"
    known = float_ops().get(("", onnx))
    if known is None:
        return "bernoulli2 has no int16" if family == "bernoulli2" else None
    if (reason := kind_refusal(known, onnx, family, position)) is not None:
        return f"{node.name}: {reason}"
    made = qat(str(node.target)) if node.op == "call_module" else None
    if position == 0 and isinstance(made, Weighted):
        with torch.no_grad():
            weight = made.weight.detach().float().cpu().numpy()
        if (reason := weight_sum_refusal(weight, made._channels()[1] or 0)) is not None:
            return f"{node.name}: {reason}"
    return None


def _only_coordinates(uses: list[Use]) -> bool:
    """Whether every reader takes the value as coordinates, which 8 bits cannot hold."""
    readers = [(onnx, position) for _, _, onnx, position in uses if position is not None]
    kinds = [(float_ops().get(("", onnx)), position) for onnx, position in readers]
    return bool(kinds) and all(op is not None and position in op.int16_inputs for op, position in kinds)

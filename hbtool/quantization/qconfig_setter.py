"""Qconfigs by templates, as the newer API generation writes them: one reference, then rules in order.

A template changes the dtype (or fixes the range) of what modules give. Later templates win.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from hbtool.dtype import DTypeLike, as_dtype, qint8, qint16
from hbtool.errors import UsageError
from hbtool.nn.intrinsic import BASES, Fused
from hbtool.quantization import torch_ops
from hbtool.quantization.observer import FixedScaleObserver
from hbtool.quantization.qconfig import QConfig
from hbtool.quantization.selection import check_names


@dataclass(frozen=True)
class Rule:
    """What one module's qconfig changes against the reference.

    Attributes:
        dtype: of the module's result.
        threshold: the result's range is [-threshold, threshold]: the scale is threshold / -quant_min, never observed.
        weight_dtype: of its weights.
        freeze: a calibrated scale stays in training.
    """

    dtype: DTypeLike | None = None
    threshold: float | None = None
    weight_dtype: DTypeLike | None = None
    freeze: bool = False

    def changed(self, later: Rule) -> Rule:
        """This rule with what a later one says."""
        return Rule(
            self.dtype if later.dtype is None else later.dtype,
            self.threshold if later.threshold is None else later.threshold,
            self.weight_dtype if later.weight_dtype is None else later.weight_dtype,
            self.freeze or later.freeze,
        )


class Template:
    """Base of the templates."""

    def rules(self, model: fx.GraphModule, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Rule]]:
        """(module path, rule) pairs for a traced and fused float model."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModuleNameTemplate(Template):
    """Results of named modules and everything below them ("" = all).

    Args:
        names: path -> dtype, or a dict with `dtype` and `threshold`.
        freeze: their calibrated scales stay in training.
    """

    names: Mapping[str, Any]
    freeze: bool = False

    def rules(self, model: fx.GraphModule, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Rule]]:
        """One for each name."""
        check_names([n for n in self.names if n != ""], modules, "ModuleNameTemplate")
        for name, what in self.names.items():
            given = dict(what) if isinstance(what, Mapping) else {"dtype": what}
            unknown = set(given) - {"dtype", "threshold"}
            if unknown:
                raise UsageError(
                    f"unknown key {sorted(unknown)[0]!r} for {name!r}.",
                    where="ModuleNameTemplate",
                    hint="Keys are dtype and threshold.",
                )
            yield name, Rule(given.get("dtype"), given.get("threshold"), freeze=self.freeze)


@dataclass(frozen=True)
class ConvDtypeTemplate(Template):
    """Inputs and weights of every convolution and linear layer."""

    input_dtype: DTypeLike = qint8
    weight_dtype: DTypeLike = qint8

    def rules(self, model: fx.GraphModule, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Rule]]:
        """One for each producer of an input, one for each layer."""
        for node in model.graph.nodes:
            module = modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, (Fused, *BASES.values())):
                yield from _producers(node.args[:1], Rule(self.input_dtype), modules)
                yield _path(str(node.target), modules), Rule(weight_dtype=self.weight_dtype)


@dataclass(frozen=True)
class MatmulDtypeTemplate(Template):
    """Inputs of every product of two computed tensors.

    Args:
        input_dtypes: one dtype for both, or a pair.
    """

    input_dtypes: Any = qint8

    def rules(self, model: fx.GraphModule, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Rule]]:
        """One for each producer of an operand."""
        pair = self.input_dtypes if isinstance(self.input_dtypes, (tuple, list)) else (self.input_dtypes,) * 2
        for node in model.graph.nodes:
            if node.op == "call_module" and node.kwargs.get("method") == "matmul":
                for operand, dtype in zip(node.args[:2], pair, strict=False):
                    yield from _producers((operand,), Rule(dtype), modules)


@dataclass(frozen=True)
class SensitivityTemplate(Template):
    """The most sensitive modules of a sensitivity table get the higher precision.

    Args:
        sensitive_table: rows that start with the module's name, most sensitive first; a second column, if it is a
            string, is the type that `sensitive_type` chooses.
        topk_or_ratio: how many rows (int), or which share of them (float).
        sensitive_type: `activation`, `weight` or `both`.
        low_precision_dtype: of the other rows' results.
        high_precision_dtype: of the chosen rows' results.
    """

    sensitive_table: Sequence[Sequence[Any]]
    topk_or_ratio: float = 0.1
    sensitive_type: str = "both"
    low_precision_dtype: DTypeLike = qint8
    high_precision_dtype: DTypeLike = qint16

    def rules(self, model: fx.GraphModule, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Rule]]:
        """One for each row."""
        rows = [r for r in self.sensitive_table if self._fits(r)]
        names = list(dict.fromkeys(str(r[0]) for r in rows))
        check_names(names, modules, "SensitivityTemplate")
        given = self.topk_or_ratio
        count = round(given * len(names)) if isinstance(given, float) and given <= 1 else int(given)
        for index, name in enumerate(names):
            yield name, Rule(self.high_precision_dtype if index < count else self.low_precision_dtype)

    def _fits(self, row: Sequence[Any]) -> bool:
        kind = row[1] if len(row) > 1 and isinstance(row[1], str) else "both"
        return "both" in (self.sensitive_type, kind) or kind == self.sensitive_type


def _producers(operands: Sequence[Any], rule: Rule, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Rule]]:
    """The modules that give the operands, through operators that pass integers on."""
    for operand in operands:
        node = operand
        while isinstance(node, fx.Node) and node.all_input_nodes and _passes(node, modules):
            node = node.all_input_nodes[0]
        if isinstance(node, fx.Node) and node.op == "call_module":
            yield _path(str(node.target), modules), rule


def _passes(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    op = torch_ops.of_node(node, dict(modules))
    return op is not None and op.rule in (torch_ops.Rule.SAME, torch_ops.Rule.ROUNDED)


def _path(path: str, modules: Mapping[str, nn.Module]) -> str:
    """The path that qconfigs know a module by (a fused one: its convolution's)."""
    module = modules[path]
    return module.conv_path if isinstance(module, Fused) and module.conv_path is not None else path


@dataclass
class QconfigSetter:
    """Qconfigs of a whole model.

    Args:
        reference_qconfig: what every module starts from (`get_qconfig(...)`).
        templates: rules in order; later ones win.
        enable_optimize: accepted for compatibility.
        save_dir: accepted for compatibility.
    """

    reference_qconfig: Any
    templates: Sequence[Template] = field(default_factory=tuple)
    enable_optimize: bool = False
    save_dir: str | None = None

    def qconfig_dict(self, model: fx.GraphModule) -> dict[Any, Any]:
        """The dictionary that `prepare_qat_fx` takes, for a traced and fused model (`fuse_fx`).

        Raises:
            UsageError: the reference is no qconfig, or a template names what the model does not have.
        """
        if not hasattr(self.reference_qconfig, "activation"):
            raise UsageError(
                f"reference_qconfig is a {type(self.reference_qconfig).__name__}.",
                where="QconfigSetter",
                hint="Use get_qconfig(...).",
            )
        modules = dict(model.named_modules())
        merged: dict[str, Rule] = {}
        for template in self.templates:
            for path, rule in template.rules(model, modules):
                # A rule holds for everything below its path, also where an earlier one named a part of it.
                below = [p for p in merged if path == "" or p.startswith(f"{path}.")]
                for place in {path: None, **dict.fromkeys(below)}:
                    merged[place] = merged.get(place, Rule()).changed(rule)
        overall = merged.pop("", Rule())
        named = {path: _qconfig(_qconfig(self.reference_qconfig, overall), rule) for path, rule in merged.items()}
        return {"": _qconfig(self.reference_qconfig, overall), "module_name": named}


def _qconfig(reference: Any, rule: Rule) -> QConfig:
    activation, weight = reference.activation, reference.weight
    if activation is not None:
        changes: dict[str, Any] = {}
        if rule.dtype is not None:
            changes["dtype"] = as_dtype(rule.dtype)
        if rule.freeze:
            changes["averaging_constant"] = 0.0
        activation = activation.with_args(**changes)
        if rule.threshold is not None:
            dtype = as_dtype(changes.get("dtype", activation.p.keywords.get("dtype", qint8)))
            fixed = {"observer": FixedScaleObserver, "scale": rule.threshold / -dtype.min, "dtype": dtype}
            activation = activation.p.func.with_args(**fixed)
    if weight is not None and rule.weight_dtype is not None:
        weight = weight.with_args(dtype=as_dtype(rule.weight_dtype))
    return QConfig(activation, weight)

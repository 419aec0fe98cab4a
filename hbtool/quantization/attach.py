"""From a fused float graph to a graph of QAT modules: devices, fake quantizers, what hybrid mode inserts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import fx, nn

from hbtool.errors import TrainingError, UnsupportedError
from hbtool.nn.functional_module import FloatFunctional
from hbtool.nn.intrinsic import Fused
from hbtool.nn.qat import activation, chains, weighted
from hbtool.ops.op import Family, float_ops
from hbtool.quantization import torch_ops
from hbtool.quantization.deployed import Deployment
from hbtool.quantization.fake_quantize import FakeQuantizeBase
from hbtool.quantization.legal_int16 import legalize_int16
from hbtool.quantization.lowering import target_of
from hbtool.quantization.observed import ObservedGraphModule, Preparation, record_inputs
from hbtool.quantization.selection import ForcedToCpu, QConfigs
from hbtool.quantization.stubs import is_dequant_stub, is_quant_stub
from hbtool.quantization.torch_ops import Rule
from hbtool.quantization.tracing import QuantGraphModule, owner_path, set_module
from hbtool.utils.fx_helper import skips_compile


class Kind(Enum):
    """What a value of the graph is."""

    QUANTIZED = "on an integer grid"
    RAW = "an int32 high-precision output"
    FLOAT = "float outside the quantized part"
    CPU = "float from a CPU operator of a hybrid model"
    OTHER = "no real-valued tensor"


@dataclass(frozen=True)
class State:
    """A value: its kind and, if quantized, the fake quantizer that gave it its scale."""

    kind: Kind
    scale: FakeQuantizeBase | None = None


class WrappedFakeQuantize(nn.Module):
    """Fake quantizer that hybrid mode puts behind a CPU operator whose result a BPU operator reads."""

    def __init__(self, post: FakeQuantizeBase) -> None:
        super().__init__()
        self.activation_post_process = post

    def forward(self, x: Any) -> Any:
        """x fake-quantized."""
        return self.activation_post_process(x)


_FAMILIES: dict[str, Family] = {
    "bernoulli": "bernoulli2",
    "bernoulli2": "bernoulli2",
    "bayes": "bayes",
    "bayes-e": "bayes-e",
}


def family_of(march: str) -> Family:
    """The BPU family of a march."""
    return _FAMILIES.get(march, "nash")


def mapper_takes(onnx: str, march: str) -> str | None:
    """Why the mapper puts an operator of this ONNX type on the CPU, None if the BPU takes it."""
    op = float_ops().get(("", onnx))
    family = family_of(march)
    if op is None or family not in op.families_of(onnx):
        return f"{onnx or 'this operator'} is not a BPU operator on {family}"
    return f"{onnx} runs on the CPU unless asked for" if op.manual else None


class Attacher:
    """One walk over the fused graph; swaps modules and inserts nodes."""

    def __init__(self, model: ObservedGraphModule, qconfigs: QConfigs, forced: ForcedToCpu) -> None:
        self.model = model
        self.graph = model.graph
        self.plan = model.hb
        self.qconfigs, self.forced = qconfigs, forced
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.states: dict[fx.Node, State] = {}
        self.wrapped: dict[fx.Node, tuple[fx.Node, State]] = {}
        self.swapped: dict[str, State] = {}
        self.multiplier_bits = target_of(self.plan.march).multiplier_bits

    def run(self) -> None:
        """Decide every node, then compile the graph."""
        for node in list(self.graph.nodes):
            op = torch_ops.of_node(node, self.modules)
            if op is None:
                kind = Kind.CPU if self.plan.hybrid else Kind.FLOAT
                self.states[node] = State(kind)
            else:
                self.states[node] = self._decide(node, op)
        scales = {n: s.scale for n, s in self.states.items()}
        family = family_of(self.plan.march)
        self.plan.widths = legalize_int16(self.graph, scales, self.modules, self.model.get_submodule, family)
        self._put_in_order()
        self._record_paths()
        self.graph.lint()
        self.model.recompile()

    def _put_in_order(self) -> None:
        """The device table in the order of execution; inserted modules as published prints show them.

        That is by the node they belong to, its fake quantizer before its dequantizer.
        """
        names = [n.name for n in self.graph.nodes]
        self.plan.devices = {n: self.plan.devices[n] for n in names if n in self.plan.devices}
        for name in names:
            for inserted in (f"{name}_activation_post_process", f"{name}_input_dequant"):
                if inserted in self.model._modules:
                    self.model._modules[inserted] = self.model._modules.pop(inserted)

    def _record_paths(self) -> None:
        """What `torch.export` reads: in which modules each node lies (fusion and insertion moved some)."""
        for node in self.graph.nodes:
            if node.op == "call_module":
                path = str(node.target)
                stack = {p: e for p, e in (node.meta.get("nn_module_stack") or {}).items() if e[0] != path}
                stack[path] = (path, type(self.model.get_submodule(path)))
                node.meta["nn_module_stack"] = stack

    # ----------------------------------------------------------------------------------------------------- decisions

    def _decide(self, node: fx.Node, op: torch_ops.TorchOp) -> State:
        inputs = [self.states[n] for n in node.all_input_nodes]
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if is_dequant_stub(module):
            self._swap(node, activation.DeQuantStub.from_float(module))  # type: ignore[arg-type]
            self._note(node, "CPU", "dequantizes")
            return State(Kind.FLOAT)
        if is_quant_stub(module):
            return self._quant(node, module)  # type: ignore[arg-type]
        if op.rule is Rule.NONE or (inputs and all(s.kind is Kind.OTHER for s in inputs)):
            return State(Kind.OTHER)
        if op.rule is Rule.FLOAT:
            return self._float(node, op, inputs)
        if op.rule in (Rule.SAME, Rule.ROUNDED):
            return self._passive(node, op, module)
        return self._own(node, op, module, inputs)

    def _quant(self, node: fx.Node, module: nn.Module) -> State:
        path = str(node.target)
        if path not in self.swapped:
            qconfig = self.qconfigs.of(path)
            if qconfig is None:
                self._note(node, "CPU", "its qconfig is None")
                return State(Kind.FLOAT)
            made = activation.QuantStub.from_float(module, qconfig)
            self._swap(node, made)
            self.swapped[path] = State(Kind.QUANTIZED, made.activation_post_process)
        self._note(node, "CPU", "quantizes")
        return self.swapped[path]

    def _float(self, node: fx.Node, op: torch_ops.TorchOp, inputs: list[State]) -> State:
        """An operator that the table does not know."""
        if skips_compile(node, self.modules):
            self._note(node, "CPU", "it is marked as outside the compiled program")
            return State(Kind.FLOAT)
        if any(s.kind in (Kind.QUANTIZED, Kind.RAW) for s in inputs):
            if not self.plan.hybrid and self.qconfigs.of(self._path(node)) is not None:
                shown = getattr(node.target, "__name__", str(node.target))
                if node.op == "call_module":
                    shown = f"{type(self.modules[str(node.target)]).__name__} ({shown})"
                raise UnsupportedError(
                    f"function {shown} is not implemented for QTensor.",
                    where=f"{self._path(node) or 'forward'} (node {node.name})",
                    hint="Put a DeQuantStub before it, set its qconfig to None, or prepare with hybrid=True.",
                )
            return self._on_cpu(node, "it has no quantized form")
        self._note(node, "CPU", "it has no quantized form")
        return State(Kind.CPU if any(s.kind is Kind.CPU for s in inputs) else Kind.FLOAT)

    def _passive(self, node: fx.Node, op: torch_ops.TorchOp, module: nn.Module | None) -> State:
        first = next((a for a in node.all_input_nodes), None)
        state = self.states[first] if first is not None else State(Kind.FLOAT)
        if state.kind in (Kind.QUANTIZED, Kind.RAW) and self.plan.hybrid:
            reason = self._cpu_reason(node, op)
            if reason is not None and op.name != "nothing":
                return self._on_cpu(node, reason)
        if state.kind is Kind.QUANTIZED and op.rule is Rule.ROUNDED and module is not None:
            made = activation.derived_class(activation.InputScale, type(module)).from_float(module, state.scale)
            self._swap(node, made)
        if op.name != "nothing":
            on_bpu = state.kind in (Kind.QUANTIZED, Kind.RAW)
            self._note(node, "BPU" if on_bpu else "CPU", "it follows its input")
        return state

    def _own(self, node: fx.Node, op: torch_ops.TorchOp, module: nn.Module | None, inputs: list[State]) -> State:
        if all(s.kind in (Kind.FLOAT, Kind.OTHER) for s in inputs):
            return self._outside(node, op)
        qconfig = self.qconfigs.of(self._path(node))
        reason = self._cpu_reason(node, op) if self.plan.hybrid else None
        if qconfig is None:
            return self._on_cpu(node, "its qconfig is None")
        if reason is not None:
            return self._on_cpu(node, reason)
        self._refuse_raw(node)
        self._quantize_inputs(node)
        if module is None:
            raise UnsupportedError(
                f"{node.target} is called in a form that cannot be quantized (its settings are computed).",
                where=f"{self._path(node) or 'forward'} (node {node.name})",
                hint="Call it with constant settings, or as a module.",
            )
        self._note(node, "BPU", "")
        path = str(node.target)
        first = path not in self.swapped
        if first:
            self.swapped[path] = self._make(node, op, module, qconfig)
        self._note_scales(node, self.model.get_submodule(path), first)
        return self.swapped[path]

    def _note_scales(self, node: fx.Node, made: nn.Module, first: bool) -> None:
        """Tell layers and averages the scales around them; one that is called with several input scales has none."""
        scales = [self.states[n].scale for n in node.args if isinstance(n, fx.Node)]
        computes_here = isinstance(made, weighted.Weighted | nn.AvgPool2d | nn.AdaptiveAvgPool2d)
        if not computes_here or not scales or scales[0] is None:
            return
        plan = Deployment(scales[0], scales[1] if len(scales) > 1 else None, self.multiplier_bits)
        # In __dict__, not a child: the quantizers belong to their producers.
        made.__dict__["deployment"] = plan if first or made.__dict__.get("deployment") == plan else None

    def _outside(self, node: fx.Node, op: torch_ops.TorchOp) -> State:
        """An operator whose inputs are all float: pre- or post-processing."""
        path = self._path(node)
        weighted_op = node.op == "call_module" and weighted.qat_class(self.modules[str(node.target)]) is not None
        if weighted_op and self.qconfigs.of(path) is not None:
            raise TrainingError(
                f"{type(self.modules[str(node.target)]).__name__} has a qconfig, but its input is float.",
                where=path,
                hint="Pass its input through a QuantStub (also after a DeQuantStub), or set its qconfig to None.",
            )
        self._note(node, "CPU", "its inputs are float")
        return State(Kind.FLOAT)

    def _make(self, node: fx.Node, op: torch_ops.TorchOp, module: nn.Module, qconfig: Any) -> State:
        qat = weighted.qat_class(module)
        made: Any
        if qat is not None:
            made = qat.from_float(module, qconfig)
        elif isinstance(module, FloatFunctional):
            made = activation.FloatFunctional.from_float(module, qconfig)
        elif (chain := chains.chain_class(module)) is not None:
            first = node.all_input_nodes[0]
            made = chain.from_float(module, qconfig, self.states[first].scale)
        else:
            made = activation.derived_class(activation.OwnScale, type(module)).from_float(module, qconfig)
        self._swap(node, made)
        post = made.result if isinstance(made, chains.Chain) else made.activation_post_process
        if post is not None:
            return State(Kind.QUANTIZED, post)
        if self._sums_in_float(made):
            self._note(node, "BPU", "its sum is added in float, behind the int32 output of the convolution")
        elif getattr(made, "has_add", qat is None) and node.kwargs.get("method") != "matmul":
            raise TrainingError(
                f"{type(module).__name__} cannot have a high-precision output (its qconfig has no activation).",
                where=self._path(node),
                hint="Only convolutions, linear layers and matmul leave their int32 accumulator as model output.",
            )
        return State(Kind.RAW)

    def _sums_in_float(self, made: nn.Module) -> bool:
        """Whether it is a fused sum with a high-precision output: only where float may follow the BPU."""
        return self.plan.hybrid and isinstance(made, weighted.Weighted) and made.has_add

    # ----------------------------------------------------------------------------------------------------- insertion

    def _on_cpu(self, node: fx.Node, reason: str) -> State:
        """A float operator: its quantized inputs are dequantized first (visible in hybrid mode)."""
        self._note(node, "CPU", reason)
        if not self.plan.hybrid:
            return State(Kind.FLOAT)
        name, count = f"{node.name}_input_dequant", 0
        for source in node.all_input_nodes:
            if self.states[source].kind in (Kind.QUANTIZED, Kind.RAW):
                if count == 0:
                    self.model.add_module(name, activation.DeQuantStub())
                with self.graph.inserting_before(node):
                    made = self.graph.create_node("call_module", name, (source,), {}, name=f"{name}_{count}")
                self.states[made] = State(Kind.CPU)
                self._note(made, "CPU", "dequantizes")
                node.replace_input_with(source, made)
                count += 1
        return State(Kind.CPU)

    def _quantize_inputs(self, node: fx.Node) -> None:
        """Inputs that come from the CPU get a fake quantizer behind their producer."""
        for source in node.all_input_nodes:
            kind = self.states[source].kind
            if kind in (Kind.QUANTIZED, Kind.OTHER):
                continue
            if not self.plan.hybrid:
                raise TrainingError(
                    f"node {node.name} combines quantized values with the float value {source.name}.",
                    where=self._path(node) or "forward",
                    hint=f"Pass {source.name} through a QuantStub.",
                )
            made, state = self._wrapped(source)
            self.states[made] = state
            node.replace_input_with(source, made)

    def _wrapped(self, source: fx.Node) -> tuple[fx.Node, State]:
        if source not in self.wrapped:
            qconfig = self.qconfigs.of(self._path(source)) or self.qconfigs.overall
            if qconfig is None or qconfig.activation is None:
                raise TrainingError(
                    f"{source.name} runs on the CPU and feeds a BPU operator, but has no activation qconfig.",
                    where=self._path(source) or "forward",
                    hint="Give it a qconfig with an activation part: the BPU quantizes its result.",
                )
            name = f"{source.name}_activation_post_process"
            post = qconfig.activation()
            self.model.add_module(name, WrappedFakeQuantize(post))
            with self.graph.inserting_after(source):
                made = self.graph.create_node("call_module", name, (source,), {}, name=name)
            self._note(made, "CPU", "quantizes")
            self.wrapped[source] = made, State(Kind.QUANTIZED, post)
        return self.wrapped[source]

    # ------------------------------------------------------------------------------------------------------- details

    def _refuse_raw(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            if self.states[source].kind is Kind.RAW:
                raise TrainingError(
                    f"{node.name} takes the int32 high-precision output of {source.name} ('NoneType' has no scale).",
                    where=self._path(node) or "forward",
                    hint=f"Give {self._path(source)} a qconfig with an activation part; only outputs may be int32.",
                )

    def _cpu_reason(self, node: fx.Node, op: torch_ops.TorchOp) -> str | None:
        reason = self.forced.reason(self._path(node))
        if reason is not None:
            return reason
        onnx = op.onnx
        if op.name == "float_functional":
            onnx = torch_ops.combining(str(node.kwargs["method"])).onnx
        return mapper_takes(onnx, self.plan.march)

    def _path(self, node: fx.Node) -> str:
        """The path that qconfigs and hybrid_dict know the node by (a fused module: its convolution's)."""
        if node.op != "call_module":
            return owner_path(node)
        module = self.modules.get(str(node.target))
        if isinstance(module, Fused) and module.conv_path is not None:
            return module.conv_path
        return str(node.target)

    def _swap(self, node: fx.Node, made: nn.Module) -> None:
        set_module(self.model, str(node.target), made)

    def _note(self, node: fx.Node, device: str, reason: str) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        kind = {"call_function": "function", "call_method": "method"}.get(node.op, "module")
        if isinstance(module, FloatFunctional) or (isinstance(module, Fused) and module.has_add):
            kind = "method"
        elif node.op == "call_module" and "_generated_" in str(node.target) and not isinstance(module, Fused):
            kind = "function"
        self.plan.devices[node.name] = (device, kind, reason)


def attach(
    source: QuantGraphModule,
    types: dict[str, type],
    qconfig_dict: Any,
    hybrid: bool,
    hybrid_dict: Any,
    march: str,
) -> ObservedGraphModule:
    """The QAT model of a fused float model; parameters and buffers are shared with it.

    Raises:
        UsageError: a name or type in the dictionaries matches nothing.
        TrainingError, UnsupportedError: the graph cannot be quantized as configured (names the module).
    """
    modules = dict(source.named_modules())
    qconfigs = QConfigs(qconfig_dict, modules, types)
    forced = ForcedToCpu(hybrid_dict if hybrid else None, modules, types)
    kept = {id(t): t for t in (*source.parameters(), *source.buffers())}
    body = copy.deepcopy(source, dict(kept))
    model = ObservedGraphModule(body, body.graph, type(source).__name__)
    model.hb = Preparation(source, types, hybrid, march)
    if not hybrid and not any(is_quant_stub(m) for m in modules.values()):
        raise TrainingError(
            "the model has no QuantStub, so nothing would be quantized.",
            where=type(source).__name__,
            hint="Add QuantStub() before and DeQuantStub() after the part that runs on the BPU.",
        )
    Attacher(model, qconfigs, forced).run()
    model.register_forward_pre_hook(record_inputs)
    return model

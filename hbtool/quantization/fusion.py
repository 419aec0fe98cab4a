"""Fusion of conv / linear with BN, add and ReLU in a traced graph.

before: conv -> bn -> add(., y) -> relu, each value read once;
after: one `ConvAddReLU2d` at the add's place (without add: at the conv's), the other members are `Identity`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from hbtool.errors import TrainingError
from hbtool.nn import intrinsic
from hbtool.nn.functional_module import FloatFunctional
from hbtool.qat_mode import QATMode, get_qat_mode
from hbtool.quantization import torch_ops
from hbtool.quantization.tracing import QuantGraphModule, set_module

_FUSABLE = tuple(intrinsic.BASES.values())
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Match:
    """One chain of nodes that becomes one module."""

    conv: fx.Node
    bn: fx.Node | None = None
    add: fx.Node | None = None
    relu: fx.Node | None = None
    activation: str = ""
    nodes: list[fx.Node] = field(default_factory=list)


def fold_bn(conv: nn.Module, bn: nn.Module) -> None:
    """Absorb `bn` (running statistics) into the parameters of `conv`, which is changed."""
    if getattr(bn, "running_mean", None) is None:
        raise TrainingError(
            "a batch normalization without running statistics cannot be absorbed.",
            where=type(bn).__name__,
            hint="Use track_running_stats=True.",
        )
    statistics = (bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    if isinstance(conv, nn.Linear):
        conv.weight, conv.bias = fuse_linear_bn_weights(conv.weight, conv.bias, *statistics)  # type: ignore[arg-type]
        conv.bias.requires_grad_(conv.weight.requires_grad)
        return
    transposed = isinstance(conv, nn.ConvTranspose2d)
    if transposed and conv.groups != 1:
        raise TrainingError(
            "batch normalization behind a grouped transposed convolution cannot be absorbed.",
            where=type(conv).__name__,
            hint="Set its qconfig to None or use groups=1.",
        )
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, transposed)  # type: ignore[arg-type]
    # torch makes a bias that was not there before untrainable; it holds the trainable beta now.
    conv.bias.requires_grad_(conv.weight.requires_grad)


class Fuser:
    """Finds and replaces the chains of one traced model."""

    def __init__(self, model: QuantGraphModule) -> None:
        self.model = model
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.calls = Counter(id(self.modules[str(n.target)]) for n in model.graph.nodes if n.op == "call_module")

    def run(self) -> None:
        """Fuse every chain, replace members that nobody calls any more, compile."""
        members: set[str] = set()
        for match in self._matches():
            members.update(self._replace(match))
        called = {str(n.target) for n in self.model.graph.nodes if n.op == "call_module"}
        for path in members - called:
            set_module(self.model, path, nn.Identity())
        self.model.graph.lint()
        self.model.recompile()

    def chains(self) -> list[list[fx.Node]]:
        """The nodes of every chain that `run` would fuse, in the order of the graph; nothing is changed."""
        order = {node: i for i, node in enumerate(self.model.graph.nodes)}
        return [sorted(match.nodes, key=order.__getitem__) for match in self._matches()]

    # ----------------------------------------------------------------------------------------------------- matching

    def _matches(self) -> Iterator[Match]:
        taken: set[fx.Node] = set()
        for node in list(self.model.graph.nodes):
            match = self._match(node, taken)
            if match is not None and len(match.nodes) > 1:
                taken.update(match.nodes)
                yield match

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _once(self, node: fx.Node) -> bool:
        module = self._module(node)
        return module is not None and self.calls[id(module)] == 1

    def _next(self, node: fx.Node) -> fx.Node | None:
        """The only reader of the node's value."""
        return next(iter(node.users)) if len(node.users) == 1 else None

    def _match(self, node: fx.Node, taken: set[fx.Node]) -> Match | None:
        module = self._module(node)
        if type(module) not in _FUSABLE or not self._once(node) or node in taken:
            return None
        match = Match(node, nodes=[node])
        following = self._next(node)
        if following is not None and isinstance(self._module(following), _NORMS) and self._once(following):
            match.bn = self._take(match, following)
            following = self._next(following)
        if following is not None and self._is_add(following) and following not in taken:
            match.add = self._take(match, following)
            if following.kwargs["method"] == "add_relu":
                match.activation = "ReLU"
                return match
            following = self._next(following)
        if following is not None and following not in taken and (activation := self._activation(following)):
            match.relu, match.activation = self._take(match, following), activation
        return match

    def _take(self, match: Match, node: fx.Node) -> fx.Node:
        match.nodes.append(node)
        return node

    def _is_add(self, node: fx.Node) -> bool:
        return (
            isinstance(self._module(node), FloatFunctional)
            and self._once(node)
            and node.kwargs.get("method") in ("add", "add_relu")
            and len(node.args) == 2
            and all(isinstance(a, fx.Node) for a in node.args)
            and node.args[0] is not node.args[1]
        )

    def _activation(self, node: fx.Node) -> str:
        op = torch_ops.of_node(node, self.modules)
        names = {"relu": "ReLU", "relu6": "ReLU6"}
        return names.get(op.name, "") if op is not None else ""

    # ---------------------------------------------------------------------------------------------------- replacing

    def _replace(self, match: Match) -> set[str]:
        """Put the fused module into the graph; returns the paths of the members."""
        conv_path = str(match.conv.target)
        conv = self.modules[conv_path]
        bn = self._module(match.bn) if match.bn is not None else None
        with_bn = bn is not None and get_qat_mode() != QATMode.FuseBN
        if bn is not None and not with_bn:
            fold_bn(conv, bn)
        paths = {str(n.target) for n in match.nodes if n.op == "call_module"}
        fused: nn.Module = conv
        if with_bn or match.add is not None or match.activation:
            fused = self._fused(match, conv, bn if with_bn else None, conv_path)
        last, place = match.nodes[-1], match.add or match.conv
        path = str(place.target)
        set_module(self.model, path, fused)
        args = list(match.conv.args)
        if match.add is not None:
            inner = match.bn or match.conv
            args.append(match.add.args[1] if match.add.args[0] is inner else match.add.args[0])
        with self.model.graph.inserting_before(last):
            node = self.model.graph.create_node("call_module", path, tuple(args), {}, name=place.name)
        node.meta = dict(place.meta)
        last.replace_all_uses_with(node)
        name = place.name
        for member in reversed(match.nodes):
            self.model.graph.erase_node(member)
        node.name = name
        return paths - {path}

    def _fused(self, match: Match, conv: nn.Module, bn: nn.Module | None, conv_path: str) -> nn.Module:
        relu: nn.Module | None = None
        if match.activation:
            relu = nn.ReLU6() if match.activation == "ReLU6" else nn.ReLU()
            relu.training = conv.training
        name = intrinsic.fused_name(conv, bn is not None, match.add is not None, match.activation)
        fused = intrinsic.CLASSES[name](conv, bn, relu)
        fused.conv_path = conv_path
        if hasattr(conv, "qconfig"):
            fused.qconfig = conv.qconfig
        return fused


def fuse(model: QuantGraphModule) -> QuantGraphModule:
    """Fuse every chain of `model` in place; returns it."""
    Fuser(model).run()
    return model

"""From a module to a graph: a copy of the model is traced symbolically, the caller's model stays as it is."""

from __future__ import annotations

import copy
import logging
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.ao.nn.quantized import FloatFunctional as TorchFloatFunctional

from hbtool.errors import TrainingError
from hbtool.nn.composite import Composite, expand
from hbtool.nn.functional_module import METHODS, FloatFunctional
from hbtool.utils.fx_helper import WRAPPED_CLASSES

_log = logging.getLogger(__name__)

_TRACE_ERRORS = (
    fx.proxy.TraceError,
    TypeError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    IndexError,
)

_LEAF_PACKAGES = ("torch.nn", "torch.ao", "hbtool.nn", "hbtool.quantization", "torchvision.ops")


class QuantGraphModule(fx.GraphModule):
    """A traced model that keeps the original's containers, attributes and unused children.

    Args:
        root: the model whose attributes and children are taken over (not copied).
        graph: the traced graph, whose targets are paths in `root`.
        class_name: printed name.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str | None = None) -> None:
        super().__init__({}, fx.Graph(), class_name or type(root).__name__)
        kept = {"_graph", "_code", "_lineno_map", "_prologue_start", "_tracer_cls", "_tracer_extras", "meta"}
        own = {k: v for k, v in self.__dict__.items() if k in kept}
        self.__dict__.update({k: v for k, v in root.__dict__.items() if k not in kept and k != "shape_env"})
        self.__dict__.update(own)
        self.graph = graph

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantGraphModule:
        holder = nn.Module()
        hidden = {"_graph", "_code", "_lineno_map", "_prologue_start"}
        holder.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k not in hidden})
        made = type(self).__mro__[1](holder, copy.deepcopy(self.graph, memo), self._graph_class_name())
        memo[id(self)] = made
        return made

    def _graph_class_name(self) -> str:
        return type(self).__name__


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that are results of computations are detached (and named), as deepcopy refuses them."""
    memo: dict[int, Any] = {}
    detached = []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
                detached.append(f"{path}.{name}".strip("."))
        for name, value in module._buffers.items():
            if value is not None and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
                detached.append(f"{path}.{name}".strip("."))
    if detached:
        _log.warning("copied as constants, because they are results of computations: %s", ", ".join(detached))
    try:
        copied: nn.Module = copy.deepcopy(model, memo)
    except RuntimeError as error:
        raise TrainingError(
            f"the model cannot be copied ({error}).",
            where=type(model).__name__,
            hint="Detach tensors that are kept inside lists or dicts of the model, or prepare with inplace=True.",
        ) from error
    return copied


class QuantTracer(fx.Tracer):
    """Traces a float model; FloatFunctional calls become calls of their module."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's and hbtool's own modules stay one node, and what the user wrapped."""
        if any(isinstance(m, c) for c in WRAPPED_CLASSES):
            return True
        if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.GLU, Composite)):
            return False
        return type(m).__module__.startswith(_LEAF_PACKAGES)


class _RecordedMethod:
    """Stands in for `functional.add` while tracing: records a call of the module."""

    def __init__(self, tracer: QuantTracer, path: str, method: str) -> None:
        self.tracer, self.path, self.method = tracer, path, method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        node = self.tracer.create_proxy(
            "call_module", self.path, args, {**kwargs, "method": self.method}, name=self.method
        )
        node.node.meta["nn_module_stack"] = dict(self.tracer.module_stack)
        return node


@contextmanager
def _recorded_functionals(root: nn.Module, tracer: QuantTracer) -> Iterator[None]:
    """Replace every FloatFunctional of `root` by hbtool's and let its methods be recorded."""
    recorded = []
    for path, module in list(root.named_modules()):
        if type(module) is TorchFloatFunctional:
            replacement = FloatFunctional()
            replacement.train(module.training)
            if hasattr(module, "qconfig"):
                replacement.qconfig = module.qconfig
            set_module(root, path, replacement)
            module = replacement
        if isinstance(module, FloatFunctional):
            for method in METHODS:
                module.__dict__[method] = _RecordedMethod(tracer, path, method)
            recorded.append(module)
    try:
        yield
    finally:
        for module in recorded:
            for method in METHODS:
                module.__dict__.pop(method, None)


def set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at `path` (its parent must exist)."""
    parent, _, name = path.rpartition(".")
    holder = root.get_submodule(parent)
    holder._modules[name] = module


def _user_line(error: BaseException) -> str | None:
    """file:line of the innermost frame that is neither torch's nor hbtool's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "/torch/" not in frame.filename and "/hbtool/quantization/" not in frame.filename:
            return f"{frame.filename}:{frame.lineno}"
    return None


def trace(model: nn.Module, share: bool = False) -> QuantGraphModule:
    """A traced copy of `model`, on its device and in its mode.

    Args:
        model: any module whose forward has no control flow on tensor values.
        share: trace the model itself instead of a copy.

    Raises:
        TrainingError: forward cannot be traced; names the file and line of the statement.
    """
    root = model if share else copy_model(model)
    for path, module in list(root.named_modules()):
        if path and (composite := expand(module)) is not None:
            set_module(root, path, composite)
    tracer = QuantTracer()
    tracer.graph = fx.Graph()
    try:
        with _recorded_functionals(root, tracer):
            graph = tracer.trace(root)
    except _TRACE_ERRORS as error:
        raise _explained(error, type(model).__name__) from error
    _check_outputs(graph, type(model).__name__)
    made = QuantGraphModule(root, graph, type(model).__name__)
    made.train(model.training)
    return made


def _explained(error: BaseException, name: str) -> TrainingError:
    text = str(error).split("\n")[0]
    if isinstance(error, fx.proxy.TraceError) and "control flow" in text:
        text = "symbolically traced variables cannot be used as inputs to control flow"
        hint = "Replace the if / for / assert on tensor values, or put it into a function marked with fx_helper.wrap()."
    else:
        hint = "Put what cannot be traced (numpy, iteration over tensors, len()) into a function marked with wrap()."
    return TrainingError(f"the model cannot be traced: {text}.", where=_user_line(error) or name, hint=hint)


def _check_outputs(graph: fx.Graph, name: str) -> None:
    output = next(n for n in graph.nodes if n.op == "output")
    if not output.all_input_nodes:
        raise TrainingError(
            "forward returned no tensor (no output tensor found, empty model).",
            where=name,
            hint="Check that every branch of forward ends in a return of tensors, also when not training.",
        )


def owner_path(node: fx.Node) -> str:
    """Path of the module in whose forward the node was recorded ("" = the model itself)."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return str(paths[-1]) if paths else ""


def is_number(value: Any) -> bool:
    """Whether a graph argument is a Python number that a tensor can be combined with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

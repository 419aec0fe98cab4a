"""Rewrites a traced graph into what can own scales: functions become modules, numbers become scalar operations.

| written | becomes |
|---|---|
| `a + b`, `torch.cat`, `x.mean()` ... | call of a generated FloatFunctional, `<parent>_generated_add_0` |
| `F.sigmoid(x)`, `F.softmax(x, 1)` ... | call of a generated module |
| `x + 2`, `x - 2`, `x * 2`, `x / 2` | `add_scalar`, `mul_scalar` |
| `-x` | `mul_scalar(-1)` |
| `1 - x` | `mul_scalar(add_scalar(x, -1), -1)` |
| `2 / x` | `mul_scalar(reciprocal(x), 2)` |
| `x[0]` | `x[0:1].squeeze(0)` |
| `a + tensor` | the constant passes a frozen generated QuantStub |
| `F.conv2d(x, self.weight)` | call of a Conv2d that holds the same parameters |
"""

from __future__ import annotations

import logging
import operator
from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hbtool.nn import lut
from hbtool.nn.functional_module import FloatFunctional
from hbtool.quantization import torch_ops
from hbtool.quantization.decompose import decompose
from hbtool.quantization.stubs import QuantStub
from hbtool.quantization.tracing import QuantGraphModule, is_number, owner_path, set_module

_log = logging.getLogger(__name__)

_COMBINING = {op.name for op in torch_ops.COMBINING}
_TWO_TENSORS = {op.name for op in torch_ops.COMBINING if op.tensors == 2}
_STATIC_ATTRIBUTES = {"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad"}
_NEGATIONS = {operator.neg, torch.neg, torch.negative, "neg", "__neg__"}
_REVERSED_SUBTRACTIONS = {torch.rsub, "__rsub__", "rsub"}


class Rewriter:
    """One walk over the graph of `model`, in execution order."""

    def __init__(self, model: QuantGraphModule) -> None:
        self.model = model
        self.graph = model.graph
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.static: set[fx.Node] = set()

    def run(self) -> None:
        """Rewrite, drop dead nodes, compile."""
        self.graph.eliminate_dead_code()
        decompose(self.model)
        for node in list(self.graph.nodes):
            if self._is_static(node):
                self.static.add(node)
            elif node.op in ("call_function", "call_method"):
                self._rewrite(node)
            elif node.op == "call_module":
                self._stub_constants(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.model.recompile()

    # ---------------------------------------------------------------------------------------------------- questions

    def _is_static(self, node: fx.Node) -> bool:
        """Whether the value is a number, size or dtype, known without tensor values."""
        op = torch_ops.of_node(node, self.modules)
        if op is None:
            return False
        if node.target is getattr:
            return node.args[1] in _STATIC_ATTRIBUTES
        if op.name == "size":
            return True
        sources = node.all_input_nodes
        return bool(sources) and all(n in self.static for n in sources) and node.op != "call_module"

    def _is_tuple(self, node: fx.Node) -> bool:
        """Whether the value is a tuple or list of tensors (so that an integer index picks a member)."""
        op = torch_ops.of_node(node, self.modules)
        if op is None or op is torch_ops.UNKNOWN:
            return op is not None
        if op.name == "getitem":
            # What an unknown function returns may hold tuples at any depth.
            source = node.args[0]
            return isinstance(source, fx.Node) and self._is_tuple(source) and self._is_unknown(source)
        with_index = op.name in ("max", "min") and (len(node.args) > 1 or "dim" in node.kwargs)
        return op.name in ("part", "topk") or with_index

    def _is_unknown(self, node: fx.Node) -> bool:
        """Whether the value is, or is part of, what an unknown function returns."""
        op = torch_ops.of_node(node, self.modules)
        source = node.args[0] if op is not None and op.name == "getitem" else None
        return op is torch_ops.UNKNOWN or (isinstance(source, fx.Node) and self._is_unknown(source))

    # --------------------------------------------------------------------------------------------------- rewriting

    def _rewrite(self, node: fx.Node) -> None:
        op = torch_ops.of_node(node, self.modules)
        assert op is not None
        if node.target in _NEGATIONS:
            self._scalar(node, node.args[0], [("mul_scalar", -1.0)], "-x")
        elif node.target in _REVERSED_SUBTRACTIONS and is_number(node.args[1]):
            self._minuend(node, node.args[0], node.args[1])
        elif op.name in _COMBINING:
            self._combine(node, op)
        elif op.name == "getitem":
            self._index(node)
        elif node.target in (F.conv2d, F.linear, F.conv_transpose2d):
            self._weighted(node)
        elif op.build is not None:
            self._build(node, op)

    def _combine(self, node: fx.Node, op: torch_ops.TorchOp) -> None:
        if op.name == "where":
            condition, *values = (*node.args, *node.kwargs.values())
            self._functional(node, "where", (condition, *(self._quantized(node, v) for v in values)), {})
            return
        if op.name in _TWO_TENSORS:
            x, y = (*node.args, *node.kwargs.values())[:2]
            if set(node.kwargs) - {"input", "other"}:
                return
            if self._is_scalar(x) or self._is_scalar(y):
                self._combine_number(node, op.name, x, y)
            else:
                self._functional(node, op.name, (self._quantized(node, x), self._quantized(node, y)), {})
            return
        if not set(node.kwargs) - {"input", "tensors", "dim", "axis", "keepdim"}:
            kwargs = {("dim" if k == "axis" else k): v for k, v in node.kwargs.items() if k not in ("input", "tensors")}
            first = node.kwargs.get("input", node.kwargs.get("tensors", node.args[0] if node.args else None))
            rest = node.args if not node.args else node.args[1:]
            if op.name == "cat" and isinstance(first, (list, tuple)):
                first = [self._quantized(node, part) for part in first]
            if op.name in ("sum", "mean") and len(rest) > 1 and all(type(a) is int for a in rest):
                rest = (tuple(rest),)
            self._functional(node, op.name, (first, *rest), kwargs)

    def _is_scalar(self, value: Any) -> bool:
        return is_number(value) or value in self.static

    def _combine_number(self, node: fx.Node, name: str, x: Any, y: Any) -> None:
        """A tensor and a number; a number only known at run time is left to the user."""
        number, tensor = (x, y) if self._is_scalar(x) else (y, x)
        if not is_number(number) or name in ("maximum", "minimum", "matmul"):
            return
        flipped = tensor is y
        if name in ("add", "mul"):
            self._scalar(node, tensor, [(f"{name}_scalar", number)], f"x {name} {number}", quiet=True)
        elif name == "sub" and not flipped:
            self._scalar(node, tensor, [("add_scalar", -number)], f"x - {number}", quiet=True)
        elif name == "sub":
            self._minuend(node, tensor, number)
        elif not flipped:
            self._scalar(node, tensor, [("mul_scalar", 1.0 / number)], f"x / {number}")
        else:
            with self.graph.inserting_before(node):
                inverse = self._call(node, "reciprocal", lut.Reciprocal(), (tensor,), {})
            self._scalar(node, inverse, [("mul_scalar", number)], f"{number} / x")

    def _minuend(self, node: fx.Node, tensor: Any, number: Any) -> None:
        self._scalar(node, tensor, [("add_scalar", -number), ("mul_scalar", -1.0)], f"{number} - x")

    def _scalar(
        self, node: fx.Node, tensor: Any, steps: list[tuple[str, float]], written: str, quiet: bool = False
    ) -> None:
        value = tensor
        with self.graph.inserting_before(node):
            for method, number in steps:
                kind = method.removesuffix("_scalar")
                value = self._call(node, kind, FloatFunctional(), (value, float(number)), {"method": method})
        if not quiet:
            _log.info("%s: %s becomes %s", node.name, written, " then ".join(f"{m}({n:g})" for m, n in steps))
        self._replace(node, value)

    def _functional(self, node: fx.Node, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with self.graph.inserting_before(node):
            value = self._call(node, method, FloatFunctional(), args, {**kwargs, "method": method})
        self._replace(node, value)

    def _build(self, node: fx.Node, op: torch_ops.TorchOp) -> None:
        args, kwargs = list(node.args), dict(node.kwargs)
        tensors = [args.pop(0) if args else kwargs.pop(next(iter(kwargs))) for _ in range(op.tensors)]
        settings = [*args, *kwargs.values()]
        if any(isinstance(a, fx.Node) for a in settings) or any(
            isinstance(a, (list, tuple)) and any(isinstance(e, fx.Node) for e in a) for a in settings
        ):
            return
        if node.target in ("square", torch.square):
            args = [2.0]
        assert op.build is not None
        with self.graph.inserting_before(node):
            value = self._call(node, op.name, op.build(*args, **kwargs), tuple(tensors), {})
        self._replace(node, value)

    def _index(self, node: fx.Node) -> None:
        source, index = node.args[0], node.args[1]
        if not isinstance(source, fx.Node) or self._is_tuple(source) or source in self.static:
            return
        parts = index if isinstance(index, tuple) else (index,)
        if None in parts or not any(type(p) is int for p in parts):
            return
        slices: list[Any] = []
        dims: list[int] = []
        for position, part in enumerate(parts):
            if type(part) is not int:
                slices.append(part)
                continue
            slices.append(slice(part, part + 1 if part != -1 else None))
            dims.append(position - len(parts) if Ellipsis in parts[:position] else position)
        with self.graph.inserting_before(node):
            cut = self.graph.call_function(operator.getitem, (source, tuple(slices)))
            value = self.graph.call_method("squeeze", (cut, tuple(dims) if len(dims) > 1 else dims[0]))
            for made in (cut, value):
                made.meta = dict(node.meta)
        _log.info("%s: the index %s becomes a slice and a squeeze", node.name, index)
        self._replace(node, value)

    def _weighted(self, node: fx.Node) -> None:
        names = ["input", "weight", "bias", "stride", "padding"]
        names += ["dilation", "groups"] if node.target is F.conv2d else ["output_padding", "groups", "dilation"]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        weight, bias = self._parameter(given.get("weight")), self._parameter(given.get("bias"))
        if weight is None or (given.get("bias") is not None and bias is None):
            return
        x = given.pop("input")
        target = str(given.pop("weight").target)  # type: ignore[union-attr]
        given.pop("bias", None)
        module = _module_around(node.target, weight, bias, given)
        module.train(self.model.training)
        holder_path = target.rpartition(".")[0]
        holder = self.model.get_submodule(holder_path)
        path = holder_path
        if isinstance(holder, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and holder_path:
            # A sub-class of a torch module that computes more in its forward: its parameters stay where they were.
            if hasattr(holder, "qconfig"):
                module.qconfig = holder.qconfig
            set_module(self.model, path, module)
        else:
            path = self._generate(node, "conv" if node.target is not F.linear else "linear", module)
        self.modules[path] = module
        with self.graph.inserting_before(node):
            value = self.graph.call_module(path, (x,))
            value.meta = dict(node.meta)
        self._replace(node, value)

    def _parameter(self, source: Any) -> nn.Parameter | None:
        if not isinstance(source, fx.Node) or source.op != "get_attr":
            return None
        value = _attribute(self.model, str(source.target))
        return value if isinstance(value, nn.Parameter) else None

    # ----------------------------------------------------------------------------------------------------- building

    def _quantized(self, node: fx.Node, value: Any) -> Any:
        """A tensor operand; a constant tensor passes a stub of its own first."""
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return value
        stub = QuantStub()
        stub.constant = True  # type: ignore[assignment]
        _log.info("%s: the constant %s is quantized by a generated stub", node.name, value.target)
        with self.graph.inserting_before(node):
            return self._call(node, "const", stub, (value,), {})

    def _stub_constants(self, node: fx.Node) -> None:
        """Constant operands of FloatFunctional calls that the user wrote."""
        if isinstance(self.modules.get(str(node.target)), FloatFunctional):
            node.args = tuple(self._quantized(node, a) for a in node.args)

    def _generate(self, node: fx.Node, kind: str, module: nn.Module) -> str:
        parent = owner_path(node)
        count = self.counts[parent, kind]
        self.counts[parent, kind] += 1
        path = f"{parent}_generated_{kind}_{count}"
        module.train(self.model.training)
        set_module(self.model, path, module)
        self.modules[path] = module
        return path

    def _call(
        self, node: fx.Node, kind: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> fx.Node:
        path = self._generate(node, kind, module)
        name = kwargs.get("method", node.name if kind != "const" else "const")
        made = self.graph.create_node("call_module", path, args, kwargs, name=name)
        made.meta = dict(node.meta)
        made.meta["hb_generated"] = owner_path(node)
        return made

    def _replace(self, node: fx.Node, value: fx.Node) -> None:
        node.replace_all_uses_with(value)
        name = node.name
        self.graph.erase_node(node)
        if "_generated_" in str(value.target):
            # The replacement keeps the name: hybrid mode names what it inserts after nodes.
            value.name = name


def _attribute(root: nn.Module, path: str) -> Any:
    parent, _, name = path.rpartition(".")
    return getattr(root.get_submodule(parent), name, None)


def _module_around(function: Any, weight: nn.Parameter, bias: nn.Parameter | None, given: dict[str, Any]) -> nn.Module:
    """A torch module that holds `weight` and `bias` and computes `function`."""
    module: Any
    if function is F.linear:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    elif function is F.conv2d:
        groups = given.get("groups", 1)
        shape: Any = (weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]))
        module = nn.Conv2d(shape[0], shape[1], shape[2], bias=bias is not None, device="meta", **given)
    else:
        groups = given.get("groups", 1)
        shape = (weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]))
        module = nn.ConvTranspose2d(shape[0], shape[1], shape[2], bias=bias is not None, device="meta", **given)
    module.weight = weight
    module.bias = bias
    return module


def rewrite(model: QuantGraphModule) -> QuantGraphModule:
    """Rewrite the graph of `model` in place; returns it."""
    Rewriter(model).run()
    return model

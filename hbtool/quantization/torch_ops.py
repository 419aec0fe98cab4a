"""What each torch function, method and module is to quantization: one table, read by trace, rewrite and placement.

A row says which spellings mean the operator, how its output gets a scale, and the ONNX operator it is exported as
(whose `hbtool.ops` entry says whether the BPU of a mapper-compiled hybrid model takes it).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.ao.nn.quantized import FloatFunctional as TorchFloatFunctional

from hbtool.nn import interpolate, lut, segment_lut
from hbtool.nn.functional_module import FloatFunctional
from hbtool.nn.intrinsic import Fused
from hbtool.quantization.stubs import DeQuantStub, QuantStub, TorchQuantStub


class Rule(Enum):
    """How an operator's output gets its scale."""

    OWN = "own observer"
    SAME = "the input's scale, integers pass through"
    ROUNDED = "the input's scale, computed values are rounded to it"
    NONE = "no scale (indices, booleans, sizes)"
    FLOAT = "float on the CPU"


@dataclass(frozen=True)
class TorchOp:
    """One operator in all its torch spellings.

    Attributes:
        name: as in generated module names (`_generated_<name>_0`).
        rule: how the output gets its scale.
        onnx: ONNX operator it is exported as, "" if it vanishes or becomes several.
        functions: torch functions that compute it.
        methods: tensor methods that compute it.
        modules: module classes that compute it.
        build: makes the module that replaces a function call, from the call's (args, kwargs) after the first tensor;
            None = the call stays a call.
        tensors: number of leading tensor arguments of the function.
    """

    name: str
    rule: Rule
    onnx: str = ""
    functions: tuple[Any, ...] = ()
    methods: tuple[str, ...] = ()
    modules: tuple[type, ...] = ()
    build: Callable[..., nn.Module] | None = None
    tensors: int = 1


def _m(name: str, onnx: str, *functions: Any, method: str = "", tensors: int = 2) -> TorchOp:
    """A function that a FloatFunctional computes."""
    methods = (method or name, f"{method or name}_", f"__{method or name}__")
    return TorchOp(name, Rule.OWN, onnx, functions, methods, (), None, tensors)


def _softmax(dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> nn.Module:
    return nn.Softmax(dim)


def _avg_pool(*args: Any, **kwargs: Any) -> nn.Module:
    return nn.AvgPool2d(*args, **kwargs)


def _leaky(negative_slope: float = 0.01, inplace: bool = False) -> nn.Module:
    return nn.LeakyReLU(negative_slope)


def _interpolate(
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> nn.Module:
    return interpolate.Interpolate(size, scale_factor, mode, align_corners, recompute_scale_factor)


def _unary(
    name: str, onnx: str, functions: tuple[Any, ...], modules: tuple[type, ...], build: Any = None, methods: Any = None
) -> TorchOp:
    made = build or (lambda *_, **__: modules[0]())
    return TorchOp(name, Rule.OWN, onnx, functions, (name, f"{name}_") if methods is None else methods, modules, made)


COMBINING = (
    _m("add", "Add", torch.add, operator.add, operator.iadd),
    _m("sub", "Sub", torch.sub, torch.subtract, operator.sub, operator.isub),
    _m("mul", "Mul", torch.mul, torch.multiply, operator.mul, operator.imul),
    _m("div", "Div", torch.div, torch.divide, torch.true_divide, operator.truediv, operator.itruediv),
    _m("matmul", "MatMul", torch.matmul, torch.bmm, operator.matmul),
    _m("maximum", "Max", torch.maximum),
    _m("minimum", "Min", torch.minimum),
    _m("cat", "Concat", torch.cat, torch.concat, torch.concatenate, tensors=1),
    _m("sum", "ReduceSum", torch.sum, tensors=1),
    _m("mean", "ReduceMean", torch.mean, tensors=1),
)
"""Functions that become a generated FloatFunctional."""

TABLED = (
    _unary("sigmoid", "Sigmoid", (torch.sigmoid, F.sigmoid), (nn.Sigmoid,)),
    _unary("tanh", "Tanh", (torch.tanh, F.tanh), (nn.Tanh,)),
    _unary("silu", "Swish", (F.silu,), (nn.SiLU,), lambda inplace=False: nn.SiLU()),
    _unary("gelu", "Gelu", (F.gelu,), (nn.GELU,), lambda approximate="none": nn.GELU(approximate)),
    _unary("mish", "Mish", (F.mish,), (nn.Mish,), lambda inplace=False: nn.Mish()),
    _unary("hardswish", "HardSwish", (F.hardswish,), (nn.Hardswish,), lambda inplace=False: nn.Hardswish()),
    _unary("hardsigmoid", "HardSigmoid", (F.hardsigmoid,), (nn.Hardsigmoid,), lambda inplace=False: nn.Hardsigmoid()),
    _unary("leaky_relu", "LeakyRelu", (F.leaky_relu, F.leaky_relu_), (nn.LeakyReLU,), _leaky),
    _unary("elu", "Elu", (F.elu, F.elu_), (nn.ELU,), lambda alpha=1.0, inplace=False: nn.ELU(alpha)),
    _unary("selu", "Selu", (torch.selu, F.selu), (nn.SELU, lut.Selu), lambda inplace=False: nn.SELU()),
    _unary("softplus", "Softplus", (F.softplus,), (nn.Softplus,), lambda beta=1.0, threshold=20.0: nn.Softplus(beta)),
    _unary("log", "Log", (torch.log,), (lut.HardLog,)),
    _unary("exp", "Exp", (torch.exp,), (lut.Exp,)),
    _unary("pow", "Pow", (torch.pow, operator.pow), (lut.Pow,), lut.Pow, ("pow", "__pow__", "square")),
    *(
        _unary(name, name.title(), (getattr(torch, name),), (getattr(lut, name.title()),))
        for name in [
            "acos",
            "acosh",
            "asin",
            "asinh",
            "atan",
            "atanh",
            "ceil",
            "cos",
            "cosh",
            "erf",
            "floor",
            "reciprocal",
            "sin",
            "sinh",
            "sqrt",
            "tan",
        ]
    ),
    TorchOp("segment_lut", Rule.OWN, "", (), (), (segment_lut.SegmentLUT, segment_lut.LookUpTable)),
    TorchOp("prelu", Rule.OWN, "PRelu", (), (), (nn.PReLU,)),
    _unary("softmax", "Softmax", (F.softmax, torch.softmax), (nn.Softmax,), _softmax, ("softmax",)),
    _unary("avg_pool2d", "AveragePool", (F.avg_pool2d,), (nn.AvgPool2d, nn.AvgPool1d), _avg_pool, ()),
    _unary(
        "adaptive_avg_pool2d",
        "GlobalAveragePool",
        (F.adaptive_avg_pool2d,),
        (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d),
        lambda output_size: nn.AdaptiveAvgPool2d(output_size),
        (),
    ),
)
"""Functions of one tensor that own a scale; a call becomes a generated module."""

WEIGHTED = (
    TorchOp("conv", Rule.OWN, "Conv", (), (), (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    TorchOp("conv_transpose", Rule.OWN, "ConvTranspose", (), (), (nn.ConvTranspose2d,)),
    TorchOp("linear", Rule.OWN, "Gemm", (), (), (nn.Linear,)),
    TorchOp("batch_norm", Rule.OWN, "BatchNormalization", (), (), (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
    TorchOp("layer_norm", Rule.OWN, "LayerNormalization", (), (), (nn.LayerNorm,)),
    TorchOp("float_functional", Rule.OWN, "", (), (), (FloatFunctional, TorchFloatFunctional)),
    TorchOp("quant", Rule.OWN, "", (), (), (QuantStub, TorchQuantStub)),
)
"""Modules that own a scale and have no generated form."""

_RESHAPES = "reshape view flatten squeeze unsqueeze contiguous detach clone"
_MOVES = (
    "permute transpose expand expand_as repeat tile t swapaxes movedim flip roll index_select gather repeat_interleave"
)
_COMPARISONS = ("eq", "ge", "gt", "le", "lt", "greater", "greater_equal", "less", "less_equal", "ne")
_PARTS = "split chunk unbind tensor_split narrow"

PASSING = (
    TorchOp("relu", Rule.SAME, "Relu", (F.relu, F.relu_, torch.relu, torch.relu_), ("relu", "relu_"), (nn.ReLU,)),
    TorchOp("relu6", Rule.SAME, "Clip", (F.relu6,), (), (nn.ReLU6,)),
    TorchOp("clamp", Rule.SAME, "Clip", (torch.clamp, torch.clip, F.hardtanh), ("clamp", "clip"), (nn.Hardtanh,)),
    TorchOp("abs", Rule.SAME, "Abs", (torch.abs, operator.abs), ("abs",)),
    TorchOp(
        "max_pool2d",
        Rule.SAME,
        "MaxPool",
        (F.max_pool2d, F.max_pool1d, torch.max_pool2d),
        (),
        (nn.MaxPool2d, nn.MaxPool1d),
    ),
    TorchOp("amax", Rule.SAME, "ReduceMax", (torch.amax,), ("amax",)),
    TorchOp("amin", Rule.SAME, "ReduceMin", (torch.amin,), ("amin",)),
    TorchOp("max", Rule.SAME, "ReduceMax", (torch.max,), ("max",)),
    TorchOp("min", Rule.SAME, "ReduceMin", (torch.min,), ("min",)),
    TorchOp("topk", Rule.SAME, "TopK", (torch.topk,), ("topk",)),
    TorchOp(
        "reshape",
        Rule.SAME,
        "Reshape",
        tuple(getattr(torch, n) for n in ("reshape", "flatten", "squeeze", "unsqueeze", "clone")),
        tuple(_RESHAPES.split()),
        (nn.Flatten, nn.Unflatten),
    ),
    TorchOp(
        "move",
        Rule.SAME,
        "Transpose",
        tuple(
            getattr(torch, n)
            for n in [
                "permute",
                "transpose",
                "tile",
                "t",
                "swapaxes",
                "movedim",
                "flip",
                "roll",
                "index_select",
                "gather",
            ]
        ),
        tuple(_MOVES.split()),
    ),
    TorchOp("part", Rule.SAME, "Slice", tuple(getattr(torch, n) for n in _PARTS.split()), tuple(_PARTS.split())),
    TorchOp("getitem", Rule.SAME, "Slice", (operator.getitem,)),
    TorchOp(
        "pad",
        Rule.SAME,
        "Pad",
        (F.pad,),
        (),
        (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReplicationPad2d, nn.ConstantPad1d),
    ),
    TorchOp(
        "shuffle",
        Rule.SAME,
        "DepthToSpace",
        (F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle),
        (),
        (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    ),
    TorchOp("masked_fill", Rule.SAME, "Where", (torch.masked_fill,), ("masked_fill",)),
    TorchOp(
        "nothing",
        Rule.SAME,
        "Identity",
        (F.dropout, F.dropout2d),
        (),
        (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d),
    ),
    TorchOp(
        "interpolate",
        Rule.ROUNDED,
        "Resize",
        (F.interpolate, F.upsample),
        (),
        (interpolate.Interpolate, nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d),
        _interpolate,
    ),
    TorchOp("grid_sample", Rule.ROUNDED, "GridSample", (F.grid_sample,)),
)
"""Operators that keep their input's scale."""

SCALELESS = (
    TorchOp(
        "compare",
        Rule.NONE,
        "Greater",
        (
            *(getattr(torch, n) for n in _COMPARISONS),
            operator.eq,
            operator.ge,
            operator.gt,
            operator.le,
            operator.lt,
            operator.ne,
        ),
        (*_COMPARISONS, "__eq__", "__ge__", "__gt__", "__le__", "__lt__"),
    ),
    TorchOp("argmax", Rule.NONE, "ArgMax", (torch.argmax,), ("argmax",)),
    TorchOp("argmin", Rule.NONE, "ArgMin", (torch.argmin,), ("argmin",)),
    TorchOp("size", Rule.NONE, "", (getattr,), ("size", "dim", "numel", "ndimension", "__len__")),
    TorchOp("dequant", Rule.FLOAT, "", (), (), (DeQuantStub,)),
)
"""Operators without a quantized result."""

ALL = (*COMBINING, *TABLED, *WEIGHTED, *PASSING, *SCALELESS)

_BY_FUNCTION = {f: op for op in ALL for f in op.functions}
_BY_METHOD = {m: op for op in ALL for m in op.methods}

UNKNOWN = TorchOp("unknown", Rule.FLOAT)
"""Anything the table does not hold: float, on the CPU."""


def of_module(module: nn.Module) -> TorchOp:
    """The operator a leaf module computes (sub-classes count as their base, fused modules as their layer)."""
    if isinstance(module, Fused):
        return of_module(module.conv)
    for base in type(module).__mro__:
        for op in ALL:
            if base in op.modules:
                return op
    return UNKNOWN


def passes_on(function: Any) -> bool:
    """Whether a torch function or tensor method gives values of its first tensor's scale."""
    op = _BY_FUNCTION.get(function) or _BY_METHOD.get(getattr(function, "__name__", ""), UNKNOWN)
    return op.rule in (Rule.SAME, Rule.ROUNDED)


def of_node(node: fx.Node, modules: dict[str, nn.Module]) -> TorchOp | None:
    """The operator of a graph node; None for inputs, outputs and attributes."""
    if node.op == "call_function":
        return _BY_FUNCTION.get(node.target, UNKNOWN)
    if node.op == "call_method":
        return _BY_METHOD.get(str(node.target), UNKNOWN)
    if node.op == "call_module":
        return of_module(modules[str(node.target)])
    return None

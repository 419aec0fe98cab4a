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

from hbtool.nn import correlation, grid_sample, interpolate, lut, same_scale, segment_lut
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
        tensors: number of leading tensor arguments, of the function and of the module that replaces it.
        int8_in: operands that the plugin's table for bayes has in int8 only.
        int8_out: whether it has the result in int8 only.
    """

    name: str
    rule: Rule
    onnx: str = ""
    functions: tuple[Any, ...] = ()
    methods: tuple[str, ...] = ()
    modules: tuple[type, ...] = ()
    build: Callable[..., nn.Module] | None = None
    tensors: int = 1
    int8_in: tuple[int, ...] = ()
    int8_out: bool = False


def _m(name: str, onnx: str, *functions: Any, tensors: int = 2, int8_in: tuple[int, ...] = ()) -> TorchOp:
    """A function that a FloatFunctional computes."""
    methods = () if tensors == 3 else (name, f"{name}_", f"__{name}__")
    return TorchOp(name, Rule.OWN, onnx, functions, methods, (), None, tensors, int8_in)


def _softmax(dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> nn.Module:
    return nn.Softmax(dim)


def _avg_pool(*args: Any, **kwargs: Any) -> nn.Module:
    return nn.AvgPool2d(*args, **kwargs)


def _leaky(negative_slope: float = 0.01, inplace: bool = False) -> nn.Module:
    return nn.LeakyReLU(negative_slope)


def _clamp(min: Any = None, max: Any = None, min_val: Any = None, max_val: Any = None, **_: Any) -> nn.Module:
    low, high = (b if a is None else a for a, b in ((min, min_val), (max, max_val)))
    return same_scale.Clamp(low, high)


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
    name: str,
    onnx: str,
    functions: tuple[Any, ...],
    modules: tuple[type, ...],
    build: Any = None,
    methods: Any = None,
    **int8: Any,
) -> TorchOp:
    made = build or (lambda *_, **__: modules[0]())
    spelled = (name, f"{name}_") if methods is None else methods
    return TorchOp(name, Rule.OWN, onnx, functions, spelled, modules, made, **int8)


_INT8: dict[str, Any] = {"int8_in": (0,), "int8_out": True}

COMBINING = (
    _m("add", "Add", torch.add, operator.add, operator.iadd),
    _m("sub", "Sub", torch.sub, torch.subtract, operator.sub, operator.isub),
    _m("mul", "Mul", torch.mul, torch.multiply, operator.mul, operator.imul),
    _m("div", "Div", torch.div, torch.divide, torch.true_divide, operator.truediv, operator.itruediv),
    _m("matmul", "MatMul", torch.matmul, torch.bmm, operator.matmul, int8_in=(0, 1)),
    _m("maximum", "Max", torch.maximum),
    _m("minimum", "Min", torch.minimum),
    _m("where", "Where", torch.where, tensors=3),
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
    _unary("softsign", "Softsign", (F.softsign,), (nn.Softsign,)),
    _unary("celu", "Celu", (F.celu,), (nn.CELU,), lambda alpha=1.0, inplace=False: nn.CELU(alpha)),
    _unary("logsigmoid", "Log", (F.logsigmoid,), (nn.LogSigmoid,)),
    _unary("log", "Log", (torch.log,), (lut.HardLog,)),
    _unary("exp", "Exp", (torch.exp,), (lut.Exp,)),
    _unary("pow", "Pow", (torch.pow, operator.pow, torch.square), (lut.Pow,), lut.Pow, ("pow", "__pow__", "square")),
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
            "round",
            "rsqrt",
            "sign",
            "sin",
            "sinh",
            "sqrt",
            "tan",
        ]
    ),
    TorchOp("segment_lut", Rule.OWN, "", (), (), (segment_lut.SegmentLUT, segment_lut.LookUpTable)),
    TorchOp("prelu", Rule.OWN, "PRelu", (), (), (nn.PReLU,)),
    _unary("softmax", "Softmax", (F.softmax, torch.softmax), (nn.Softmax,), _softmax, ("softmax",), int8_in=(0,)),
    _unary("avg_pool2d", "AveragePool", (F.avg_pool2d,), (nn.AvgPool2d, nn.AvgPool1d), _avg_pool, (), **_INT8),
    _unary(
        "adaptive_avg_pool2d",
        "GlobalAveragePool",
        (F.adaptive_avg_pool2d,),
        (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d),
        lambda output_size: nn.AdaptiveAvgPool2d(output_size),
        (),
        **_INT8,
    ),
)
"""Functions of one tensor that own a scale; a call becomes a generated module."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

WEIGHTED = (
    TorchOp("conv", Rule.OWN, "Conv", (), (), (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    TorchOp("conv_transpose", Rule.OWN, "ConvTranspose", (), (), (nn.ConvTranspose2d,), **_INT8),
    TorchOp("linear", Rule.OWN, "Gemm", (), (), (nn.Linear,), **_INT8),
    TorchOp("batch_norm", Rule.OWN, "BatchNormalization", (), (), _NORMS, **_INT8),
    TorchOp("layer_norm", Rule.OWN, "LayerNormalization", (), (), (nn.LayerNorm,), int8_in=(0,)),
    TorchOp("group_norm", Rule.OWN, "GroupNormalization", (), (), (nn.GroupNorm,)),
    TorchOp("instance_norm", Rule.OWN, "InstanceNormalization", (), (), (nn.InstanceNorm1d, nn.InstanceNorm2d)),
    TorchOp("rms_norm", Rule.OWN, "RMSNormalization", (), (), (nn.RMSNorm,)),
    TorchOp("correlation", Rule.OWN, "", (), (), (correlation.Correlation,), int8_in=(0, 1), int8_out=True),
    TorchOp("grid_sample_offsets", Rule.OWN, "GridSample", (), (), (grid_sample.GridSample,), **_INT8),
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
    TorchOp("relu6", Rule.ROUNDED, "Clip", (F.relu6,), (), (nn.ReLU6,), lambda inplace=False: nn.ReLU6()),
    TorchOp(
        "clamp",
        Rule.ROUNDED,
        "Clip",
        (torch.clamp, torch.clip, F.hardtanh),
        ("clamp", "clip", "clamp_", "clip_"),
        (same_scale.Clamp, nn.Hardtanh),
        _clamp,
    ),
    TorchOp(
        "clamp_min", Rule.ROUNDED, "Clip", (torch.clamp_min,), ("clamp_min",), (), lambda min: same_scale.Clamp(min)
    ),
    TorchOp(
        "clamp_max",
        Rule.ROUNDED,
        "Clip",
        (torch.clamp_max,),
        ("clamp_max",),
        (),
        lambda max: same_scale.Clamp(None, max),
    ),
    TorchOp("abs", Rule.ROUNDED, "Abs", (torch.abs, operator.abs), ("abs", "abs_"), (same_scale.Abs,), same_scale.Abs),
    TorchOp(
        "max_pool2d",
        Rule.SAME,
        "MaxPool",
        (F.max_pool2d, F.max_pool1d, torch.max_pool2d),
        (),
        (nn.MaxPool2d, nn.MaxPool1d),
        **_INT8,
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
        (
            nn.ZeroPad2d,
            nn.ConstantPad2d,
            nn.ReplicationPad2d,
            nn.ConstantPad1d,
            nn.ReplicationPad1d,
        ),
    ),
    TorchOp(
        "shuffle",
        Rule.SAME,
        "DepthToSpace",
        (F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle),
        (),
        (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    ),
    TorchOp(
        "masked_fill",
        Rule.ROUNDED,
        "Where",
        (torch.masked_fill,),
        ("masked_fill", "masked_fill_"),
        (same_scale.MaskedFill,),
        same_scale.MaskedFill,
        tensors=2,
        **_INT8,
    ),
    TorchOp(
        "fill_unselected",
        Rule.ROUNDED,
        "Where",
        (same_scale.fill_unselected,),
        (),
        (),
        lambda value: same_scale.MaskedFill(value, keep=True),
        tensors=2,
    ),
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
        **_INT8,
    ),
    TorchOp(
        "grid_sample",
        Rule.ROUNDED,
        "GridSample",
        (F.grid_sample,),
        (),
        (grid_sample.NormalizedGridSample,),
        grid_sample.NormalizedGridSample,
        tensors=2,
        **_INT8,
    ),
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


def combining(method: str) -> TorchOp:
    """The operator that a method of FloatFunctional computes."""
    return next(op for op in COMBINING if op.name == method.split("_")[0])


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

"""Float operators of the BPU as modules, usable before prepare; `nn.qat` and `nn.intrinsic` hold the prepared forms.

Names load on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "hbtool.nn.lut": (
        "Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Div Erf Exp Floor HardLog Pow Reciprocal Round Rsqrt Selu Sign "
        "Sin Sinh Sqrt Tan"
    ),
    "hbtool.nn.interpolate": "Interpolate",
    "hbtool.nn.functional_module": "FloatFunctional Matmul",
    "hbtool.nn.segment_lut": "LookUpTable SegmentLUT",
    "hbtool.nn.grid_sample": "GridSample",
    "hbtool.nn.anchors": "AnchorGenerator BaseGridGenerator",
    "hbtool.nn.attention": "MultiheadAttention",
    "hbtool.nn.bev": "BevPoolV2 MultiScaleDeformableAttention",
    "hbtool.nn.detection": "DetectionPostProcess DetectionPostProcessV1 RcnnPostProcess",
    "hbtool.nn.filter": "Filter FilterModule PointPillarsPreProcess",
    "hbtool.nn.recurrent": "GRUCell LSTMCell",
    "hbtool.nn.roi_align": "MultiScaleRoIAlign RoIAlign",
    "torch.nn": "GroupNorm LayerNorm RMSNorm Softmax",
    "hbtool.nn.correlation": "Correlation",
    "hbtool.nn.point_pillars": "PointPillarsScatter",
    "hbtool.nn.color": "BgrToYuv444",
}

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
_SUBMODULES = ("functional", "intrinsic", "qat", "quantized")

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)

"""Colour conversions of image batches, as training preprocessing and as the first step of a deployed model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hbtool.dtype import qint8
from hbtool.errors import UsageError
from hbtool.numerics import color
from hbtool.qtensor import QTensor
from hbtool.quantization.straight_through import channel_shape

_SWINGS = {"full": "regular", "studio": "bt601_video"}


def _swing(swing: str) -> str:
    if swing not in _SWINGS:
        raise UsageError(f"unknown swing {swing!r}.", hint="Use 'full' or 'studio'.")
    return _SWINGS[swing]


def _converted(rgb: Tensor, swing: str) -> Tensor:
    """RGB to YUV 4:4:4, [..., 3, H, W], 0..255; differentiable."""
    probe = torch.eye(3, dtype=torch.float64).reshape(3, 3, 1, 1).numpy()
    space = _swing(swing)
    zero = torch.from_numpy(color.rgb_to_yuv444(0 * probe[:1], space)).to(rgb)
    columns = torch.from_numpy(color.rgb_to_yuv444(probe, space)).to(rgb) - zero
    matrix = columns.reshape(3, 3).T
    return torch.einsum("ij,...jhw->...ihw", matrix, rgb.float()) + zero.reshape(3, 1, 1)


def bgr2rgb(input: Tensor) -> Tensor:
    """Channels reversed, [N, 3, H, W]."""
    return input.flip(-3)


def rgb2bgr(input: Tensor) -> Tensor:
    """Channels reversed, [N, 3, H, W]."""
    return input.flip(-3)


def rgb2gray(input: Tensor) -> Tensor:
    """BT.601 luma, [N, 1, H, W], 0..255."""
    return _converted(input, "full")[..., :1, :, :]


def bgr2gray(input: Tensor) -> Tensor:
    """BT.601 luma, [N, 1, H, W], 0..255."""
    return rgb2gray(bgr2rgb(input))


def rgb2centered_gray(input: Tensor) -> Tensor:
    """BT.601 luma minus 128."""
    return rgb2gray(input) - 128


def bgr2centered_gray(input: Tensor) -> Tensor:
    """BT.601 luma minus 128."""
    return bgr2gray(input) - 128


def rgb2yuv(input: Tensor, swing: str = "studio") -> Tensor:
    """RGB to YUV 4:4:4, chroma centred at 128; `swing` is `studio` (16..235) or `full` (0..255)."""
    return _converted(input, swing)


def bgr2yuv(input: Tensor, swing: str = "studio") -> Tensor:
    """BGR to YUV 4:4:4, chroma centred at 128."""
    return rgb2yuv(bgr2rgb(input), swing)


def rgb2centered_yuv(input: Tensor, swing: str = "studio") -> Tensor:
    """RGB to YUV minus 128, as the camera delivers it (-128..127)."""
    return rgb2yuv(input, swing) - 128


def bgr2centered_yuv(input: Tensor, swing: str = "studio") -> Tensor:
    """BGR to YUV minus 128."""
    return bgr2yuv(input, swing) - 128


def centered_yuv2rgb(
    input: QTensor,
    swing: str = "studio",
    mean: float | Sequence[float] | Tensor = (128.0,),
    std: float | Sequence[float] | Tensor = (128.0,),
    q_scale: float | Tensor = 1.0 / 128.0,
) -> QTensor:
    """Camera integers (YUV minus 128, scale 1) to the normalized RGB integers a network was trained on.

    Args:
        input: QTensor [N, 3, H, W] of int8.
        swing: `studio` or `full`.
        mean: subtracted from 0..255 RGB, one value or three.
        std: divided by, one value or three.
        q_scale: scale of the result.

    Returns:
        int8 QTensor: saturate(round_half_even((rgb - mean) / std / q_scale)).
    """
    yuv = input.int_repr().float() + 128
    rgb = torch.from_numpy(color.yuv444_to_rgb(yuv.cpu().numpy(), _swing(swing))).to(yuv.device)
    shift, spread = (torch.as_tensor(v, dtype=torch.float32).reshape(-1).to(rgb.device) for v in (mean, std))
    real = (rgb - channel_shape(shift, rgb.dim(), rgb.dim() - 3)) / channel_shape(spread, rgb.dim(), rgb.dim() - 3)
    scale = torch.as_tensor(q_scale, dtype=torch.float32).reshape(-1).to(rgb.device)
    integers = (real / scale).round().clamp(qint8.min, qint8.max).to(torch.int8)
    return QTensor(integers, scale, None, qint8)


def centered_yuv2bgr(
    input: QTensor,
    swing: str = "studio",
    mean: float | Sequence[float] | Tensor = (128.0,),
    std: float | Sequence[float] | Tensor = (128.0,),
    q_scale: float | Tensor = 1.0 / 128.0,
) -> QTensor:
    """As `centered_yuv2rgb`, channels in BGR order (`mean` and `std` as well)."""
    shift, spread = (torch.as_tensor(v, dtype=torch.float32).reshape(-1).flip(0) for v in (mean, std))
    rgb = centered_yuv2rgb(input, swing, shift, spread, q_scale)
    return QTensor(rgb.int_repr().flip(-3), rgb.scale, None, qint8)

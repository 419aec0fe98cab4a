"""Colour conversion as the first layer of a float model."""

from __future__ import annotations

from torch import Tensor, nn

from hbtool.functional import bgr2yuv, rgb2yuv


class BgrToYuv444(nn.Module):
    """BGR to YUV 4:4:4, full swing.

    Args:
        channel_reversal: the input is RGB.
    """

    def __init__(self, channel_reversal: bool = False) -> None:
        super().__init__()
        self.channel_reversal = channel_reversal

    def forward(self, x: Tensor) -> Tensor:
        """YUV [N, 3, H, W], 0..255, chroma centred at 128."""
        return rgb2yuv(x, "full") if self.channel_reversal else bgr2yuv(x, "full")

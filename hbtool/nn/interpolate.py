"""Image resizing as a module."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

Size = int | tuple[int, int] | None
Factor = float | tuple[float, float] | None


class Interpolate(nn.Module):
    """torch.nn.functional.interpolate with its settings fixed.

    Args:
        size: output height and width.
        scale_factor: or output size over input size.
        mode: `nearest` or `bilinear`.
        align_corners: as torch.
        recompute_scale_factor: as torch.
    """

    def __init__(
        self,
        size: Size = None,
        scale_factor: Factor = None,
        mode: str = "bilinear",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.scale_factor = scale_factor
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, x: Tensor) -> Tensor:
        """The resized image, NCHW."""
        return F.interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        """The settings."""
        what = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{what}, mode={self.mode}, align_corners={self.align_corners}"

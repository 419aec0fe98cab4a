"""Correlation of two feature maps over displacements (FlowNet's layer)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbtool.errors import UsageError


class Correlation(nn.Module):
    """Mean over channels and kernel of data1 times data2 displaced.

    Args:
        kernel_size: odd patch size.
        max_displacement: largest displacement in pixels.
        stride1: step of the output positions.
        stride2: step of the displacements.
        pad_size: zero padding of both inputs.
        is_multiply: must be True.
    """

    def __init__(
        self,
        kernel_size: int = 1,
        max_displacement: int = 1,
        stride1: int = 1,
        stride2: int = 1,
        pad_size: int = 0,
        is_multiply: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or not is_multiply:
            raise UsageError("Correlation needs an odd kernel_size and is_multiply=True.", where="Correlation")
        self.kernel_size, self.max_displacement = kernel_size, max_displacement
        self.stride1, self.stride2, self.pad_size = stride1, stride2, pad_size

    def forward(self, data1: Tensor, data2: Tensor) -> Tensor:
        """[N, D*D, H_out, W_out] for D = 2 * (max_displacement // stride2) + 1 displacements per axis."""
        return torch.cat(self.maps(data1, data2, lambda one, two: (one * two).mean(1, keepdim=True)), 1)

    def maps(self, data1: Tensor, data2: Tensor, mean_product: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """One map [N, 1, H_out, W_out] for each displacement, row by row.

        Args:
            data1: [N, C, H, W].
            data2: the same shape; it is the one that is displaced.
            mean_product: mean over channels of the product of two tensors, which stay with size 1.
        """
        a, b = (F.pad(x, [self.pad_size] * 4) for x in (data1, data2))
        steps = self.max_displacement // self.stride2
        half, reach = self.kernel_size // 2, self.max_displacement
        height, width = a.shape[2:]
        rows, columns = height - 2 * (reach + half), width - 2 * (reach + half)
        if rows < 1 or columns < 1:
            raise UsageError(
                f"an input of {height}x{width} is too small for displacements of {reach}.",
                where="Correlation",
                hint="Use a larger pad_size.",
            )
        one, maps = a[:, :, reach : height - reach, reach : width - reach], []
        for dy in range(-steps, steps + 1):
            for dx in range(-steps, steps + 1):
                top, left = reach + dy * self.stride2, reach + dx * self.stride2
                two = b[:, :, top : top + rows + 2 * half, left : left + columns + 2 * half]
                product = mean_product(one, two)
                if self.kernel_size > 1:
                    product = F.avg_pool2d(product, self.kernel_size, self.stride1)
                elif self.stride1 > 1:
                    product = product[:, :, :: self.stride1, :: self.stride1]
                maps.append(product)
        return maps

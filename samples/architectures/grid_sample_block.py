"""A spatial transformer: one branch predicts a field of offsets, the other is sampled there, both are added."""

from __future__ import annotations

import torch
from export import main
from torch import Tensor, nn
from torch.nn import functional

SIDE = 16
INPUTS = {"image": (1, 3, SIDE, SIDE)}


class GridSampleBlock(nn.Module):
    """Offsets of at most a quarter of the image, bilinear sampling."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        """Build the two branches."""
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
        self.offsets = nn.Sequential(nn.Conv2d(width, 2, 3, padding=1), nn.Tanh())
        self.classify = nn.Conv2d(width, classes, 1)
        steps = (torch.arange(SIDE) * 2 + 1) / SIDE - 1
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("grid", torch.stack([columns, rows], -1)[None])

    def forward(self, image: Tensor) -> Tensor:
        """Class scores [1, classes, height, width]."""
        x = self.features(image)
        where = self.grid + 0.25 * self.offsets(x).permute(0, 2, 3, 1)
        moved = functional.grid_sample(x, where, mode="bilinear", padding_mode="zeros", align_corners=False)
        return self.classify(x + moved)


build = GridSampleBlock

if __name__ == "__main__":
    main(build, INPUTS, __doc__)

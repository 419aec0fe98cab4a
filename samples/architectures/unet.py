"""A small UNet: transposed convolutions upwards on one side, bilinear resizing on the other, concatenated skips."""

from __future__ import annotations

import torch
from export import main
from torch import Tensor, nn

INPUTS = {"image": (1, 3, 64, 64)}


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with normalization and ReLU."""
    layers: list[nn.Module] = []
    for first in (inputs, outputs):
        layers += [nn.Conv2d(first, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Three levels, five classes per pixel."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        """Build the levels."""
        super().__init__()
        self.enter, self.down1, self.down2 = block(3, width), block(width, 2 * width), block(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.up1 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.join2, self.join1 = block(4 * width, 2 * width), block(3 * width, width)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores [1, classes, height, width]."""
        fine = self.enter(image)
        middle = self.down1(self.pool(fine))
        coarse = self.down2(self.pool(middle))
        middle = self.join2(torch.cat([self.up2(coarse), middle], 1))
        return self.classify(self.join1(torch.cat([self.up1(middle), fine], 1)))


build = UNet

if __name__ == "__main__":
    main(build, INPUTS, __doc__)

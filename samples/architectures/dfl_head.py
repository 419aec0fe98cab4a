"""The box head of YOLOv8 with its distribution focal loss decoding: Softmax over 16 bins, then their expectation."""

from __future__ import annotations

import torch
from export import main
from torch import Tensor, nn

BINS = 16
INPUTS = {"image": (1, 3, 64, 64)}


class DflHead(nn.Module):
    """Features at two strides, box distributions and class scores, decoded distances to four sides."""

    def __init__(self, classes: int = 4) -> None:
        """Build the backbone of three convolutions and a head for each stride."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.SiLU())
        self.boxes = nn.ModuleList(nn.Conv2d(32, 4 * BINS, 1) for _ in range(2))
        self.scores = nn.ModuleList(nn.Conv2d(32, classes, 1) for _ in range(2))
        self.expectation = nn.Conv2d(BINS, 1, 1, bias=False)
        self.expectation.weight.data[:] = torch.arange(BINS, dtype=torch.float32).reshape(1, BINS, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Distances [1, 4 + classes, anchors]."""
        fine = self.stem(image)
        maps = [fine, self.down(fine)]
        boxes = torch.cat([head(x).flatten(2) for head, x in zip(self.boxes, maps, strict=True)], 2)
        scores = torch.cat([head(x).flatten(2) for head, x in zip(self.scores, maps, strict=True)], 2)
        bins = boxes.reshape(1, 4, BINS, -1).transpose(2, 1).softmax(1)
        return torch.cat([self.expectation(bins).reshape(1, 4, -1), scores.sigmoid()], 1)


build = DflHead

if __name__ == "__main__":
    main(build, INPUTS, __doc__)

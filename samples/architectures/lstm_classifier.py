"""An LSTM over the columns of an image, as text recognizers have it: convolutions, a sequence, scores per step."""

from __future__ import annotations

from export import main
from torch import Tensor, nn

INPUTS = {"image": (1, 1, 16, 48)}


class LstmClassifier(nn.Module):
    """Two convolutions, a bidirectional LSTM, a linear layer per step."""

    def __init__(self, width: int = 16, hidden: int = 12, classes: int = 11) -> None:
        """Build the layers."""
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(width, width, (4, 1)), nn.ReLU()
        )
        self.sequence = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.classify = nn.Linear(2 * hidden, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores [1, steps, classes]."""
        columns = self.features(image).squeeze(2).transpose(1, 2)
        mixed, _ = self.sequence(columns)
        return self.classify(mixed)


build = LstmClassifier

if __name__ == "__main__":
    main(build, INPUTS, __doc__)

"""The numbers that decide how long something takes on the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["matrix", "vector", "move", "dma"]


@dataclass(frozen=True)
class Work:
    """What the machine has to do for one operator or one tile of it; the target turns it into cycles.

    Attributes:
        unit: `matrix` (multiply-accumulate array), `vector` (elementwise, table, pooling, copies), `move` (addresses
            only) or `dma`.
        rows: independent, neighbouring output positions (W, or M of a matrix product).
        repeats: how many such rows there are (N * H).
        outputs: output channels of one group.
        inputs: input channels of one group.
        taps: kernel positions (1 for a matrix product).
        groups: groups (depthwise: as many as channels).
        vector_ops: elementwise operations of the vector unit.
        bits: width of the activations.
        row_taps: kernel positions along the row.
    """

    unit: Unit
    rows: int = 0
    repeats: int = 0
    outputs: int = 0
    inputs: int = 0
    taps: int = 1
    groups: int = 1
    vector_ops: int = 0
    bits: int = 8
    row_taps: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations, padding not counted."""
        return self.rows * self.repeats * self.outputs * self.inputs * self.taps * self.groups


@dataclass(frozen=True)
class Job(Work):
    """What one instruction has to do.

    Attributes:
        loaded_bytes: bytes read from DDR, padding included.
        stored_bytes: bytes written to DDR, padding included.
        channels: channels of the tensor that the vector unit works on; 0 where its lanes are full.
    """

    loaded_bytes: int = 0
    stored_bytes: int = 0
    channels: int = 0

    @classmethod
    def of(cls, work: Work, channels: int = 0) -> Job:
        """The instruction that does `work`; what only moves is copied by the vector unit."""
        return cls(**vars(replace(work, unit="matrix" if work.unit == "matrix" else "vector")), channels=channels)


def channels_of(shape: Sequence[int], innermost: int | None = None) -> int:
    """Elements side by side in memory: of axis `innermost`, or as usual axis 1 of feature maps, else the last axis."""
    if not shape:
        return 1
    usual = 1 if len(shape) >= 4 else -1
    return shape[usual if innermost is None else innermost]

"""The numbers of one instruction that decide how long it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """What one instruction has to do.

    Attributes:
        unit: `matrix` (multiply-accumulate array), `vector` (elementwise, table, pooling, copies) or `dma`.
        rows: neighbouring output positions (W, or M of a matrix product).
        repeats: how many such rows there are (N * H).
        outputs: output channels of one group.
        inputs: input channels of one group.
        taps: kernel positions.
        groups: groups (depthwise: as many as channels).
        vector_ops: elementwise operations.
        bits: width of the activations.
        loaded_bytes: bytes read from DDR, padding included.
        stored_bytes: bytes written to DDR, padding included.
    """

    unit: str
    rows: int = 0
    repeats: int = 0
    outputs: int = 0
    inputs: int = 0
    taps: int = 1
    groups: int = 1
    vector_ops: int = 0
    bits: int = 8
    loaded_bytes: int = 0
    stored_bytes: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations, padding not counted."""
        return self.rows * self.repeats * self.outputs * self.inputs * self.taps * self.groups

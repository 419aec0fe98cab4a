"""The program of one BPU segment: memory, and instructions for in-order engines with explicit dependencies.

The machine: every core has four engines that run at the same time, each in the order of the program: `load` (DDR to
on-chip memory), `store` (back), `matrix` (multiply-accumulate array) and `vector` (everything else, and copies inside
on-chip memory). The on-chip memories of the cores form one address space. An instruction starts when the one before it
on its engine and every instruction in `after` are finished; nothing else orders them. Function calls run one after
another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hbtool.target.job import Job

Engine = Literal["load", "store", "matrix", "vector"]
ENGINES: tuple[Engine, ...] = get_args(Engine)

RegionKind = Literal["input", "output", "weights", "spill"]
REGION_KINDS: tuple[RegionKind, ...] = get_args(RegionKind)

ITEM_BYTES: Mapping[str, int] = {"int8": 1, "int16": 2, "int32": 4, "int64": 8, "float32": 4}
"""Element types of a program."""

ON_CHIP = 0
"""`View.space` of on-chip memory; DDR region r is space r + 1."""

COPY = "copy"
"""Operation of loads, stores and on-chip copies: the bytes of the input view go to the output view."""


@dataclass(frozen=True)
class View:
    """Elements in a memory.

    Attributes:
        space: `ON_CHIP`, or 1 + number of the DDR region.
        offset: first element, in bytes from the start of the space.
        type: element type (a key of `ITEM_BYTES`).
        shape: sizes per axis.
        strides: bytes per step, per axis (may be negative).
    """

    space: int
    offset: int
    type: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return ITEM_BYTES[self.type]

    @property
    def span(self) -> tuple[int, int]:
        """(first, past the last) byte touched; empty views touch nothing."""
        low = high = self.offset
        for size, stride in zip(self.shape, self.strides, strict=True):
            if size == 0:
                return self.offset, self.offset
            reach = (size - 1) * stride
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high + self.item_bytes


@dataclass(frozen=True)
class Region:
    """A stretch of DDR.

    Attributes:
        name: of the value it holds (input, output, spill), or `weights`.
        kind: inputs and weights are filled before the program starts, outputs are read after it.
        bytes: size.
        view: where the elements of an input or output lie (None for weights and spill).
    """

    name: str
    kind: RegionKind
    bytes: int
    view: View | None = None


@dataclass(frozen=True)
class Instruction:
    """One step of one engine.

    Attributes:
        engine: which engine runs it.
        core: whose engine.
        op: `copy`, or the name of an integer operator.
        attributes: the operator's attributes for this tile.
        inputs: operands in the operator's order, None where one is absent.
        outputs: results.
        after: numbers of instructions (smaller than its own) that must be finished before it starts.
        layer: number of the layer it belongs to.
        job: the numbers that decide its time.
        call: number of the function call.
    """

    engine: Engine
    core: int
    op: str
    attributes: Mapping[str, Any]
    inputs: tuple[View | None, ...]
    outputs: tuple[View, ...]
    after: tuple[int, ...]
    layer: int
    job: Job
    call: int = 0


@dataclass(frozen=True)
class LayerInfo:
    """A layer as the user knows it.

    Attributes:
        name: float node it was lowered from.
        op: integer operator.
        shape: shape of its first output.
        aligned_bytes: bytes of that output with padding.
        bytes: bytes without.
        macs: multiply-accumulates of the layer (the program may compute some rows twice).
    """

    name: str
    op: str
    shape: tuple[int, ...]
    aligned_bytes: int
    bytes: int
    macs: int


@dataclass(frozen=True)
class Program:
    """The instruction list of one segment.

    Attributes:
        name: segment name (`bpu_0`).
        march: name of the target it was compiled for.
        cores: cores it uses.
        onchip_bytes: size of the on-chip address space it was compiled for.
        onchip_peak_bytes: highest on-chip address used.
        regions: DDR regions; the one of kind `weights`, if any, holds `SegmentProgram.weights`.
        layers: layers by number.
        instructions: in issue order.
        options: what the compiler was asked for, as text.
    """

    name: str
    march: str
    cores: int
    onchip_bytes: int
    onchip_peak_bytes: int
    regions: tuple[Region, ...]
    layers: tuple[LayerInfo, ...]
    instructions: tuple[Instruction, ...]
    options: str = ""

    def space_bytes(self, space: int) -> int:
        """Size of a space."""
        return self.onchip_bytes if space == ON_CHIP else self.regions[space - 1].bytes

    @property
    def calls(self) -> int:
        """Number of function calls."""
        return max((i.call for i in self.instructions), default=-1) + 1

    @property
    def inputs(self) -> tuple[Region, ...]:
        """Input regions in order."""
        return tuple(r for r in self.regions if r.kind == "input")

    @property
    def outputs(self) -> tuple[Region, ...]:
        """Output regions in order."""
        return tuple(r for r in self.regions if r.kind == "output")


@dataclass(frozen=True)
class SegmentProgram:
    """A compiled segment.

    Attributes:
        program: its instruction list.
        weights: the bytes of the program's region of kind `weights`.
    """

    program: Program
    weights: bytes

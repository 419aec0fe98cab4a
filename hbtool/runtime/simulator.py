"""Runs a program instruction by instruction on simulated on-chip and DDR memory, at its real addresses.

The bytes are real, and so is the order: an instruction may only count on what the engines' order and the program's
dependencies guarantee. Reading memory that nobody wrote, touching bytes that an instruction still in flight writes,
writing bytes that one still reads, or leaving a memory is an error that names the instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from hbtool.artifact.program import COPY, ENGINES, Instruction, SegmentProgram, View
from hbtool.errors import ArtifactError, DataError, UnsupportedError
from hbtool.numerics.int_math import NumpyMath
from hbtool.ops.op import IntegerOp, integer_ops
from hbtool.perf.timeline import Timeline, timeline
from hbtool.target.target import Target

LARGEST_MEMORY_BYTES = 16 << 30

_KERNEL_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError, ValueError)
"""What kernels raise where attributes or operands of a damaged program do not fit."""


@dataclass(frozen=True)
class Simulation:
    """What a run gives.

    Attributes:
        outputs: arrays by name of the output region (= integer value of the graph).
        timeline: the program in time.
        highest_byte: past the highest on-chip byte that was written.
    """

    outputs: dict[str, np.ndarray]
    timeline: Timeline
    highest_byte: int


def simulate(compiled: SegmentProgram, target: Target, feeds: Mapping[str, np.ndarray]) -> Simulation:
    """Run a segment.

    Args:
        compiled: the program and its weights.
        target: decides the timeline.
        feeds: integer arrays by name of the input region.

    Raises:
        DataError: an input is missing or has another shape or type.
        ArtifactError: the program breaks a rule of the machine (names the instruction).
    """
    machine = _Machine(compiled)
    machine.fill(feeds)
    for number, instruction in enumerate(compiled.program.instructions):
        machine.step(number, instruction)
    return Simulation(machine.outputs(), timeline(compiled.program, target), machine.highest_byte)


class _Machine:
    def __init__(self, compiled: SegmentProgram) -> None:
        self.program = program = compiled.program
        self.where = program.name
        sizes = [program.onchip_bytes, *(r.bytes for r in program.regions)]
        if sum(sizes) > LARGEST_MEMORY_BYTES:
            raise ArtifactError(f"the program asks for {sum(sizes)} bytes of memory", where=self.where)
        self.memory = [np.zeros(n, np.uint8) for n in sizes]
        self.written = [np.zeros(n, np.bool_) for n in sizes]
        self.lanes = len(ENGINES) * program.cores
        # (space, lane) -> per byte: number of the lane's last instruction that touched it, plus one.
        self.writers: dict[tuple[int, int], np.ndarray] = {}
        self.readers: dict[tuple[int, int], np.ndarray] = {}
        self.clocks: list[np.ndarray] = []
        self.last = [-1] * self.lanes
        self.call, self.call_start = -1, 0
        self.highest_byte = 0
        for index, region in enumerate(program.regions):
            if region.kind == "weights":
                if len(compiled.weights) != region.bytes:
                    raise ArtifactError(
                        f"there are {len(compiled.weights)} bytes of weights, the program needs {region.bytes}",
                        where=self.where,
                    )
                self.memory[index + 1][:] = np.frombuffer(compiled.weights, np.uint8)
                self.written[index + 1][:] = True

    def fill(self, feeds: Mapping[str, np.ndarray]) -> None:
        for region in self.program.inputs:
            view = region.view
            assert view is not None
            if region.name not in feeds:
                raise DataError("the input is missing", where=region.name)
            array = np.asarray(feeds[region.name])
            if array.shape != view.shape or array.dtype != np.dtype(view.type):
                raise DataError(
                    f"the input is {array.dtype} {array.shape}, the program takes {view.type} {view.shape}",
                    where=region.name,
                )
            self._elements(view)[...] = array
            self._bytes(self.written, view)[...] = True

    def outputs(self) -> dict[str, np.ndarray]:
        result = {}
        for region in self.program.outputs:
            assert region.view is not None
            if not self._bytes(self.written, region.view).all():
                raise ArtifactError("part of the output was never written", where=f"{self.where}, {region.name}")
            result[region.name] = self._elements(region.view).copy()
        return result

    # --------------------------------------------------------------------------------------------------------- steps

    def step(self, number: int, instruction: Instruction) -> None:
        place = f"{self.where}, instruction {number} ({instruction.op} of {self._layer(instruction)})"
        if instruction.call != self.call:
            self.call, self.call_start = instruction.call, number
        lane = instruction.core * len(ENGINES) + ENGINES.index(instruction.engine)
        clock = self._order(number, lane, instruction)
        for view in instruction.inputs:
            if view is not None:
                if not self._bytes(self.written, view).all():
                    raise ArtifactError("it reads memory that nobody wrote", where=place)
                self._check(self.writers, view, clock, "reads what another instruction may still be writing", place)
        for view in instruction.outputs:
            self._check(self.writers, view, clock, "writes where another instruction may still be writing", place)
            self._check(self.readers, view, clock, "overwrites what another instruction may still be reading", place)
        results = self._compute(instruction, place)
        for view in instruction.inputs:
            if view is not None:
                self._note(self.readers, view, lane, number)
        for view, result in zip(instruction.outputs, results, strict=True):
            if result.shape != view.shape or result.dtype != np.dtype(view.type):
                raise ArtifactError(
                    f"the result is {result.dtype} {result.shape}, its place {view.type} {view.shape}", where=place
                )
            self._elements(view)[...] = result
            self._bytes(self.written, view)[...] = True
            self._note(self.writers, view, lane, number)
            if view.space == 0:
                self.highest_byte = max(self.highest_byte, view.span[1])

    def _layer(self, instruction: Instruction) -> str:
        return self.program.layers[instruction.layer].name if instruction.layer < len(self.program.layers) else "?"

    def _order(self, number: int, lane: int, instruction: Instruction) -> np.ndarray:
        """Per lane: number plus one of the last instruction that is certainly finished; notes this one's own."""
        clock = np.full(self.lanes, self.call_start, np.int64)
        # Everything of earlier calls is finished; lanes count instructions, so the call's first number bounds them all.
        if self.last[lane] >= 0:
            clock = np.maximum(clock, self.clocks[self.last[lane]])
        for other in instruction.after:
            clock = np.maximum(clock, self.clocks[other])
        own = clock.copy()
        own[lane] = number + 1
        self.clocks.append(own)
        self.last[lane] = number
        # Instructions of the same lane are in order: whatever it touched before is finished.
        seen = clock.copy()
        seen[lane] = number + 1
        return seen

    def _check(
        self, log: dict[tuple[int, int], np.ndarray], view: View, clock: np.ndarray, message: str, place: str
    ) -> None:
        for lane in range(self.lanes):
            touched = log.get((view.space, lane))
            if touched is not None and view.shape and 0 in view.shape:
                continue
            if touched is not None and self._of(touched, view).max(initial=0) > clock[lane]:
                raise ArtifactError(f"it {message}: a dependency is missing", where=place)

    def _note(self, log: dict[tuple[int, int], np.ndarray], view: View, lane: int, number: int) -> None:
        key = (view.space, lane)
        if key not in log:
            log[key] = np.zeros(len(self.memory[view.space]), np.int32)
        self._of(log[key], view)[...] = number + 1

    def _compute(self, instruction: Instruction, place: str) -> tuple[np.ndarray, ...]:
        inputs = [None if v is None else self._elements(v).copy() for v in instruction.inputs]
        if instruction.op == COPY:
            if len(inputs) != 1 or inputs[0] is None:
                raise ArtifactError("a copy has one operand", where=place)
            return (inputs[0],)
        op = integer_ops().get(instruction.op)
        if op is None:
            raise UnsupportedError(
                f"unknown integer operator {instruction.op!r}",
                where=place,
                hint="The file was written by a newer hbtool; update hbtool.",
            )
        try:
            result = op.kernel(NumpyMath(), _attributes(op, instruction.attributes), *inputs)
        except _KERNEL_ERRORS as error:
            raise ArtifactError(f"its operands or attributes do not fit: {error}", where=place) from error
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(instruction.outputs):
            raise ArtifactError("it has another number of results", where=place)
        return tuple(np.asarray(r) for r in results)

    # -------------------------------------------------------------------------------------------------------- memory

    def _elements(self, view: View) -> np.ndarray:
        self._inside(view)
        memory = self.memory[view.space]
        return np.ndarray(view.shape, np.dtype(view.type), memory.data, view.offset, view.strides)

    def _bytes(self, planes: list[np.ndarray], view: View) -> np.ndarray:
        return self._of(planes[view.space], view)

    def _of(self, plane: np.ndarray, view: View) -> np.ndarray:
        """The per-byte notes of a view: shape of the view, and an axis for the bytes of an element."""
        self._inside(view)
        step = plane.itemsize
        strides = (*(s * step for s in view.strides), step)
        if 0 in view.shape:
            return plane[:0]
        return as_strided(plane[view.offset :], (*view.shape, view.item_bytes), strides)

    def _inside(self, view: View) -> None:
        low, high = view.span
        if view.space >= len(self.memory) or low < 0 or high > len(self.memory[view.space]):
            raise ArtifactError("a view leaves its memory", where=self.where)


def _attributes(op: IntegerOp, values: Mapping[str, Any]) -> Any:
    names = _names(op.Attributes)
    return op.Attributes(**{k: v for k, v in values.items() if k in names})


@lru_cache(maxsize=256)
def _names(cls: type) -> frozenset[str]:
    return frozenset(f.name for f in fields(cls))

"""What a report is made of: an artifact as plain data, so that reporting needs neither graph nor runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hbtool.artifact.program import Program
from hbtool.target.target import Target

Device = Literal["BPU", "CPU"]


@dataclass(frozen=True)
class TensorFact:
    """A value that crosses a segment border, or an input or output of the model.

    Attributes:
        name: value name.
        shape: sizes, None where they are known only when it runs.
        dtype: element type (`int8`, `int32`, `float32`, ...).
        bytes: size without padding, 0 where the shape is unknown.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    bytes: int

    @property
    def text(self) -> str:
        """`1x3x224x224 int8`."""
        shape = "?" if self.shape is None else "x".join(map(str, self.shape)) or "scalar"
        return f"{shape} {self.dtype}"


@dataclass(frozen=True)
class NodeFact:
    """A node on the CPU.

    Attributes:
        name: node name.
        type: operator.
        reason: the sentence that says why it is on the CPU.
        border: it quantizes or dequantizes at a segment's border.
        inputs: names of the computed values it reads.
        outputs: the values it computes.
        bytes: bytes it reads (constants included) and writes.
    """

    name: str
    type: str
    reason: str
    border: bool
    inputs: tuple[str, ...]
    outputs: tuple[TensorFact, ...]
    bytes: int


@dataclass(frozen=True)
class SegmentFact:
    """One segment, in execution order with the others.

    Attributes:
        name: `bpu_0`, `cpu_0`, ...
        device: BPU or CPU.
        inputs: values it reads.
        outputs: values that others read.
        program: the compiled program (BPU).
        nodes: its nodes (CPU).
        host_us: time measured on the PC that wrote the report, microseconds; None where it was not measured.
        host_note: why it was not measured.
    """

    name: str
    device: Device
    inputs: tuple[TensorFact, ...]
    outputs: tuple[TensorFact, ...]
    program: Program | None = None
    nodes: tuple[NodeFact, ...] = ()
    host_us: float | None = None
    host_note: str = ""


@dataclass(frozen=True)
class ModelFact:
    """An artifact.

    Attributes:
        name: model name.
        target: the machine it was compiled for.
        tool: `hbtool 0.1.0`, what compiled it.
        inputs: the model's inputs as the graph takes them.
        outputs: the model's outputs.
        segments: in execution order.
        frames_per_run: images per run (batch of the first image input, else 1).
        debug: whether per-layer performance was asked for.
        layer_out_dump: whether the configuration keeps every layer's output.
        advice_us: name the layers whose computing cost exceeds the ideal by this much; 0 for none.
    """

    name: str
    target: Target
    tool: str
    inputs: tuple[TensorFact, ...]
    outputs: tuple[TensorFact, ...]
    segments: tuple[SegmentFact, ...]
    frames_per_run: int = 1
    debug: bool = True
    layer_out_dump: bool = False
    advice_us: float = 0.0

"""The report: every number of an artifact's cost, typed, without a word about how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hbtool.artifact.program import Program
from hbtool.perf.advice import call_advice, layer_advice, warnings_of
from hbtool.perf.board_cores import BoardCores, board_cores
from hbtool.perf.critical import Resource, attribute_latency
from hbtool.perf.curves import Curves, interval_curves
from hbtool.perf.cuts import CpuPart, cpu_parts
from hbtool.perf.facts import ModelFact, SegmentFact, TensorFact
from hbtool.perf.layers import LayerCost, layer_costs
from hbtool.perf.timeline import Timeline, timeline
from hbtool.target.target import Target


@dataclass(frozen=True)
class SegmentReport:
    """One BPU segment.

    Attributes:
        name: `bpu_0`.
        inputs: values it reads.
        outputs: values it writes.
        program: its program.
        line: the program in time.
        resources_us: the latency in parts, by resource.
        layers: per layer.
        curves: utilisation and bandwidth per interval.
        ops: arithmetic operations of its layers, 2 per multiply-accumulate, padding and recomputation not counted.
        executed_ops: the same with what tiles compute twice.
        utilisation: `ops` over what the used cores could do in the segment's latency.
        weights_bytes: constants it holds in DDR.
        spill_bytes: DDR for intermediate results.
    """

    name: str
    inputs: tuple[TensorFact, ...]
    outputs: tuple[TensorFact, ...]
    program: Program
    line: Timeline = field(repr=False)
    resources_us: dict[Resource, float]
    layers: tuple[LayerCost, ...]
    curves: Curves
    ops: int
    executed_ops: int
    utilisation: float
    weights_bytes: int
    spill_bytes: int

    @property
    def latency_us(self) -> float:
        """From the first launch to the end of the last instruction."""
        return self.line.total_us


@dataclass(frozen=True)
class Report:
    """One artifact.

    Attributes:
        model: the artifact as plain data.
        segments: BPU segments in execution order.
        cpu: CPU segments in execution order.
        cores: the figures the CPU estimates come from.
        warnings: what probably was not meant.
    """

    model: ModelFact
    segments: tuple[SegmentReport, ...]
    cpu: tuple[CpuPart, ...]
    cores: BoardCores
    warnings: tuple[str, ...]

    @property
    def target(self) -> Target:
        """The machine."""
        return self.model.target

    @property
    def latency_us(self) -> float:
        """Of all BPU segments, one after another; CPU parts are not in it."""
        return sum(s.latency_us for s in self.segments)

    @property
    def frames_per_second(self) -> float:
        """Frames per second of the BPU alone."""
        return self.model.frames_per_run * 1e6 / self.latency_us if self.latency_us else 0.0

    @property
    def loaded_bytes(self) -> int:
        """Read from DDR by the BPU in one run."""
        return sum(s.line.loaded_bytes for s in self.segments)

    @property
    def stored_bytes(self) -> int:
        """Written to DDR by the BPU in one run."""
        return sum(s.line.stored_bytes for s in self.segments)

    @property
    def ddr_bytes(self) -> int:
        """Both."""
        return self.loaded_bytes + self.stored_bytes

    @property
    def ops(self) -> int:
        """Arithmetic operations of one run on the BPU, 2 per multiply-accumulate."""
        return sum(s.ops for s in self.segments)

    @property
    def utilisation(self) -> float:
        """`ops` over what the used cores could do in the latency."""
        possible = sum(peak_ops(self.target, s.program.cores, s.latency_us) for s in self.segments)
        return self.ops / possible if possible else 0.0

    @property
    def onchip_peak_bytes(self) -> int:
        """Highest on-chip address any segment uses."""
        return max((s.program.onchip_peak_bytes for s in self.segments), default=0)

    @property
    def onchip_bytes(self) -> int:
        """On-chip memory the segments were compiled for."""
        return max((s.program.onchip_bytes for s in self.segments), default=0)

    @property
    def weights_bytes(self) -> int:
        """Constants of all segments."""
        return sum(s.weights_bytes for s in self.segments)

    @property
    def resources_us(self) -> dict[Resource, float]:
        """The latency in parts, by resource."""
        total: dict[Resource, float] = {}
        for segment in self.segments:
            for resource, us in segment.resources_us.items():
                total[resource] = total.get(resource, 0.0) + us
        return total

    @property
    def cpu_estimate_us(self) -> float:
        """Estimated time of all CPU nodes on the board's cores, without submitting the frame."""
        return sum(part.estimate_us for part in self.cpu)

    @property
    def cpu_host_us(self) -> float | None:
        """Measured time of all CPU segments on the PC that wrote the report; None where one was not measured."""
        times = [part.host_us for part in self.cpu if part.host_us is not None]
        return sum(times) if len(times) == len(self.cpu) else None

    @property
    def cuts(self) -> tuple[CpuPart, ...]:
        """CPU parts between BPU segments."""
        return tuple(part for part in self.cpu if part.role == "middle")


def peak_ops(target: Target, cores: int, us: float) -> float:
    """What the arrays of so many cores could do in so many microseconds."""
    return 2.0 * target.macs_per_cycle * cores * target.clock_hz * us / 1e6


def make_report(model: ModelFact, removable: Sequence[str] = ()) -> Report:
    """Time every program of an artifact and gather the numbers.

    Args:
        model: the artifact.
        removable: node types that `remove_node_type` takes off head and tail.
    """
    cores = board_cores(model.target.family)
    segments = tuple(_segment(s, s.program, model.target) for s in model.segments if s.program is not None)
    cpu = cpu_parts(model, cores, removable)
    ideal = [(c, c.ops / peak_ops(model.target, s.program.cores, 1.0)) for s in segments for c in s.layers]
    calls = call_advice([(s.program, s.line) for s in segments])
    warnings = warnings_of(model, cpu) + calls + layer_advice(model.advice_us, ideal)
    return Report(model, segments, cpu, cores, warnings)


def _segment(fact: SegmentFact, program: Program, target: Target) -> SegmentReport:
    line = timeline(program, target)
    parts = attribute_latency(program, target, line)
    layers = layer_costs(program, target, line, parts)
    ops = sum(layer.ops for layer in layers)
    possible = peak_ops(target, program.cores, line.total_us)
    return SegmentReport(
        fact.name,
        fact.inputs,
        fact.outputs,
        program,
        line,
        parts.by_resource(),
        layers,
        interval_curves(program, target, line),
        ops,
        2 * line.macs,
        ops / possible if possible else 0.0,
        sum(r.bytes for r in program.regions if r.kind == "weights"),
        sum(r.bytes for r in program.regions if r.kind == "spill"),
    )

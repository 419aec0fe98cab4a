"""What every CPU part of a model costs, and which configuration key removes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hbtool.perf.board_cores import BoardCores
from hbtool.perf.facts import ModelFact, NodeFact, SegmentFact
from hbtool.target.target import Target

Role = Literal["head", "middle", "tail", "alone"]

ROLE_NAMES: Mapping[Role, str] = {
    "head": "in front of the BPU",
    "middle": "between BPU segments",
    "tail": "behind the BPU",
    "alone": "beside the BPU",
}


@dataclass(frozen=True)
class NodeRemedy:
    """A CPU node and what to do about it.

    Attributes:
        node: the node.
        key: configuration key, empty where no key helps.
        advice: what to write there, or what to change in the model.
        estimate_us: estimated time on the board's cores.
    """

    node: NodeFact
    key: str
    advice: str
    estimate_us: float


@dataclass(frozen=True)
class CpuPart:
    """A CPU segment; times in microseconds.

    Attributes:
        name: segment name.
        role: where it stands.
        nodes: its nodes, each with its remedy.
        moved_bytes: bytes its nodes read and write.
        quantize_bytes: of these, by Quantize and Dequantize at its borders.
        ddr_bytes: what the BPU stores for it and loads from it because of the cut.
        ddr_us: time these transfers keep the memory busy.
        launch_us: launches that only exist because it cuts a segment.
        estimate_us: estimated time of its nodes on the board's cores.
        host_us: measured time on the PC that wrote the report, None where it was not measured.
        host_note: why it was not measured.
    """

    name: str
    role: Role
    nodes: tuple[NodeRemedy, ...]
    moved_bytes: int
    quantize_bytes: int
    ddr_bytes: int
    ddr_us: float
    launch_us: float
    estimate_us: float
    host_us: float | None
    host_note: str

    @property
    def cost_us(self) -> float:
        """All of it: nodes, transfers and launches."""
        return self.estimate_us + self.ddr_us + self.launch_us

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that remove all its nodes, each once; none if a node has no key."""
        return () if self.stuck else tuple(dict.fromkeys(n.key for n in self.nodes if n.key))

    @property
    def stuck(self) -> int:
        """How many nodes no key removes (Quantize and Dequantize go with the nodes beside them)."""
        return sum(not n.key and not n.node.border for n in self.nodes)


def cpu_parts(model: ModelFact, cores: BoardCores, removable: Sequence[str]) -> tuple[CpuPart, ...]:
    """The CPU segments with their costs.

    Args:
        model: the artifact.
        cores: the board's CPU.
        removable: node types that `remove_node_type` takes off head and tail.
    """
    roles = _roles(model.segments)
    bpu_values = _bpu_values(model.segments)
    return tuple(
        _part(s, roles[s.name], bpu_values, model.target, cores, removable) for s in model.segments if s.device == "CPU"
    )


def _roles(segments: Sequence[SegmentFact]) -> dict[str, Role]:
    """Whether BPU segments come before and behind each segment, along values."""
    behind: dict[str, bool] = {}
    made_by = {t.name: s for s in segments for t in s.outputs}
    for segment in segments:
        before = [made_by[t.name] for t in segment.inputs if t.name in made_by]
        behind[segment.name] = any(b.device == "BPU" or behind.get(b.name, False) for b in before)
    ahead = dict.fromkeys(behind, False)
    for segment in reversed(segments):
        for tensor in segment.inputs:
            source = made_by.get(tensor.name)
            if source is not None and (segment.device == "BPU" or ahead[segment.name]):
                ahead[source.name] = True
    names: dict[tuple[bool, bool], Role] = {
        (False, True): "head",
        (True, True): "middle",
        (True, False): "tail",
        (False, False): "alone",
    }
    return {name: names[behind[name], ahead[name]] for name in behind}


def _bpu_values(segments: Sequence[SegmentFact]) -> dict[str, int]:
    """Values that BPU segments read or write -> their padded bytes in DDR."""
    found: dict[str, int] = {}
    for segment in segments:
        if segment.program is not None:
            for region in segment.program.regions:
                if region.kind in ("input", "output"):
                    found[region.name] = region.bytes
    return found


def _part(
    segment: SegmentFact,
    role: Role,
    bpu_values: Mapping[str, int],
    target: Target,
    cores: BoardCores,
    removable: Sequence[str],
) -> CpuPart:
    nodes = tuple(_remedy(n, role, cores, removable) for n in segment.nodes)
    # At head and tail the transfers are the model's own input and output; only a cut adds some.
    crossing = [t.name for t in (*segment.inputs, *segment.outputs)] if role == "middle" else []
    ddr_bytes = sum(bpu_values.get(name, 0) for name in crossing)
    moved = sum(n.bytes for n in segment.nodes)
    return CpuPart(
        segment.name,
        role,
        nodes,
        moved,
        sum(n.bytes for n in segment.nodes if n.border),
        ddr_bytes,
        target.us(target.transfer_cycles(ddr_bytes)),
        target.launch_us if role == "middle" else 0.0,
        cores.us(moved),
        segment.host_us,
        segment.host_note,
    )


def _remedy(node: NodeFact, role: Role, cores: BoardCores, removable: Sequence[str]) -> NodeRemedy:
    key, advice = _border_advice(role) if node.border else _advice(node, role, removable)
    return NodeRemedy(node, key, advice, cores.us(node.bytes))


def _border_advice(role: Role) -> tuple[str, str]:
    if role == "tail":
        return (
            "model_parameters.remove_node_type",
            "Dequantize (the application gets integers and multiplies them by the scales itself)",
        )
    if role == "head":
        return (
            "input_parameters.input_type_rt",
            "an image type (nv12, rgb, bgr, yuv444, gray) needs no Quantize; or remove_node_type: Quantize, and the "
            "application feeds integers",
        )
    return "", "goes when the float nodes beside it go"


def _advice(node: NodeFact, role: Role, removable: Sequence[str]) -> tuple[str, str]:
    """The key for a float node, read from where it stands and from the reason the placement wrote."""
    if "asks for it" in node.reason:
        return "calibration_parameters.run_on_cpu, model_parameters.node_info", f"take {node.name} out of it"
    if "for accuracy; ask for the BPU" in node.reason:
        return (
            "calibration_parameters.run_on_bpu",
            f"{node.name}; or node_info; or optimization: set_{node.type}_input_int8",
        )
    if role in ("head", "tail") and node.type in removable:
        return "model_parameters.remove_node_type", f"{node.type} (the application then does its work)"
    if "at the end of the model" in node.reason:
        return (
            "calibration_parameters.run_on_bpu",
            f"{node.name} (the node before it then gives int8 or int16 in place of int32)",
        )
    if "no quantized neighbour" in node.reason:
        return "calibration_parameters.run_on_bpu", f"{node.name} (its values need a calibrated range)"
    return "", "no key removes it: change the model so that the reason goes"

"""A march as numbers: read from one YAML file per march, each figure with its source; and what they cost.

A file holds one mapping per figure, `name: {value: ..., source: ...}`. A user's own file (any path that ends in
`.yaml` or `.yml`) has the same form, or names a march under `base` and states only what differs.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from hbtool.errors import ConfigError
from hbtool.target.job import Job

Family = Literal["bernoulli2", "bayes", "bayes-e", "nash"]

MARCHES = ("bernoulli2", "bayes", "bayes-e", "nash-e", "nash-m")
"""Marches whose figures were fitted to boards, or are stated."""
BORROWED = {
    "nash-p": "nash-m",
    "nash-h": "nash-p",
    "nash-starry-p": "nash-p",
    "nash-b": "nash-e",
    "nash-b-lite": "nash-e",
    "nash-b-plus": "nash-e",
}
"""Marches that take most figures from another one: they compile and run, their latencies were held against no board."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Layout:
    """Where the elements of a tensor lie, relative to its first byte.

    Attributes:
        shape: the tensor's own shape.
        strides: bytes from one index to the next, per axis.
        padded: sizes with padding, per axis.
        bytes: size with padding.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    padded: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Target:
    """One march (docs/machine.md explains the machine these figures describe).

    Attributes:
        march: name.
        family: BPU generation, decides which operators are accepted.
        cores: BPU cores on the chip.
        clock_hz: clock of the BPU.
        multiplier_bits: significant bits of the requantization multiplier.
        matrix_outputs: output channels the multiply-accumulate array computes at once.
        matrix_inputs: input channels it sums at once.
        matrix_width: neighbouring output positions it computes at once.
        int16_slowdown: how many times longer int16 activations take in the array.
        depthwise_macs: multiply-accumulates per cycle of a depthwise convolution.
        vector_ops: int8 elementwise operations per cycle of the vector unit.
        vector_channels: channels the vector unit takes at once; fewer leave its lanes empty.
        onchip_bytes: on-chip memory of one core.
        dma_latency_cycles: from the start of a transfer to its first byte.
        ddr_bytes_per_second: what loads and stores share.
        instruction_cycles: fixed time of a compute instruction.
        launch_us: fixed time of a function call.
        layouts: (width, channels) paddings a feature map may have; the smaller result is taken.
        address_bytes: every buffer starts at a multiple of this.
        sources: figure -> where it comes from.
    """

    march: str
    family: Family
    cores: int
    clock_hz: float
    multiplier_bits: int
    matrix_outputs: int
    matrix_inputs: int
    matrix_width: int
    int16_slowdown: float
    depthwise_macs: float
    vector_ops: float
    vector_channels: int
    onchip_bytes: int
    dma_latency_cycles: int
    ddr_bytes_per_second: float
    instruction_cycles: int
    launch_us: float
    layouts: tuple[tuple[int, int], ...]
    address_bytes: int
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False, compare=False)

    @property
    def macs_per_cycle(self) -> int:
        """Peak of the multiply-accumulate array of one core."""
        return self.matrix_outputs * self.matrix_inputs * self.matrix_width

    @property
    def least_channels(self) -> int:
        """The smallest number of channels that a feature map is padded to."""
        return min(channels for _, channels in self.layouts)

    @property
    def ddr_bytes_per_cycle(self) -> float:
        """DDR bandwidth in bytes per BPU cycle."""
        return self.ddr_bytes_per_second / self.clock_hz

    def with_less_memory(self, most_bytes: int, source: str) -> Target:
        """The same machine with at most ``most_bytes`` of on-chip memory per core; ``source`` says who asks."""
        if most_bytes >= self.onchip_bytes:
            return self
        return dataclasses.replace(self, onchip_bytes=most_bytes, sources={**self.sources, "onchip_bytes": source})

    def us(self, cycles: float) -> float:
        """Cycles as microseconds."""
        return cycles / self.clock_hz * 1e6

    def cycles(self, work: Job) -> int:
        """Cycles of a compute instruction, fixed part included."""
        if work.unit == "matrix":
            busy = self._matrix_cycles(work)
        else:
            busy = self._lanes(work) * max(1, work.bits // 8) / self.vector_ops
        return self.instruction_cycles + math.ceil(busy)

    def _matrix_cycles(self, work: Job) -> float:
        slow = self.int16_slowdown if work.bits > 8 else 1.0
        width = _up(work.rows, self.matrix_width)
        if work.groups > 1 and work.inputs == 1 and work.outputs == 1:
            channels = _up(work.groups, self.matrix_outputs)
            return slow * width * work.repeats * channels * work.taps / self.depthwise_macs
        steps = -(-work.outputs // self.matrix_outputs) * self._input_steps(work)
        # A matrix product of one row has no neighbours along the width: the array takes output channels there.
        return slow * (width // self.matrix_width) * work.repeats * steps * work.groups

    def _input_steps(self, work: Job) -> int:
        """Steps over inputs and kernel positions: inputs that are left over take the next positions of the kernel row.

        A row of few channels lies in memory as [width, channels], so that neighbours along the row arrive together.
        """
        apart = -(-work.inputs // self.matrix_inputs) * work.row_taps
        folded = -(-_up(work.inputs, self.least_channels) * work.row_taps // self.matrix_inputs)
        return min(apart, folded) * (work.taps // work.row_taps)

    def _lanes(self, work: Job) -> float:
        """Elementwise operations with those of empty lanes."""
        if not work.channels:
            return work.vector_ops
        return work.vector_ops * _up(work.channels, self.vector_channels) / work.channels

    def transfer_cycles(self, transfer_bytes: int) -> float:
        """Cycles a DDR transfer keeps the memory busy (without the latency in front)."""
        return transfer_bytes / self.ddr_bytes_per_cycle

    def layout(self, shape: Sequence[int], item_bytes: int, order: tuple[int, ...] | None = None) -> Layout:
        """Where a tensor's elements lie.

        Feature maps ([N, C, *spatial], rank 4 and up) have the channels innermost, then the width; channels and width
        are padded. Everything else is row-major with the last axis padded like channels.

        Args:
            shape: the tensor's shape.
            item_bytes: bytes of an element.
            order: its axes, the innermost last, where it is not laid out like that (the innermost is padded like
                channels, of feature maps the one before like the width).
        """
        shape = tuple(shape)
        rank = len(shape)
        order = order or axis_order(rank)
        best: Layout | None = None
        for width, channels in self.layouts:
            padded = list(shape)
            if rank >= 4:
                padded[order[-2]] = _up(shape[order[-2]], width)
            if rank:
                padded[order[-1]] = _up(shape[order[-1]], channels)
            step, strides = item_bytes, [0] * rank
            for axis in reversed(order):
                strides[axis] = step
                step *= padded[axis]
            if best is None or step < best.bytes:
                best = Layout(shape, tuple(strides), tuple(padded), step)
        assert best is not None, "a target has at least one layout"
        return best


def axis_order(rank: int) -> tuple[int, ...]:
    """The axes of a tensor as they usually lie in memory, the innermost last."""
    return (0, *range(2, rank), 1) if rank >= 4 else tuple(range(rank))


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


# ---------------------------------------------------------------------------------------------------------- loading

_WHOLE = {"cores", "multiplier_bits", "matrix_outputs", "matrix_inputs", "matrix_width", "onchip_bytes"}
_WHOLE |= {"vector_channels", "dma_latency_cycles", "instruction_cycles", "address_bytes"}
_MAY_BE_ZERO = {"dma_latency_cycles", "instruction_cycles", "launch_us"}
_LARGEST_FILE = 1 << 20


@cache
def load(march: str) -> Target:
    """The target of a march name or of a target file.

    Raises:
        ConfigError: unknown march, unreadable file, a figure that is missing, misspelled or out of range.
    """
    if march.lower().endswith((".yaml", ".yml")):
        return _build(_read(Path(march)), march)
    if march not in MARCHES and march not in BORROWED:
        raise ConfigError(
            f"there is no target file for march {march!r}",
            hint=f"Known: {', '.join((*MARCHES, *BORROWED))}; or give the path of your own target file (*.yaml).",
        )
    return _build(_read(_FOLDER / f"{march}.yaml"), march)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError("a target file is a page of figures, this one is over 1 MiB", where=str(path))
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"the target file cannot be read: {error}", where=str(path)) from error
    if not isinstance(data, dict):
        raise ConfigError("a target file is a mapping of figures", where=str(path))
    base = data.pop("base", None)
    if base is None:
        return data
    known = (*MARCHES, *BORROWED)
    if base not in known:
        raise ConfigError(f"base {base!r} is not a march", where=str(path), hint=f"Known: {', '.join(known)}.")
    return {**_borrowed(_read(_FOLDER / f"{base}.yaml"), base), **data}


def _borrowed(figures: dict[str, Any], base: str) -> dict[str, Any]:
    """The figures of another march, and that they are."""
    return {name: {**entry, "source": f"as {base}: {entry['source']}"} for name, entry in figures.items()}


def to_json(target: Target) -> dict[str, Any]:
    """The figures and their sources as plain data (what an artifact stores)."""
    values = {f.name: getattr(target, f.name) for f in dataclasses.fields(target) if f.name != "sources"}
    values["layouts"] = [list(pair) for pair in target.layouts]
    return {name: {"value": value, "source": target.sources[name]} for name, value in values.items()}


def from_json(data: Mapping[str, Any], where: str) -> Target:
    """The target of `to_json`.

    Raises:
        ConfigError: a figure is missing, misspelled or out of range.
    """
    return _build(dict(data), where)


def _build(data: dict[str, Any], where: str) -> Target:
    names = {f.name for f in dataclasses.fields(Target)} - {"sources"}
    unknown = sorted(str(k) for k in data if k not in names)
    missing = sorted(names - set(data))
    if unknown or missing:
        text = "; ".join(
            f"{title}: {', '.join(keys)}" for title, keys in (("unknown", unknown), ("missing", missing)) if keys
        )
        near = {k: difflib.get_close_matches(k, names, 1) for k in unknown}
        guesses = [f"{found[0]} in place of {key}" for key, found in near.items() if found]
        hint = f"Did you mean {', '.join(guesses)}?" if guesses else f"Figures: {', '.join(sorted(names))}."
        raise ConfigError(f"figures of the target file do not match ({text})", where=where, hint=hint)
    values, sources = {}, {}
    for name, entry in data.items():
        if not isinstance(entry, dict) or set(entry) != {"value", "source"} or not isinstance(entry["source"], str):
            example = entry if isinstance(entry, int | float) else 1
            raise ConfigError(
                f"{name} must be written as {{value: ..., source: ...}}, the source in quotation marks",
                where=where,
                hint=f'For example {name}: {{value: {example}, source: "measured"}}',
            )
        values[name] = _figure(name, entry["value"], where)
        sources[name] = entry["source"]
    return Target(**values, sources=sources)


def _figure(name: str, value: Any, where: str) -> Any:
    if name == "march":
        return str(value)
    if name == "family":
        if value not in get_args(Family):
            raise ConfigError(f"family {value!r} is not one of {', '.join(get_args(Family))}", where=where)
        return value
    if name == "layouts":
        pairs = value if isinstance(value, list) and value else [None]
        if not all(isinstance(p, list) and len(p) == 2 and all(_whole(n, 1, 1024) for n in p) for p in pairs):
            raise ConfigError("layouts must be pairs [width, channels] of whole numbers from 1 to 1024", where=where)
        return tuple((width, channels) for width, channels in value)
    lowest = 0 if name in _MAY_BE_ZERO else 1
    if name in _WHOLE:
        if not _whole(value, lowest, 1 << 40):
            raise ConfigError(f"{name} must be a whole number of at least {lowest}, not {value!r}", where=where)
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
        raise ConfigError(f"{name} must be a positive number, not {value!r}", where=where)
    return float(value)


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

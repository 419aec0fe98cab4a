"""INTEGER graph -> programs: one per BPU segment."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import onnx_ir as ir

from hbtool.artifact.program import LayerInfo, Program, SegmentProgram
from hbtool.compiler.addresses import Addresses, place_tensors
from hbtool.compiler.allocate import Memory
from hbtool.compiler.bands import BandRunner
from hbtool.compiler.calls import CallLimit
from hbtool.compiler.emit import Emitter
from hbtool.compiler.layers import Layer, Net, read_net
from hbtool.compiler.options import CompileOptions
from hbtool.compiler.residence import Residence
from hbtool.compiler.schedule import TileRunner
from hbtool.compiler.segments import Segment, split_segments
from hbtool.compiler.strategies import Strategy, one_by_one, strategies
from hbtool.compiler.tile import copy_task, layer_task
from hbtool.errors import CompileError
from hbtool.ops.op import whole
from hbtool.perf.timeline import Timeline, timeline
from hbtool.target.target import Target

WORTH_PROCESSES = 1500
"""Layers times strategies from which starting processes pays."""

MOST_RETRIES = 4


def compile_model(model: ir.Model, target: Target, options: CompileOptions) -> tuple[SegmentProgram, ...]:
    """The programs of all BPU segments of an INTEGER graph, in execution order.

    Raises:
        CompileError: a node cannot be placed.
    """
    segments = [s for s in split_segments(model) if s.device == "BPU"]
    return _compile([_checked(s, target, options) for s in segments], target, options)


def compile_segment(model: ir.Model, segment: Segment, target: Target, options: CompileOptions) -> SegmentProgram:
    """The program of one BPU segment of an INTEGER graph.

    Raises:
        CompileError: a node cannot be placed, or more cores are asked for than the target has.
    """
    return _compile([_checked(segment, target, options)], target, options)[0]


def _checked(segment: Segment, target: Target, options: CompileOptions) -> Net:
    if not 1 <= options.core_num <= target.cores:
        raise CompileError(
            f"core_num is {options.core_num}, {target.march} has {target.cores}",
            where=segment.name,
            hint="Lower core_num in compiler_parameters.",
        )
    return read_net(segment)


def _compile(nets: list[Net], target: Target, options: CompileOptions) -> tuple[SegmentProgram, ...]:
    """The best program of every net over all strategies; `jobs` processes, the same result with any number of them."""
    tasks: list[_Attempt] = []
    for net in nets:
        addresses = place_tensors(net, target, share=options.level > 0)
        tasks += [_Attempt(net, addresses, target, options, s) for s in strategies(net, addresses, target, options)]
    work = sum(len(task.net.layers) for task in tasks)
    jobs = min(options.jobs, len(tasks))
    if jobs > 1 and work >= WORTH_PROCESSES:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            results = list(pool.map(_attempt, tasks))
    else:
        results = [_attempt(task) for task in tasks]
    best: dict[int, tuple[Cost, SegmentProgram]] = {}
    for task, result in zip(tasks, results, strict=True):
        key = id(task.net)
        if key not in best or result[0] < best[key][0]:
            best[key] = result
    return tuple(best[id(net)][1] for net in nets)


@dataclass(frozen=True)
class _Attempt:
    """A net, and one way to compile it."""

    net: Net
    addresses: Addresses
    target: Target
    options: CompileOptions
    strategy: Strategy


Cost = tuple[float, float]
"""What strategies are compared by, and what decides between equals."""


def _attempt(task: _Attempt) -> tuple[Cost, SegmentProgram]:
    """(cost, program) of one strategy; function calls are cut shorter until each keeps to its limit."""
    target, options = task.target, task.options
    limit = float(options.max_time_per_fc)
    compiled = _Compilation(task, limit).run()
    line = timeline(compiled.program, target)
    for _ in range(MOST_RETRIES if limit else 0):
        longest = max(line.call_us, default=0.0)
        if longest <= options.max_time_per_fc:
            break
        limit *= 0.7 * options.max_time_per_fc / longest
        plain = replace(task, strategy=one_by_one(task.net, options.latency_weight, task.strategy.pieces))
        shorter = _Compilation(plain, limit).run()
        other = timeline(shorter.program, target)
        if max(other.call_us, default=0.0) < longest:
            compiled, line = shorter, other
    return _cost(line, target, options), compiled


def _cost(line: Timeline, target: Target, options: CompileOptions) -> Cost:
    if options.compile_mode == "bandwidth":
        return line.ddr_bytes, line.total_us
    transfer_us = line.ddr_bytes / target.ddr_bytes_per_second * 1e6
    weight = options.latency_weight
    return weight * line.total_us + (1 - weight) * transfer_us, line.total_us


class _Compilation:
    """One walk through the layers under one strategy."""

    def __init__(self, task: _Attempt, call_limit_us: float) -> None:
        self.net, self.addresses, self.target, self.options = task.net, task.addresses, task.target, task.options
        self.groups, self.resident = task.strategy.groups, task.strategy.resident
        self.memory = Memory(self.target.onchip_bytes * self.options.core_num, self.target.address_bytes)
        self.emitter = Emitter(self.options.core_num)
        self.residence = Residence(self.net, self.addresses, self.target, self.memory, self.emitter, self.options)
        self.calls = CallLimit(self.residence, call_limit_us)
        self.runner = TileRunner(self.residence, self.options, self.calls, task.strategy)
        self.bands = BandRunner(self.runner)

    def run(self) -> SegmentProgram:
        for group in self.groups:
            if self.calls.full:
                self.calls.end()
            layers = self.net.layers[group.first : group.last + 1]
            self.residence.layer = group.first
            if group.bands > 1 and self.bands.run(group):
                for layer in layers:
                    if layer in self.addresses.free_layers or layer in self.addresses.joined:
                        self.residence.layer = layer.number
                        self._finish_views(layer)
                self._release(layers[-1])
                continue
            for layer in layers:
                if self.calls.full:
                    self.calls.end()
                self.residence.layer = layer.number
                self._layer(layer)
                self._release(layer)
        program = Program(
            self.net.name,
            self.target.march,
            self.options.core_num,
            self.memory.size,
            self.memory.peak,
            self.residence.finished_regions(),
            tuple(self._info(layer) for layer in self.net.layers),
            tuple(self.emitter.instructions),
            self.options.text(),
        )
        return SegmentProgram(program, bytes(self.residence.weights))

    def _layer(self, layer: Layer) -> None:
        if layer in self.addresses.free_layers:
            self._finish_views(layer)
        elif layer in self.addresses.joined:
            self._join(layer)
        elif len(layer.outputs) == 1:
            self.runner.run(layer_task(layer))
        else:
            self.runner.direct.run_several(layer)

    def _finish_views(self, layer: Layer) -> None:
        """A layer of addresses only: nothing to compute, but its result may have to leave."""
        for out in layer.outputs:
            if not out.is_output:
                continue
            held, region = self.residence.of(out), self.residence.output_slots[out]
            if region is held.home:
                self.residence.save(held)
                continue
            if held.slot is None:
                self.residence.bring(held)
            box = whole(out.shape)
            source = held.slot or self.residence.home(held)
            self.residence.load_pending(held, self.residence.place(out).box(box), 0)
            operand = self.residence.operand(out, box, source)
            self.runner.put(out, box, operand, 0, home=False)

    def _join(self, layer: Layer) -> None:
        """Copy the operands that were not computed in place."""
        shapes = [None if t is None else t.shape for t in layer.inputs]
        places = layer.op.places(layer.attributes, shapes, layer.out.shape)
        assert places is not None
        for position in self.addresses.joined[layer]:
            tensor = layer.inputs[position]
            assert tensor is not None
            self.runner.run(copy_task(layer, tensor, layer.out, places[position]))
        self._finish_views(layer)

    def _release(self, layer: Layer) -> None:
        """Give back what nobody reads any more, and everything where nothing may stay."""
        for held in self.residence.held.values():
            if held.slot is None:
                continue
            if held.last_use <= layer.number:
                self.residence.drop(held)
            elif not self.resident:
                self.residence.evict(held)

    def _info(self, layer: Layer) -> LayerInfo:
        out = layer.out
        aligned = self.target.layout(out.shape, out.item_bytes).bytes
        tile = layer.tile(whole(out.shape))
        macs = layer.job(tile, out.shape).macs if tile is not None else 0
        return LayerInfo(layer.name, layer.op.name, out.shape, aligned, out.bytes, macs)

"""INTEGER graph -> programs: one per BPU segment."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import onnx_ir as ir

from hbtool.artifact.program import LayerInfo, Program, SegmentProgram
from hbtool.compiler.addresses import place_tensors
from hbtool.compiler.allocate import Memory
from hbtool.compiler.bands import BandRunner
from hbtool.compiler.calls import CallLimit
from hbtool.compiler.emit import Emitter
from hbtool.compiler.fuse import FuseOptions, Group, plan_groups
from hbtool.compiler.layers import Layer, Net, read_net
from hbtool.compiler.options import CompileOptions
from hbtool.compiler.residence import Residence
from hbtool.compiler.schedule import TileRunner
from hbtool.compiler.segments import Segment, split_segments
from hbtool.compiler.tile import copy_task, layer_task
from hbtool.errors import CompileError
from hbtool.ops.op import whole
from hbtool.perf.timeline import Timeline, timeline
from hbtool.target.target import Target

WORTH_PROCESSES = 1500
"""Layers times plans from which starting processes pays."""

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


# --------------------------------------------------------------------------------------------------------------- plans


def _plans(options: CompileOptions) -> list[FuseOptions | None]:
    """What is tried: how readily layers are run in bands (None: never)."""
    if options.level < 2:
        return [None]
    weight = 1.0 + 3.0 * (1.0 - options.latency_weight)
    usual = FuseOptions(traffic_weight=weight)
    if options.level == 2:
        return [usual]
    return [
        usual,
        FuseOptions(weight, memory_part=0.5, pressure=0.6),
        FuseOptions(weight, memory_part=0.9, pressure=0.95),
        FuseOptions(3 * weight, memory_part=0.6, pressure=0.5),
        None,
    ]


def _compile(nets: list[Net], target: Target, options: CompileOptions) -> tuple[SegmentProgram, ...]:
    """The best program of every net over all plans; `jobs` processes, the same result with any number of them."""
    plans = _plans(options)
    tasks = [(net, target, options, plan) for net in nets for plan in plans]
    work = sum(len(net.layers) for net in nets) * len(plans)
    jobs = min(options.jobs, len(tasks))
    if jobs > 1 and work >= WORTH_PROCESSES:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            results = list(pool.map(_attempt, tasks))
    else:
        results = [_attempt(task) for task in tasks]
    best = []
    for number in range(len(nets)):
        found = results[number * len(plans) : (number + 1) * len(plans)]
        best.append(min(enumerate(found), key=lambda item: (item[1][0], item[0]))[1][1])
    return tuple(best)


Cost = tuple[float, float]
"""What plans are compared by, and what decides between equals."""


def _attempt(task: tuple[Net, Target, CompileOptions, FuseOptions | None]) -> tuple[Cost, SegmentProgram]:
    """(cost, program) of one plan; function calls are cut shorter until each keeps to its limit."""
    net, target, options, plan = task
    limit = float(options.max_time_per_fc)
    compiled = _Compilation(net, target, options, plan, limit).run()
    line = timeline(compiled.program, target)
    for _ in range(MOST_RETRIES if limit else 0):
        longest = max(line.call_us, default=0.0)
        if longest <= options.max_time_per_fc:
            break
        limit *= 0.7 * options.max_time_per_fc / longest
        shorter = _Compilation(net, target, options, None, limit).run()
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
    """One walk through the layers under one plan."""

    def __init__(
        self, net: Net, target: Target, options: CompileOptions, plan: FuseOptions | None, call_limit_us: float
    ) -> None:
        self.net, self.target, self.options, self.plan = net, target, options, plan
        self.addresses = place_tensors(net, target, share=options.level > 0)
        self.memory = Memory(target.onchip_bytes * options.core_num, target.address_bytes)
        self.emitter = Emitter(options.core_num)
        self.residence = Residence(net, self.addresses, target, self.memory, self.emitter, options)
        self.calls = CallLimit(self.residence, call_limit_us)
        self.runner = TileRunner(self.residence, options, self.calls)
        self.bands = BandRunner(self.runner)

    def run(self) -> SegmentProgram:
        for group in self._groups():
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

    def _groups(self) -> list[Group]:
        if self.plan is None:
            return [Group(layer.number, layer.number, 1) for layer in self.net.layers]
        return plan_groups(self.net, self.addresses, self.target, self.memory.size, self.plan)

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
        """Give back what nobody reads any more; O0 puts everything out."""
        for held in self.residence.held.values():
            if held.slot is None:
                continue
            if held.last_use <= layer.number:
                self.residence.drop(held)
            elif self.options.level == 0:
                self.residence.evict(held)

    def _info(self, layer: Layer) -> LayerInfo:
        out = layer.out
        aligned = self.target.layout(out.shape, out.item_bytes).bytes
        tile = layer.tile(whole(out.shape))
        macs = layer.job(tile, out.shape).macs if tile is not None else 0
        return LayerInfo(layer.name, layer.op.name, out.shape, aligned, out.bytes, macs)

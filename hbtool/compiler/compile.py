"""INTEGER graph -> programs: one per BPU segment."""

from __future__ import annotations

import onnx_ir as ir

from hbtool.artifact.program import LayerInfo, Program, SegmentProgram
from hbtool.compiler.addresses import place_tensors
from hbtool.compiler.allocate import Memory
from hbtool.compiler.bands import BandRunner
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
from hbtool.target.target import Target


def compile_model(model: ir.Model, target: Target, options: CompileOptions) -> tuple[SegmentProgram, ...]:
    """The programs of all BPU segments of an INTEGER graph, in execution order.

    Raises:
        CompileError: a node cannot be placed.
    """
    segments = [s for s in split_segments(model) if s.device == "BPU"]
    return tuple(compile_segment(model, s, target, options) for s in segments)


def compile_segment(model: ir.Model, segment: Segment, target: Target, options: CompileOptions) -> SegmentProgram:
    """The program of one BPU segment of an INTEGER graph.

    Raises:
        CompileError: a node cannot be placed, or more cores are asked for than the target has.
    """
    if not 1 <= options.core_num <= target.cores:
        raise CompileError(
            f"core_num is {options.core_num}, {target.march} has {target.cores}",
            where=segment.name,
            hint="Lower core_num in compiler_parameters.",
        )
    return _Compilation(read_net(segment), target, options).run()


class _Compilation:
    def __init__(self, net: Net, target: Target, options: CompileOptions) -> None:
        self.net, self.target, self.options = net, target, options
        self.addresses = place_tensors(net, target, share=options.level > 0)
        self.memory = Memory(target.onchip_bytes * options.core_num, target.address_bytes)
        self.emitter = Emitter(options.core_num)
        self.residence = Residence(net, self.addresses, target, self.memory, self.emitter)
        self.runner = TileRunner(self.residence, options)
        self.bands = BandRunner(self.runner)

    def run(self) -> SegmentProgram:
        for group in self._groups():
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
        if self.options.level < 2:
            return [Group(layer.number, layer.number, 1) for layer in self.net.layers]
        return plan_groups(self.net, self.addresses, self.target, self.memory.size, FuseOptions())

    def _layer(self, layer: Layer) -> None:
        if layer in self.addresses.free_layers:
            self._finish_views(layer)
        elif layer in self.addresses.joined:
            self._join(layer)
        elif len(layer.outputs) == 1:
            self.runner.run(layer_task(layer))
        else:
            self.runner.run_several(layer)

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

"""The last resort: one instruction whose operands lie in DDR, at DDR speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hbtool.artifact.program import Engine
from hbtool.compiler.emit import Operand
from hbtool.compiler.layers import Layer, Tensor, TileWork
from hbtool.compiler.residence import Residence
from hbtool.compiler.rings import box_bytes
from hbtool.compiler.tile import Task
from hbtool.errors import CompileError
from hbtool.numerics.qtype import INT8
from hbtool.ops.op import Box, whole
from hbtool.target.job import Job, channels_of


class DirectRunner:
    """Emits layers that cannot be cut, from DDR to DDR."""

    def __init__(self, residence: Residence) -> None:
        self.r = residence

    def run(self, task: Task) -> None:
        """A task of which not even one tile fits on chip.

        Raises:
            CompileError: the operator cannot run whole.
        """
        work = task.tile(task.box)
        if work is None:
            raise CompileError("the operator cannot run whole", where=task.layer.node)
        for tensor in (task.out, *(t for _, t in task.computed)):
            self.r.evict(self.r.of(tensor))
        self._emit(task.engine, task.op, work, task.inputs, [(task.out, task.box)])

    def run_several(self, layer: Layer) -> None:
        """A layer with several results."""
        boxes = tuple(None if t is None else whole(t.shape) for t in layer.inputs)
        for tensor in (*layer.outputs, *(t for _, t in layer.computed)):
            self.r.evict(self.r.of(tensor))
        shapes = [None if t is None else t.shape for t in layer.inputs]
        work = layer.op.work(layer.attributes, shapes, layer.out.shape, [INT8 for _ in shapes])
        channels = channels_of(layer.out.shape)
        job = Job("vector", vector_ops=max(work.vector_ops, 1), bits=work.bits, channels=channels)
        results = [(t, whole(t.shape)) for t in layer.outputs]
        tile = TileWork(boxes, layer.attribute_values, job)
        self._emit("vector", layer.op.name, tile, layer.inputs, results)
        for tensor, box in results:
            self.r.note_written(tensor, box, at_home=True)

    def _emit(
        self,
        engine: Engine,
        op: str,
        work: TileWork,
        operands: Sequence[Tensor | None],
        results: Sequence[tuple[Tensor, Box]],
    ) -> None:
        inputs: list[Operand | None] = []
        loaded = stored = 0
        for tensor, box in zip(operands, work.boxes, strict=True):
            if tensor is None or box is None:
                inputs.append(None)
                continue
            slot = self.r.constant(tensor) if tensor.data is not None else self.r.home(self.r.of(tensor))
            at = Operand(slot.view(box, tensor.type), slot, box) if tensor.data is not None else None
            inputs.append(at or self.r.operand(tensor, box, slot))
            loaded += box_bytes(box, tensor.item_bytes)
        outputs = []
        for tensor, box in results:
            self.r.of(tensor).in_ddr = True
            outputs.append(self.r.operand(tensor, box, self.r.home(self.r.of(tensor))))
            stored += box_bytes(box, tensor.item_bytes)
        job = replace(work.job, loaded_bytes=loaded, stored_bytes=stored)
        self.r.emitter.add(engine, 0, op, work.attributes, inputs, outputs, self.r.layer, job)
        for (tensor, box), result in zip(results, outputs, strict=True):
            region = self.r.output_slots.get(tensor)
            if region is not None and region is not result.slot:
                target = Operand(region.view(box, tensor.type), region, box)
                self.r.transfer(result, target, tensor.item_bytes, 0)

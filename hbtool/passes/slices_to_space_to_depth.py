"""The Focus of YOLOv5 (every b-th pixel of each phase, phases joined as channels) becomes SpaceToDepth.

Before: x -> b * b times Slice(starts (i, j), steps (b, b)) of H and W -> Concat(channels) -> Conv
After: x -> SpaceToDepth(b) -> Conv, with the Conv's input channels in SpaceToDepth's order of phases

The order of the phases differs from exporter to exporter, so it is folded into the Conv; where the phases are in
SpaceToDepth's order already, no Conv is needed.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.ir import graph
from hbtool.passes.fold_affine import new_constant
from hbtool.passes.replace import insert, is_standard, producer_of, take_place


def slices_to_space_to_depth(model: ir.Model) -> bool:
    """Rewrite everywhere; returns whether anything changed."""
    changed = False
    for node in list(model.graph):
        if node.graph is not None and is_standard(node, "Concat") and len(node.inputs) >= 4:
            changed |= _rewrite(model, node)
    return changed


def _rewrite(model: ir.Model, concat: ir.Node) -> bool:
    parts = [_phase(v) for v in concat.inputs]
    found = [p for p in parts if p is not None]
    if len(found) != len(parts) or len({id(p[0]) for p in found}) != 1 or len({p[2] for p in found}) != 1:
        return False
    source, block = found[0][0], found[0][2]
    shape = graph.known_shape(source)
    phases = [p[1] for p in found]
    wanted = [(i, j) for i in range(block) for j in range(block)]
    if shape is None or sorted(phases) != wanted or any(n % block for n in shape[2:]):
        return False
    if graph.attribute(concat, "axis", 0) % 4 != 1:
        return False
    conv = graph.sole_consumer(concat.outputs[0])
    if phases != wanted and not _reorder_inputs(model, conv, [phases.index(p) for p in wanted], shape[1]):
        return False
    name = graph.node_name(concat)
    concat.name = f"{name}_of_slices"
    out_shape = (shape[0], shape[1] * block * block, shape[2] // block, shape[3] // block)
    out = insert(concat, "SpaceToDepth", [source], out_shape, {"blocksize": block}, name)
    take_place(model, concat.outputs[0], out)
    return True


def _phase(value: ir.Value | None) -> tuple[ir.Value, tuple[int, int], int] | None:
    """(source, phase along H and W, step) of a strided Slice, or of a Slice of H behind a Slice of W or vice versa."""
    starts, steps = {2: 0, 3: 0}, {2: 1, 3: 1}
    node = producer_of(value, "Slice")
    source = value
    while node is not None and node.inputs[0] is not None:
        ranges = _ranges(node)
        if ranges is None or any(axis not in starts or steps[axis] != 1 for axis in ranges):
            return None
        for axis, (start, step) in ranges.items():
            starts[axis], steps[axis] = start, step
        source = node.inputs[0]
        if all(step > 1 for step in steps.values()):
            break
        node = producer_of(source, "Slice")
    if source is None or steps[2] != steps[3] or steps[2] < 2 or len(graph.known_shape(source) or ()) != 4:
        return None
    return source, (starts[2], starts[3]), steps[2]


def _ranges(node: ir.Node) -> dict[int, tuple[int, int]] | None:
    """axis -> (start, step) of a Slice that runs to the end of each axis; None otherwise."""
    source = node.inputs[0]
    shape = graph.known_shape(source) if source is not None else None
    starts, ends = graph.constant(graph.input_at(node, 1)), graph.constant(graph.input_at(node, 2))
    axes, steps = graph.constant(graph.input_at(node, 3)), graph.constant(graph.input_at(node, 4))
    if shape is None or starts is None or ends is None or steps is None:
        return None
    axes = np.arange(starts.size) if axes is None else axes
    found: dict[int, tuple[int, int]] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = int(axis) % len(shape)
        if not (0 <= start < step and step > 1 and end >= shape[axis]):
            return None
        found[axis] = (int(start), int(step))
    return found


def _reorder_inputs(model: ir.Model, conv: ir.Node | None, order: list[int], channels: int) -> bool:
    """Give the Conv's weights the phases in another order: phase number `order[k]` comes k-th."""
    if conv is None or not is_standard(conv, "Conv") or graph.attribute(conv, "group", 1) != 1:
        return False
    weight = graph.constant(conv.inputs[1])
    if weight is None:
        return False
    index = [phase * channels + c for phase in order for c in range(channels)]
    value = conv.inputs[1]
    assert value is not None
    conv.replace_input_with(1, new_constant(model, f"{value.name}_reordered", weight[:, index]))
    return True

"""Sliding windows: explicit padding from ONNX attributes, and which input box an output box needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from hbtool.ir import graph
from hbtool.ops.op import Box


@dataclass(frozen=True)
class Window:
    """A window over the spatial axes, with explicit padding (all begins, then all ends)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    def span(self, axis: int) -> int:
        """Elements from the first to the last tap on an axis."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def input_box(self, box: Box, shape: Sequence[int]) -> tuple[Box, tuple[int, ...]]:
        """The input box (spatial axes only) under output box `box`, clipped to `shape`, and the padding left over."""
        boxes, before, after = [], [], []
        for i, ((start, stop), size) in enumerate(zip(box, shape, strict=True)):
            low = start * self.strides[i] - self.pads[i]
            high = (stop - 1) * self.strides[i] - self.pads[i] + self.span(i)
            clipped = (min(max(low, 0), size), max(min(high, size), 0))
            boxes.append((clipped[0], max(clipped)))
            before.append(clipped[0] - low if low < 0 else 0)
            after.append(max(high - size, 0))
        return tuple(boxes), (*before, *after)


def window_of(node: ir.Node, kernel: Sequence[int] | None = None) -> Window:
    """The window of a Conv or pooling node of static shape: auto_pad and ceil_mode become explicit padding."""
    taps = tuple(kernel or graph.attribute(node, "kernel_shape"))
    rank = len(taps)
    strides = graph.attribute(node, "strides") or (1,) * rank
    dilations = graph.attribute(node, "dilations") or (1,) * rank
    pads = list(graph.attribute(node, "pads") or (0,) * (2 * rank))
    source = node.inputs[0]
    assert source is not None
    size = graph.static_shape(source)[2:]
    out = graph.static_shape(node.outputs[0])[2:]
    auto = graph.attribute(node, "auto_pad", "NOTSET")
    for i in range(rank):
        span = (taps[i] - 1) * dilations[i] + 1
        needed = (out[i] - 1) * strides[i] + span - size[i]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(needed, 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[rank + i] = (small, large) if auto == "SAME_UPPER" else (large, small)
        elif auto == "VALID":
            pads[i] = pads[rank + i] = 0
        # With ceil_mode the last window may reach past the given padding; else padding that no window reaches goes.
        pads[rank + i] = max(needed - pads[i], 0)
    return Window(taps, tuple(strides), tuple(pads), tuple(dilations))

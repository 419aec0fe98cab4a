"""The primitives of `hbtool.numerics.int_math` on torch tensors, bit for bit the same on CPU and CUDA.

Accumulators are float64 tensors of exact integers (below 2^53). A convolution or matrix product runs in float32 where
every partial sum stays below 2^24 and the backend computes float32 products exactly, else in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hbtool.numerics.piecewise import BLOCK, BLOCK_BITS
from hbtool.numerics.qtype import IntType, QParams

EXACT_FLOAT32 = 1 << 24

_DTYPES = {"int8": torch.int8, "int16": torch.int16, "int32": torch.int32}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_COMPARE = {"gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "lt": torch.lt, "le": torch.le}


def _dtype(type_: IntType) -> torch.dtype:
    return _DTYPES[type_.name]


def _float32_is_exact(x: Tensor) -> bool:
    """Whether float32 products of this device are sums of plain IEEE products (no TF32, no Winograd)."""
    plain = torch.get_float32_matmul_precision() == "highest" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return x.device.type == "cpu" and plain


class TorchMath:
    """The primitives on tensors; the protocol `IntMath` documents each."""

    def conv(  # noqa: D102
        self,
        x: Tensor,
        w: Tensor,
        *,
        zero_point: int,
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        group: int,
    ) -> Tensor:
        rank = w.dim() - 2
        reach = (1 << (8 * x.element_size() - 1)) + abs(zero_point)
        largest = int(w.double().abs().flatten(1).sum(1).max()) * reach if w.numel() else 0
        exact = largest < EXACT_FLOAT32 and _float32_is_exact(x)
        dtype = torch.float32 if exact else torch.float64
        data = x.to(dtype) - zero_point if zero_point else x.to(dtype)
        begin, end = tuple(pads[:rank]), tuple(pads[rank:])
        padding: Any = begin
        if begin != end:
            data = F.pad(data, [p for pair in zip(reversed(begin), reversed(end), strict=True) for p in pair])
            padding = (0,) * rank
        y = _CONV[rank](data, w.to(dtype), None, tuple(strides), padding, tuple(dilations), group)
        return y.double() if exact else y.round()

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:  # noqa: D102
        bound = float(a.abs().max()) * float(b.abs().max()) * a.shape[-1] if a.numel() and b.numel() else 0.0
        if bound < EXACT_FLOAT32 and _float32_is_exact(a):
            return torch.matmul(a.float(), b.float()).double()
        return torch.matmul(a.double(), b.double()).round()

    def requantize(self, acc: Tensor, multiplier: Tensor, type_: IntType, zero_point: int) -> Tensor:  # noqa: D102
        scaled = (acc.float() * multiplier.float()).round_()
        if zero_point:
            return (scaled.double() + zero_point).clamp_(type_.min, type_.max).to(_dtype(type_))
        # float32 holds the limits of int8 and int16 exactly; int32 needs more.
        scaled = scaled.double() if type_.bits > 16 else scaled
        return scaled.clamp_(type_.min, type_.max).to(_dtype(type_))

    def weighted_sum(  # noqa: D102
        self, terms: Sequence[tuple[Tensor, int, float]], type_: IntType, zero_point: int
    ) -> Tensor:
        (first, zp, ratio), *rest = terms
        total = (first.double() - zp) * ratio
        for x, zp, ratio in rest:
            total = total + (x.double() - zp) * ratio
        return total.round_().add_(zero_point).clamp_(type_.min, type_.max).to(_dtype(type_))

    def widen(self, x: Tensor, zero_point: int = 0) -> Tensor:  # noqa: D102
        return x.double() - zero_point if zero_point else x.double()

    def narrow(self, x: Tensor, type_: IntType) -> Tensor:  # noqa: D102
        return x.clamp(type_.min, type_.max).to(_dtype(type_))

    def clamp(self, x: Tensor, low: int, high: int) -> Tensor:  # noqa: D102
        limits = None if x.is_floating_point() else torch.iinfo(x.dtype)
        if limits is not None and low <= limits.min and high >= limits.max:
            return x
        return x.clamp(low, high)

    def quantize(self, x: Tensor, q: QParams) -> Tensor:  # noqa: D102
        scale = torch.from_numpy(np.array(q.scale_array(x.dim()))).to(x.device)
        ratio = (x.float() / scale).round_().double().nan_to_num_(nan=0.0)
        return ratio.add_(q.zero_point).clamp_(q.type.min, q.type.max).to(_dtype(q.type))

    def dequantize(self, x: Tensor, q: QParams) -> Tensor:  # noqa: D102
        scale = torch.from_numpy(np.array(q.scale_array(x.dim()))).to(x.device)
        return (x.double() - q.zero_point).float() * scale

    def table(self, x: Tensor, table: Tensor, type_: IntType) -> Tensor:  # noqa: D102
        return table[x.long() - type_.min]

    def segment_table(self, x: Tensor, blocks: Tensor, entries: Tensor) -> Tensor:  # noqa: D102
        offset = x.long() + (1 << 15)
        block, inner = offset >> BLOCK_BITS, offset & (BLOCK - 1)
        first, shift = blocks[block, 0].long(), blocks[block, 1].long()
        k = first + (inner >> shift)
        weight = (inner - ((inner >> shift) << shift)) << (BLOCK_BITS - shift)
        blend = entries[k].double() * (BLOCK - weight) + entries[k + 1].double() * weight
        return (blend / BLOCK).round_().to(entries.dtype)

    def window_max(  # noqa: D102
        self,
        x: Tensor,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        pad_value: int,
    ) -> Tensor:
        taps = self._taps(x, kernel, strides, pads, dilations, pad_value)
        result = next(taps)
        for tap in taps:
            result = torch.maximum(result, tap)
        return result

    def window_sum(  # noqa: D102
        self,
        x: Tensor,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        pad_value: int,
    ) -> Tensor:
        if len(kernel) == 2 and all(d == 1 for d in dilations) and x.dim() == 4:
            padded = self.pad(x.double(), [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])], pad_value)
            return F.avg_pool2d(padded, tuple(kernel), tuple(strides), divisor_override=1)
        taps = self._taps(x.double(), kernel, strides, pads, dilations, pad_value)
        result = next(taps).clone()
        for tap in taps:
            result += tap
        return result

    def _taps(
        self,
        x: Tensor,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        pad_value: int,
    ) -> Any:
        """For each kernel position the tensor of what all windows see there."""
        rank = len(kernel)
        width = [(0, 0)] * (x.dim() - rank) + [(pads[i], pads[rank + i]) for i in range(rank)]
        padded = self.pad(x, width, pad_value)
        sizes = padded.shape[x.dim() - rank :]
        counts = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(sizes, kernel, dilations, strides, strict=True)]
        for position in np.ndindex(*kernel):
            cut = [slice(None)] * (x.dim() - rank)
            for p, d, s, n in zip(position, dilations, strides, counts, strict=True):
                cut.append(slice(p * d, p * d + (n - 1) * s + 1, s))
            yield padded[tuple(cut)]

    def pad(self, x: Tensor, pads: Sequence[tuple[int, int]], value: int) -> Tensor:  # noqa: D102
        if not any(a or b for a, b in pads):
            return x
        return F.pad(x, [p for pair in reversed(list(pads)) for p in pair], value=value)

    def spread(self, x: Tensor, strides: Sequence[int], value: int) -> Tensor:  # noqa: D102
        lead = x.dim() - len(strides)
        shape = [*x.shape[:lead], *((n - 1) * s + 1 for n, s in zip(x.shape[lead:], strides, strict=True))]
        out = torch.full(shape, value, dtype=x.dtype, device=x.device)
        out[(slice(None),) * lead + tuple(slice(None, None, s) for s in strides)] = x
        return out

    def reduce(self, x: Tensor, kind: str, axes: Sequence[int], keepdims: bool) -> Tensor:  # noqa: D102
        if kind == "sum":
            return x.double().sum(tuple(axes), keepdim=keepdims)
        return (x.amax if kind == "max" else x.amin)(tuple(axes), keepdim=keepdims)

    def argreduce(self, x: Tensor, kind: str, axis: int, keepdims: bool, last: bool) -> Tensor:  # noqa: D102
        best = (x.amax if kind == "max" else x.amin)(axis, keepdim=True)
        size = x.shape[axis]
        shape = [size if i == axis % x.dim() else 1 for i in range(x.dim())]
        index = torch.arange(size, device=x.device).view(shape)
        if last:
            return torch.where(x == best, index, -1).amax(axis, keepdim=keepdims)
        return torch.where(x == best, index, size).amin(axis, keepdim=keepdims)

    def top(self, x: Tensor, count: int, axis: int, largest: bool) -> tuple[Tensor, Tensor]:  # noqa: D102
        values, order = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, count), order.narrow(axis, 0, count)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:  # noqa: D102
        return x.reshape(tuple(int(n) for n in shape))

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:  # noqa: D102
        return x.permute(tuple(perm))

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:  # noqa: D102
        return torch.cat(list(parts), axis)

    def slice(self, x: Tensor, slices: Sequence[tuple[int, int, int]]) -> Tensor:  # noqa: D102
        for axis, (start, stop, step) in enumerate(slices):
            if step > 0:
                x = x[(slice(None),) * axis + (slice(start, stop, step),)]
                continue
            # Tensors have no negative steps; the positions are the same.
            positions = range(x.shape[axis])[slice(start, None if stop < 0 else stop, step)]
            x = x.index_select(axis, torch.tensor(list(positions), dtype=torch.long, device=x.device))
        return x

    def take(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        axis %= x.dim()
        flat = indices.reshape(-1).long()
        flat = torch.where(flat < 0, flat + x.shape[axis], flat)
        taken = x.index_select(axis, flat)
        return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])

    def sample(  # noqa: D102
        self, x: Tensor, columns: Tensor, rows: Tensor, bits: int, nearest: bool, border: bool
    ) -> Tensor:
        one, height, width = 1 << bits, x.shape[2], x.shape[3]
        columns, rows = columns.double(), rows.double()
        if border:
            columns, rows = columns.clamp(0, (width - 1) * one), rows.clamp(0, (height - 1) * one)
        if nearest:
            columns, rows = ((p / one).round() * one for p in (columns, rows))
        left, top = (columns / one).floor(), (rows / one).floor()
        right, below = columns - left * one, rows - top * one
        image = torch.arange(x.shape[0], device=x.device)[:, None, None]
        total = torch.zeros((*columns.shape, x.shape[1]), dtype=torch.float64, device=x.device)
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = left + dx, top + dy
                weight = (right if dx else one - right) * (below if dy else one - below)
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                near_row, near_column = row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
                total += x[image, :, near_row, near_column].double() * (weight * inside)[..., None]
        return total.permute(0, 3, 1, 2)

    def expand(self, x: Tensor, shape: Sequence[int]) -> Tensor:  # noqa: D102
        return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape)))

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return torch.where(condition != 0, x, y)

    def compare(self, kind: str, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return _COMPARE[kind](x, y).to(torch.int8)

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return torch.maximum(x, y)

    def minimum(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return torch.minimum(x, y)

    def add(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return x.double() + y

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return x.double() * y

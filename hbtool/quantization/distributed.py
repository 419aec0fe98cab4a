"""Statistics that several processes collect together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def is_shared() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_max(value: Tensor) -> Tensor:
    """Elementwise maximum over all processes (the value itself with one process)."""
    if is_shared():
        value = value.contiguous()
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value


def all_sum(value: Tensor) -> Tensor:
    """Elementwise sum over all processes (the value itself with one process)."""
    if is_shared():
        value = value.contiguous()
        dist.all_reduce(value, op=dist.ReduceOp.SUM)
    return value


def all_min_max(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest `low` and largest `high` over all processes, one message."""
    if not is_shared():
        return low, high
    both = all_max(torch.stack((-low, high)))
    return -both[0], both[1]

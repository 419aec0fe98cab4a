"""What O3 compares: ways to compile a segment, each different from the others."""

from __future__ import annotations

from dataclasses import dataclass

from hbtool.compiler.addresses import Addresses
from hbtool.compiler.fuse import FuseOptions, Group, plan_groups
from hbtool.compiler.layers import Net
from hbtool.compiler.options import CompileOptions
from hbtool.target.target import Target


@dataclass(frozen=True)
class Pieces:
    """How finely layers are cut whose data lie on chip, so that the next unit can start before the layer ends.

    Attributes:
        cycles: a piece takes about this long at least.
        most: pieces of a layer, per core.
    """

    cycles: int = 800
    most: int = 4


@dataclass(frozen=True)
class Strategy:
    """How a segment is compiled: which layers run in bands, and how finely the others are cut."""

    groups: tuple[Group, ...]
    pieces: Pieces = Pieces()


def one_by_one(net: Net, pieces: Pieces = Pieces()) -> Strategy:
    """Every layer by itself."""
    return Strategy(tuple(Group(layer.number, layer.number, 1) for layer in net.layers), pieces)


def strategies(net: Net, addresses: Addresses, target: Target, options: CompileOptions) -> list[Strategy]:
    """One strategy up to O2; those worth comparing at O3, none twice."""
    if options.level < 2:
        return [one_by_one(net)]
    weight = 1.0 + 3.0 * (1.0 - options.latency_weight)
    fusing = [FuseOptions(weight, memory_part=0.9, pressure=0.95)]
    if options.level > 2:
        fusing.append(FuseOptions(weight, memory_part=0.75, pressure=0.8))
        fusing.append(FuseOptions(weight, memory_part=0.85, pressure=0.8))
        fusing.append(FuseOptions(3 * weight, memory_part=0.6, pressure=0.5))
    memory_bytes = target.onchip_bytes * options.core_num
    found = [Strategy(tuple(plan_groups(net, addresses, target, memory_bytes, fuse))) for fuse in fusing]
    if options.level > 2:
        found.append(one_by_one(net))
        coarse = Pieces(3000, 8)
        found += [Strategy(s.groups, coarse) for s in found]
    return list(dict.fromkeys(found))

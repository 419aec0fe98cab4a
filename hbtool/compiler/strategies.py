"""What O3 compares: ways to compile a segment, each different from the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

    cycles: int
    most: int


FINE, COARSE = Pieces(800, 4), Pieces(3000, 8)


@dataclass(frozen=True)
class Strategy:
    """How a segment is compiled.

    Attributes:
        groups: which layers run in bands.
        pieces: how finely the others are cut.
        latency_weight: what tiles are chosen by, 0 (DDR bytes) to 1 (time).
        resident: results may stay on chip between layers; else every layer goes from DDR to DDR.
    """

    groups: tuple[Group, ...]
    pieces: Pieces = FINE
    latency_weight: float = 1.0
    resident: bool = True


def one_by_one(net: Net, latency_weight: float, pieces: Pieces = FINE) -> Strategy:
    """Every layer by itself."""
    return Strategy(tuple(Group(layer.number, layer.number, 1) for layer in net.layers), pieces, latency_weight)


def strategies(net: Net, addresses: Addresses, target: Target, options: CompileOptions) -> list[Strategy]:
    """One strategy up to O2; those worth comparing at O3, none twice.

    What is chosen for its few bytes layer by layer is not always what moves the fewest in the end. Where bytes count,
    the strategies for the least time are compared too.
    """
    plain = one_by_one(net, options.latency_weight)
    through_ddr = replace(plain, resident=False)
    if options.level < 2:
        return [plain if options.level else through_ddr]
    found = _grouped(net, addresses, target, options, options.latency_weight)
    if options.level > 2:
        if options.latency_weight < 1.0:
            found += _grouped(net, addresses, target, options, 1.0)
        else:
            found += [replace(s, pieces=COARSE) for s in found]
        found.append(through_ddr)  # where hardly anything fits on chip, trying to keep it there costs more
    return list(dict.fromkeys(found))


def _grouped(
    net: Net, addresses: Addresses, target: Target, options: CompileOptions, latency_weight: float
) -> list[Strategy]:
    """Strategies that differ in how readily layers are grouped (one up to O2)."""
    weight = 1.0 + 3.0 * (1.0 - latency_weight)
    fusing = [FuseOptions(weight, memory_part=0.9, pressure=0.95)]
    if options.level > 2:
        fusing.append(FuseOptions(weight, memory_part=0.75, pressure=0.8))
        fusing.append(FuseOptions(weight, memory_part=0.85, pressure=0.8))
        fusing.append(FuseOptions(3 * weight, memory_part=0.6, pressure=0.5))
    memory_bytes = target.onchip_bytes * options.core_num
    groups = [tuple(plan_groups(net, addresses, target, memory_bytes, fuse)) for fuse in fusing]
    found = [Strategy(g, FINE, latency_weight) for g in groups]
    return [*found, one_by_one(net, latency_weight)] if options.level > 2 else found

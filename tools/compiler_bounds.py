"""Holds compiled programs against what the machine allows at best, and compile time against depth.

    python tools/compiler_bounds.py [SHARED_FOLDER] [--write] [--march bayes-e ...]

The lower bound of a network's latency is max(MACs / peak of the array, compulsory bytes / DDR bandwidth); compulsory
are every weight, input and output once, in the machine's layout. ResNet-50 is built here; the other networks come from
SHARED_FOLDER/architectures. Compile times are CPU seconds of one process (`jobs: 1`), so that other work on the machine
does not count. `--write` puts the tables into docs/compiler.md. The exit code is 1 where a figure misses its limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from integer_networks import integer_network, lowered
from real_models import ROOT, markdown
from resnet import RESNET50, resnet

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool import target as targets
from hbtool.artifact.program import SegmentProgram
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.perf.timeline import timeline
from hbtool.target.target import MARCHES, Target

PAGE = ROOT / "docs" / "compiler.md"
NETWORKS = ("resnetv2_50", "mobilenetv2", "yolov8n", "yolov8s-seg")
TIMED = ("yolov8n", "yolov8x")
DEEPER = (1, 2, 4)

MOST_OVER_BOUND = 1.3
MOST_OVER_COMPULSORY = 1.2
MOST_COMPILE_S = 10.0
MOST_GROWTH = 2.5


@dataclass(frozen=True)
class Figures:
    """A network on a march.

    Attributes:
        name: of the network.
        o0_us: latency at O0.
        o3_us: latency at O3.
        array_us: MACs at the array's peak.
        ddr_us: compulsory bytes at the DDR's bandwidth.
        moved: bytes that bandwidth mode moves, over the compulsory ones.
        onchip: highest on-chip address used, over the memory there is.
    """

    name: str
    o0_us: float
    o3_us: float
    array_us: float
    ddr_us: float
    moved: float
    onchip: float

    @property
    def over_bound(self) -> float:
        """Latency at O3 over the lower bound."""
        return self.o3_us / max(self.array_us, self.ddr_us)

    def row(self) -> tuple[str, ...]:
        """The figures as a line of the table."""
        bound = "array" if self.array_us > self.ddr_us else "DDR"
        return (
            self.name,
            f"{self.o0_us / 1e3:.2f}",
            f"{self.o3_us / 1e3:.2f}",
            f"{self.o3_us / self.o0_us:.2f}",
            f"{max(self.array_us, self.ddr_us) / 1e3:.2f} ({bound})",
            f"{self.over_bound:.2f}",
            f"{self.moved:.2f}",
            f"{100 * self.onchip:.0f} %",
        )


HEADER = (
    "network",
    "O0 ms",
    "O3 ms",
    "O3 / O0",
    "bound ms",
    "O3 / bound",
    "bandwidth mode / compulsory",
    "on-chip peak",
)


def compulsory_bytes(programs: tuple[SegmentProgram, ...]) -> int:
    """Weights, inputs and outputs of all segments, each once."""
    kinds = ("input", "output", "weights")
    return sum(r.bytes for c in programs for r in c.program.regions if r.kind in kinds)


def figures(name: str, model: ir.Model, target: Target) -> Figures:
    """Compile a network in the ways that are compared."""
    slow = compile_model(model, target, CompileOptions("O0"))
    fast = compile_model(model, target, CompileOptions("O3"))
    least = compile_model(model, target, CompileOptions("O3", "bandwidth"))
    latency_us = [sum(timeline(c.program, target).total_us for c in programs) for programs in (slow, fast)]
    macs = sum(layer.macs for c in fast for layer in c.program.layers)
    needed = compulsory_bytes(fast)
    return Figures(
        name,
        latency_us[0],
        latency_us[1],
        target.us(macs / target.macs_per_cycle),
        needed / target.ddr_bytes_per_second * 1e6,
        sum(timeline(c.program, target).ddr_bytes for c in least) / needed,
        max(c.program.onchip_peak_bytes / c.program.onchip_bytes for p in (slow, fast, least) for c in p),
    )


def networks(shared: Path | None, target: Target, names: tuple[str, ...]) -> Iterator[tuple[str, ir.Model]]:
    """ResNet-50, and architectures of the shared folder, as INTEGER graphs."""
    yield "resnet50", lowered(resnet(), "resnet50", target.family, target.multiplier_bits)
    for name in names if shared is not None else ():
        path = shared / "architectures" / f"{name}.onnx"
        yield name, integer_network(path, target.family, target.multiplier_bits)


def compile_seconds(model: ir.Model, target: Target) -> float:
    """CPU seconds at O3, the better of two runs."""
    runs = []
    for _ in range(2):
        start = time.process_time()
        compile_model(model, target, CompileOptions("O3"))
        runs.append(time.process_time() - start)
    return min(runs)


def compile_times(shared: Path | None, target: Target) -> tuple[list[tuple[str, ...]], bool]:
    """(rows of the table, whether all limits are kept) of compiling networks and ever deeper ResNets."""
    rows, kept = [], True
    for name, model in networks(shared, target, TIMED):
        seconds = compile_seconds(model, target)
        limited = name in ("resnet50", "yolov8n")
        kept &= seconds < MOST_COMPILE_S or not limited
        rows.append((name, f"{seconds:.1f}", f"{MOST_COMPILE_S:.0f} s" if limited else ""))
    before = 0.0
    for times in DEEPER:
        blocks = tuple(n * times for n in RESNET50)
        model = lowered(resnet(blocks), "deeper", target.family, target.multiplier_bits)
        seconds = compile_seconds(model, target)
        growth = f"{seconds / before:.2f}x" if before else ""
        kept &= not before or seconds / before <= MOST_GROWTH
        rows.append(
            (f"ResNet of {times} x (3, 4, 6, 3) blocks", f"{seconds:.1f} {growth}", f"{MOST_GROWTH}x" if before else "")
        )
        before = seconds
    return rows, kept


def kept(found: Figures, target: Target) -> bool:
    """Whether ResNet-50 keeps to its limits (the others are shown)."""
    return found.name != "resnet50" or (found.over_bound <= MOST_OVER_BOUND and found.moved <= MOST_OVER_COMPULSORY)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, nargs="?", help="folder with architectures/")
    parser.add_argument("--march", nargs="+", default=list(MARCHES))
    parser.add_argument("--write", action="store_true", help="write docs/compiler.md")
    options = parser.parse_args()
    good, parts = True, []
    for march in options.march:
        target = targets.load(march)
        rows = []
        for name, model in networks(options.shared, target, NETWORKS):
            found = figures(name, model, target)
            good &= kept(found, target)
            rows.append(found.row())
            print(march, *found.row(), sep=" | ", flush=True)
        parts.append(f"### {march}\n\n{markdown(HEADER, rows)}\n")
    times, in_time = compile_times(options.shared, targets.load("bayes-e"))
    for row in times:
        print(*row, sep=" | ", flush=True)
    table = markdown(("network (bayes-e, O3)", "CPU seconds", "limit"), times)
    if options.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- bounds -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        tables = "\n".join([*parts, f"### Compile time\n\n{table}\n"])
        PAGE.write_text(f"{head}<!-- bounds -->\n\n{tables}\n{end}{tail}", encoding="utf-8")
    return 0 if good and in_time else 1


if __name__ == "__main__":
    sys.exit(main())

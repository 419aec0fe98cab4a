"""Simulator = host runtime = stock onnxruntime, bit for bit, for real models and published architectures.

    python tools/simulator_sweep.py SHARED_FOLDER [--only NAME ...] [--march bayes-e] [--most-gmacs 1.0] [--write]

Every network is compiled with O0 and O3, in all three modes, for 1 and 2 cores. Each program that differs from those
before it runs in the simulator, which checks every access; its outputs are compared with those of the host runtime, and
these with the quantized ONNX in a plain onnxruntime session. `--write` puts the result into docs/compiler.md. The exit
code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from integer_networks import integer_network
from real_cases import CASES
from real_models import ROOT, markdown, write_config

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool import target as targets
from hbtool.artifact.program import SegmentProgram
from hbtool.artifact.program_json import write_program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.config import load_config
from hbtool.errors import HbError
from hbtool.flows.makertbin import makertbin
from hbtool.ir import graph
from hbtool.ir.onnx_session import make_session
from hbtool.ir.save import model_bytes
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.runtime.reference import run_reference
from hbtool.runtime.simulator import simulate
from hbtool.target.target import Target

PAGE = ROOT / "docs" / "compiler.md"
LEVELS = ("O0", "O3")
MODES = ("latency", "bandwidth", "balance")
CORES = (1, 2)
CALIBRATION_SAMPLES = 3

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Swept:
    """What became of a network: programs that ran, and what differed."""

    name: str
    programs: int
    differences: tuple[str, ...]

    def row(self) -> tuple[str, ...]:
        """A line of the table."""
        return self.name, str(self.programs), "; ".join(self.differences) or "none"


def real(root: Path, name: str, march: str) -> tuple[ir.Model, Feeds]:
    """The INTEGER graph of a real model as makertbin builds it, and a sample in the graph's own types."""
    case = CASES[name](root, False)
    case = replace(case, calibration=case.calibration[:CALIBRATION_SAMPLES])
    with tempfile.TemporaryDirectory() as folder:
        built = makertbin(load_config(write_config(case, Path(folder), {"calibration_type": "max"}, march)))
        return built.artifact.model, random_feeds(built.artifact.model)


def random_feeds(model: ir.Model) -> Feeds:
    """Random inputs of a graph, in its own types."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        kind, shape = value.dtype.numpy(), graph.static_shape(value)
        if np.issubdtype(kind, np.floating):
            feeds[graph.value_name(value)] = rng.standard_normal(shape).astype(kind)
        else:
            feeds[graph.value_name(value)] = rng.integers(-128, 128, shape).astype(kind)
    return feeds


def expected(model: ir.Model, feeds: Feeds) -> tuple[list[np.ndarray], list[str]]:
    """(outputs of the host runtime, what differs in a plain onnxruntime session)."""
    standard = to_standard_onnx(model)
    host = [np.asarray(x) for x in make_session(standard).run(None, feeds)]
    plain = onnxruntime.InferenceSession(model_bytes(standard), providers=["CPUExecutionProvider"])
    differences = [
        f"host and onnxruntime differ in {value.name}"
        for value, a, b in zip(model.graph.outputs, host, plain.run(None, feeds), strict=True)
        if not np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    ]
    return host, differences


def sweep(name: str, model: ir.Model, feeds: Feeds, target: Target) -> Swept:
    """Every distinct program of a network against the host runtime."""
    outputs, differences = expected(model, feeds)
    seen: set[str] = set()
    for level, mode, cores in itertools.product(LEVELS, MODES, CORES):
        options = CompileOptions(level, mode, 50, cores)  # type: ignore[arg-type]
        compiled = compile_model(model, target, options)
        key = hashlib.sha256(
            repr([(write_program(replace(c.program, options="")), c.weights) for c in compiled]).encode()
        )
        if key.hexdigest() in seen:
            continue
        seen.add(key.hexdigest())
        differences += [f"{options.text()}: {text}" for text in wrong(model, compiled, target, feeds, outputs)]
    return Swept(name, len(seen), tuple(differences))


def wrong(
    model: ir.Model, compiled: tuple[SegmentProgram, ...], target: Target, feeds: Feeds, outputs: list[np.ndarray]
) -> Iterator[str]:
    """What differs between the simulated programs and the host's outputs."""
    programs = {c.program.name: c for c in compiled}
    try:
        found = run_reference(
            model, feeds, run_bpu=lambda segment, inputs: simulate(programs[segment.name], target, inputs).outputs
        )
    except HbError as error:
        yield str(error)
        return
    for value, host in zip(model.graph.outputs, outputs, strict=True):
        if not np.array_equal(found[graph.value_name(value)], host, equal_nan=host.dtype.kind == "f"):
            yield f"{value.name} differs"


def architectures(shared: Path, most_gmacs: float) -> list[str]:
    """Published architectures of at most so many multiply-accumulates, the smallest first."""
    with (shared / "architectures" / "INDEX.csv").open() as file:
        rows = [(float(row["GMACs"]), row["model"]) for row in csv.DictReader(file)]
    return [name for gmacs, name in sorted(rows) if gmacs <= most_gmacs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--only", nargs="+", help="names of real models or architectures")
    parser.add_argument("--march", default="bayes-e")
    parser.add_argument("--most-gmacs", type=float, default=1.0, help="largest architecture")
    parser.add_argument("--write", action="store_true", help="write the result into docs/compiler.md")
    options = parser.parse_args()
    target = replace(targets.load(options.march), cores=max(CORES))
    names = options.only or [*CASES, *architectures(options.shared, options.most_gmacs)]
    results = []
    for name in names:
        start = time.perf_counter()
        if name in CASES:
            model, feeds = real(options.shared / "real", name, options.march)
        else:
            path = options.shared / "architectures" / f"{name}.onnx"
            model = integer_network(path, target.family, target.multiplier_bits)
            feeds = random_feeds(model)
        results.append(sweep(name, model, feeds, target))
        print(" | ".join(results[-1].row()), f"({time.perf_counter() - start:.0f} s)", flush=True)
    if options.write:
        rows = markdown(("network", "distinct programs", "differences"), [r.row() for r in results])
        head, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- sweep -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        PAGE.write_text(f"{head}<!-- sweep -->\n\nMarch: {options.march}.\n\n{rows}\n\n{end}{tail}", encoding="utf-8")
    return 1 if any(r.differences for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())

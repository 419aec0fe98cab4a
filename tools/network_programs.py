"""Programs of the networks of ../shared/architectures, compiled once per version of hbtool and set of figures.

A cache folder keeps INTEGER graphs by the sources that make them, and programs by all sources, the target's figures and
the level, so that only what changed is made again.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import onnx_ir as ir
from integer_networks import integer_network

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.artifact.program import Program
from hbtool.artifact.program_json import read_program, write_program
from hbtool.compiler.compile import compile_model
from hbtool.compiler.options import CompileOptions
from hbtool.target.target import Target, to_json

ROOT = Path(__file__).resolve().parents[1]
GRAPH_SOURCES = ("hbtool/ir", "hbtool/numerics", "hbtool/ops", "hbtool/passes", "tools/integer_networks.py")
PROGRAM_SOURCES = (*GRAPH_SOURCES, "hbtool/compiler", "hbtool/target/target.py", "hbtool/target/job.py")
PROGRAM_SOURCES += ("hbtool/perf/timeline.py",)


def programs(shared: Path, name: str, target: Target, level: str, folder: Path | None) -> tuple[Program, ...]:
    """The programs of a network, one per BPU segment."""
    figures = json.dumps(to_json(target), sort_keys=True)
    key = hashlib.sha256(f"{_state(PROGRAM_SOURCES)} {figures} {level}".encode()).hexdigest()[:16]
    stored = folder / "programs" / key / f"{name}.json" if folder else None
    if stored is not None and stored.exists():
        return tuple(read_program(line) for line in stored.read_text().splitlines())
    model = _integer_graph(shared, name, target, folder)
    found = tuple(c.program for c in compile_model(model, target, CompileOptions(level)))  # type: ignore[arg-type]
    if stored is not None:
        _store(stored, "".join(write_program(p) + "\n" for p in found).encode())
    return found


def _integer_graph(shared: Path, name: str, target: Target, folder: Path | None) -> ir.Model:
    source = shared / "architectures" / f"{name}.onnx"
    if folder is None:
        return integer_network(source, target.family, target.multiplier_bits)
    kept = folder / "graphs" / _state(GRAPH_SOURCES) / target.family / f"{name}.onnx"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{name}.part.onnx")
        ir.save(integer_network(source, target.family, target.multiplier_bits), part)
        part.rename(kept)
    return ir.load(kept)


def _store(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.rename(path)


@cache
def _state(sources: tuple[str, ...]) -> str:
    """A short hash of source files."""
    found = hashlib.sha256()
    for source in sources:
        path = ROOT / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            found.update(file.read_bytes())
    return found.hexdigest()[:16]

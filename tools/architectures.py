"""Takes every graph of shared/architectures through makertbin and writes docs/architectures.md.

    python tools/architectures.py ../shared                       every network for bayes-e and bayes, small ones first
    python tools/architectures.py ../shared yolo11n levit_128     some of them
    python tools/architectures.py ../shared --march bayes         one march
    python tools/architectures.py ../shared --again               rows that are there, too
    python tools/architectures.py ../shared --failed              rows that failed, again
    python tools/architectures.py ../shared --place               devices and reasons only; prints, writes nothing

A network gets seeded random weights, an RGB camera input where it takes a picture, two random calibration samples with
`calibration_type: max`, and `optimize_level: O1`. Every build runs in a process of its own and its row is written at
once, so the sweep can be stopped and goes on where it was. The exit code is 1 where a row of the page is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import onnx
import yaml

import hbtool.ops  # noqa: F401  # registers the operators
from hbtool.config.loader import parse_config
from hbtool.config.schema import LoadedConfig
from hbtool.errors import HbError
from hbtool.flows.float_stage import prepare_float
from hbtool.flows.makertbin import makertbin
from hbtool.flows.quantize_stage import place_stage
from hbtool.flows.talk import Quiet
from hbtool.ir import graph, meta

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
MARCHES = ("bayes-e", "bayes")
SAMPLES = 2
LIMIT_S = 3600
"""Longest a build may take."""

HEAD = """# Published networks

Written by `tools/architectures.py ../shared`, row by row; do not edit. Every graph of `shared/architectures` with
seeded random weights through `makertbin`: RGB pictures as input, two random calibration samples, `max`, `O1`.
Nodes are those of the node table; seconds are those of one core of a machine that did other work meanwhile.

"""


@dataclass(frozen=True)
class Row:
    """One build.

    Attributes:
        network: graph file without its ending.
        march: where to.
        result: `compiled`, or what went wrong.
        bpu: integer nodes on the BPU.
        cpu: nodes on the CPU.
        segments: BPU segments.
        seconds: from the configuration to the artifact.
        why: node types on the CPU with their reasons.
    """

    network: str
    march: str
    result: str
    bpu: int = 0
    cpu: int = 0
    segments: int = 0
    seconds: int = 0
    why: str = ""

    def line(self) -> str:
        """The row in Markdown."""
        return "| " + " | ".join(str(v).replace("|", "/").replace("\n", " ") for v in asdict(self).values()) + " |"

    @classmethod
    def of(cls, line: str) -> Row:
        """The row that `line` writes."""
        found = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        network, march, result, *counts, why = found
        return cls(network, march, result, *(int(n) for n in counts), why.strip())


def read_rows(page: Path) -> dict[tuple[str, str], Row]:
    """The rows of the page by network and march."""
    if not page.exists():
        return {}
    lines = (line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| "))
    rows = [Row.of(line) for line in lines if not line.startswith("| network")]
    return {(row.network, row.march): row for row in rows}


def write_page(page: Path, new: Sequence[Row], planned: Iterable[tuple[str, str]]) -> None:
    """Put rows into the page, which other processes may write, too; say what of `planned` is not in it."""
    rows = {**read_rows(page), **{(row.network, row.march): row for row in new}}
    made = [r for r in rows.values() if r.result == "compiled"]
    counts = ", ".join(f"{sum(r.march == m for r in made)} for {m}" for m in dict.fromkeys(r.march for r in made))
    table = ["| " + " | ".join(f.name for f in fields(Row)) + " |", "|---|---|---|---:|---:|---:|---:|---|"]
    table += [rows[key].line() for key in sorted(rows)]
    missing = ", ".join(f"{network} ({march})" for network, march in sorted(set(planned) - set(rows)))
    text = HEAD + f"{len(made)} of {len(rows)} builds succeeded ({counts}).\n\n"
    text += (f"Not built yet: {missing}.\n\n" if missing else "") + "\n".join(table) + "\n"
    part = page.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, page)


def configuration(folder: Path, source: Path, march: str) -> LoadedConfig:
    """The configuration of a filled graph, which it writes to `folder`."""
    proto = onnx.load(source)
    sys.path.insert(0, str(source.parent))
    try:
        import fill_weights
    finally:
        sys.path.pop(0)
    fill_weights.fill(proto)
    model = folder / source.name
    onnx.save(proto, model)
    inputs, rng = [], np.random.default_rng(0)
    for entry in proto.graph.input:
        shape = [d.dim_value for d in entry.type.tensor_type.shape.dim]
        picture = len(shape) == 4 and shape[1] == 3
        inputs.append((entry.name, shape, picture))
        for index in range(SAMPLES):
            place = folder / "samples" / entry.name
            place.mkdir(parents=True, exist_ok=True)
            sample = rng.integers(0, 256, shape) if picture else rng.standard_normal(shape)
            np.save(place / f"{index}.npy", sample.astype(np.float32))
    pictures = [picture for _, _, picture in inputs]
    text = yaml.safe_dump(
        {
            "model_parameters": {
                "onnx_model": str(model),
                "march": march,
                "output_model_file_prefix": source.stem,
                "working_dir": str(folder / "out"),
            },
            "input_parameters": {
                "input_name": "; ".join(name for name, _, _ in inputs),
                "input_shape": "; ".join("x".join(map(str, shape)) for _, shape, _ in inputs),
                "input_type_rt": "; ".join("rgb" if p else "featuremap" for p in pictures),
                "input_type_train": "; ".join("rgb" if p else "featuremap" for p in pictures),
                "input_layout_train": "; ".join("NCHW" for _ in pictures),
                "norm_type": "; ".join("data_scale" if p else "no_preprocess" for p in pictures),
                "scale_value": "; ".join("0.003921568627451" if p else "" for p in pictures),
            },
            "calibration_parameters": {
                "cal_data_dir": "; ".join(str(folder / "samples" / name) for name, _, _ in inputs),
                "calibration_type": "max",
            },
            "compiler_parameters": {"optimize_level": "O1", "compile_mode": "latency", "jobs": 1},
        },
        sort_keys=False,
    )
    return parse_config(text, file=source.name)


def build(source: Path, march: str) -> Row:
    """One build, in this process."""
    start = time.perf_counter()
    row = Row(source.stem, march, "compiled")
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = makertbin(configuration(Path(folder), source, march))
        except HbError as error:
            return replace(row, result=f"{type(error).__name__}: {error}"[:300])
    cpu = [(node.type, node.reason) for node in result.nodes if node.device == "CPU"]
    return replace(
        row,
        bpu=len(result.nodes) - len(cpu),
        cpu=len(cpu),
        segments=sum(s.device == "BPU" for s in result.artifact.segments()),
        seconds=round(time.perf_counter() - start),
        why=reasons(cpu),
    )


def reasons(nodes: Iterable[tuple[str, str]]) -> str:
    """Node types with the reason why they are on the CPU, most frequent first."""
    counted = Counter(nodes)
    return "; ".join(f"{count} {kind}: {reason}" for (kind, reason), count in counted.most_common())


def build_apart(source: Path, march: str) -> Row:
    """One build in a process of its own."""
    command = [sys.executable, __file__, str(source), "--one", "--march", march]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Row(source.stem, march, f"not finished in {LIMIT_S} s", seconds=LIMIT_S)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode == 0 and last.startswith("{"):
        return Row(**json.loads(last))
    trace = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Row(source.stem, march, f"crash: {trace}"[:300], seconds=round(time.perf_counter() - start))


def show_places(source: Path, march: str) -> str:
    """Devices, and the reasons of what is on the CPU, without a build."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            placed = place_stage(prepare_float(configuration(Path(folder), source, march), Quiet()), Quiet()).placed
        except HbError as error:
            return f"{source.stem} {march}: {type(error).__name__}: {error}"
    nodes = list(placed.graph)
    cpu = [node for node in nodes if not meta.on_bpu(node)]
    lines = [f"{source.stem} {march}: {len(nodes) - len(cpu)} on the BPU, {len(cpu)} on the CPU"]
    first: dict[tuple[str, str], str] = {}
    for node in cpu:
        first.setdefault((node.op_type, meta.placement(node).reason), graph.node_name(node))
    counted = Counter((node.op_type, meta.placement(node).reason) for node in cpu)
    lines += [f"  {n:3} {kind}: {reason} [{first[kind, reason]}]" for (kind, reason), n in counted.most_common()]
    return "\n".join(lines)


def by_size(folder: Path, names: Sequence[str]) -> list[Path]:
    """Graphs to build, those with few weights and operations first."""
    sizes: dict[str, float] = {}
    for line in (folder / "INDEX.csv").read_text(encoding="utf-8").splitlines()[1:]:
        cells = line.split(",")
        sizes[cells[0]] = float(cells[5]) / 10 + float(cells[6]) + int(cells[8]) / 50
    found = sorted(folder.glob("*.onnx"), key=lambda p: sizes.get(p.name, 0.0))
    return [p for p in found if not names or p.stem in names]


def wanted(sources: Sequence[Path], marches: Sequence[str], options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """What is still to be built; rows that another process wrote meanwhile are passed over."""
    for source in sources:
        for march in marches:
            row = read_rows(options.page).get((source.stem, march))
            if row is None or options.again or (options.failed and row.result != "compiled"):
                yield source, march


def main() -> int:
    """Build what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--march", action="append")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--failed", action="store_true")
    parser.add_argument("--place", action="store_true")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    marches = options.march or MARCHES
    if options.one:
        print(json.dumps(asdict(build(options.shared, marches[0]))))
        return 0
    sources = by_size(options.shared / "architectures", options.networks)
    if options.place:
        for source in sources:
            for march in marches:
                print(show_places(source, march), flush=True)
        return 0
    planned = [(p.stem, march) for p in by_size(options.shared / "architectures", []) for march in MARCHES]
    for source, march in wanted(sources, marches, options):
        row = build_apart(source, march)
        write_page(options.page, [row], planned)
        print(row.line(), flush=True)
    return int(any(row.result != "compiled" for row in read_rows(options.page).values()))


if __name__ == "__main__":
    sys.exit(main())

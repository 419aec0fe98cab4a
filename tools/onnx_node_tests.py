"""Takes every float node test of the onnx package through hbtool and writes docs/onnx_node_tests.md.

Each test is a one-node model with inputs and expected outputs, made by `onnx.backend.test`. It is placed (everything
the BPU can take is asked for), ranged on its own inputs, lowered, and run by definition and in stock onnxruntime. It
goes through twice: as it is, and with all inputs but the first made constants (most operators with weights are only
then the BPU's). What runs on the CPU must equal onnxruntime's own result bit for bit; what runs on the BPU must agree
bit for bit between the two executors, and be as near to the float operator on the quantized inputs as the operator
states (`error_steps`). onnxruntime is the yardstick: a test that it fails itself is counted, not judged.

Run it as `python tools/onnx_node_tests.py`; `--list` prints the cases that fail.
"""

from __future__ import annotations

import collections
import functools
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

import hbtool.ops  # noqa: F401 - registers the operators
from hbtool.errors import HbError
from hbtool.ir import graph, meta
from hbtool.ir.load import prepare_model
from hbtool.ir.onnx_session import make_session
from hbtool.numerics import qtype
from hbtool.numerics.ranges import Range
from hbtool.ops.op import FAMILIES, Family, float_op, is_integer
from hbtool.passes.attach_ranges import RangeOptions, attach_ranges, values_to_observe
from hbtool.passes.fuse_clamps import fuse_clamps
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.place import PlacementRequest, place
from hbtool.passes.to_standard_onnx import to_standard_onnx
from hbtool.runtime.reference import run_reference

OLDEST_OPSET = 10
FLOAT = onnx.TensorProto.FLOAT

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One model with one set of inputs and expected outputs."""

    name: str
    op_type: str
    model: onnx.ModelProto
    feeds: Arrays
    expected: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        device: `BPU`, `CPU`, or `both` where a function body or neighbours differ; `-` where nothing ran.
        verdict: `passed`, `refused`, `onnxruntime fails`, or what went wrong.
        steps: largest error on the BPU in steps of the output, None on the CPU.
    """

    case: Case
    device: str
    verdict: str
    steps: float | None = None

    @property
    def failed(self) -> bool:
        """Whether hbtool is to blame."""
        return self.verdict not in ("passed", "refused", "onnxruntime fails")


@functools.lru_cache(maxsize=1)
def cases() -> tuple[Case, ...]:
    """The float node tests of opset 10 and newer, each as it is and with constants for all inputs but the first."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return tuple(case for test in found for case in _cases_of(test))


def _cases_of(test: object) -> Iterator[Case]:
    model: onnx.ModelProto = test.model  # type: ignore[attr-defined]
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    tensors = all(v.type.HasField("tensor_type") for v in (*model.graph.input, *model.graph.output))
    floats = [v.name for v in model.graph.input if v.type.tensor_type.elem_type == FLOAT]
    if opset < OLDEST_OPSET or not tensors or not floats or not test.data_sets:  # type: ignore[attr-defined]
        return
    inputs, outputs = test.data_sets[0]  # type: ignore[attr-defined]
    if not all(isinstance(a, np.ndarray | np.generic) for a in (*inputs, *outputs)):
        return
    name = test.name.removeprefix("test_")  # type: ignore[attr-defined]
    op_type = model.graph.node[0].op_type if len(model.graph.node) == 1 else "(function bodies)"
    feeds = {v.name: np.asarray(a) for v, a in zip(model.graph.input, inputs, strict=False)}
    expected = tuple(np.asarray(a) for a in outputs)
    yield Case(name, op_type, model, feeds, expected)
    if len(model.graph.node) == 1 and len(feeds) > 1 and model.graph.input[0].name in floats:
        yield _with_constants(Case(f"{name} (constants)", op_type, model, feeds, expected))


def _with_constants(case: Case) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    first, *others = model.graph.input
    for value in others:
        model.graph.initializer.append(numpy_helper.from_array(case.feeds[value.name], value.name))
    for _ in others:
        model.graph.input.pop()
    return Case(case.name, case.op_type, model, {first.name: case.feeds[first.name]}, case.expected)


def run_case(case: Case, family: Family = "bayes-e") -> Outcome:
    """Take one case through hbtool."""
    try:
        wanted = make_session(case.model).run(None, dict(case.feeds))
    except Exception:  # whatever onnxruntime cannot do is no yardstick
        return Outcome(case, "-", "onnxruntime fails")
    if not _close(wanted, case.expected):
        return Outcome(case, "-", "onnxruntime fails")
    try:
        return _through_hbtool(case, family)
    except HbError as error:
        return Outcome(case, "-", f"refused: {error}")
    except Exception as error:
        return Outcome(case, "-", f"crash: {type(error).__name__}: {error}"[:300])


def _close(got: list[np.ndarray], expected: tuple[np.ndarray, ...]) -> bool:
    for a, b in zip(got, expected, strict=False):
        if not isinstance(a, np.ndarray) or a.shape != b.shape:
            return False
        if not np.allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-3, atol=1e-5, equal_nan=True):
            return False
    return True


def _through_hbtool(case: Case, family: Family) -> Outcome:
    model = prepare_model(case.model, case.name, {k: v.shape for k, v in case.feeds.items()})
    floats = _run(model, case.feeds)
    place(model, family, PlacementRequest(run_on_bpu=("*",)))
    fuse_clamps(model)
    inner = values_to_observe(model)
    observed = {**case.feeds, **floats, **_inner_values(model, case.feeds, inner)}
    ranges = {name: _range(observed[name]) for name in inner}
    attach_ranges(model, ranges, RangeOptions(output_type=qtype.INT8))
    integer = lower_to_integer(model, family, 15)
    results = run_reference(integer, dict(case.feeds))
    standard = _run(to_standard_onnx(integer), case.feeds)
    for output in integer.graph.outputs:
        name = graph.value_name(output)
        if not _agree(output, standard[name], results[name]):
            return Outcome(case, "BPU", f"executors differ in {name}")
    devices = {meta.placement(n).device for n in model.graph}
    device = "both" if len(devices) == 2 else next(iter(devices), "CPU")
    if device == "CPU":
        same = all(np.array_equal(v, floats[k], equal_nan=v.dtype.kind == "f") for k, v in results.items())
        return Outcome(case, device, "passed" if same else "CPU result differs from onnxruntime's")
    if len(model.graph) > 1:
        # A function body: errors pass from node to node; only the executors are compared.
        return Outcome(case, device, "passed")
    steps = _error(model, integer, results, _run(model, _rounded(model, case.feeds)))
    allowed = sum(op.error_steps for n in model.graph if meta.on_bpu(n) and (op := float_op(n)) is not None)
    verdict = "passed" if steps <= allowed else f"{steps:.2f} steps, {allowed:g} allowed"
    return Outcome(case, device, verdict, steps)


def _agree(output: ir.Value, got: np.ndarray, want: np.ndarray) -> bool:
    """Whether two executors give the same bits.

    Where several nodes on the CPU make the value, onnxruntime fuses them differently in the whole model than in a
    segment of it, and float rounding differs in the last bits; that is outside of hbtool's arithmetic.
    """
    producer = output.producer()
    if producer is None or is_integer(producer) or want.dtype.kind != "f":
        return np.array_equal(got, want, equal_nan=want.dtype.kind == "f")
    return np.allclose(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)


def _range(values: np.ndarray) -> Range:
    finite = values[np.isfinite(values)]
    return Range((float(finite.min(initial=0.0)),), (float(finite.max(initial=0.0)),))


def _run(model: ir.Model, feeds: Arrays) -> dict[str, np.ndarray]:
    names = [graph.value_name(v) for v in model.graph.outputs]
    known = {graph.value_name(v) for v in model.graph.inputs}
    results = make_session(model).run(None, {k: v for k, v in feeds.items() if k in known})
    return dict(zip(names, (np.asarray(r) for r in results), strict=True))


def _inner_values(model: ir.Model, feeds: Arrays, names: list[str]) -> dict[str, np.ndarray]:
    """Values between the nodes of a function body."""
    outputs = {graph.value_name(v) for v in model.graph.outputs}
    inner = [n for n in names if n not in feeds and n not in outputs]
    if not inner:
        return {}
    probe = model.clone()
    by_name = {v.name: v for node in probe.graph for v in node.outputs}
    probe.graph.outputs.extend(by_name[n] for n in inner)
    results = _run(probe, feeds)
    return {n: results[n] for n in inner}


def _rounded(model: ir.Model, feeds: Arrays) -> dict[str, np.ndarray]:
    """The inputs as the BPU sees them: quantized and back."""
    meanings = {graph.value_name(v): meta.qparams(v) for v in model.graph.inputs}
    return {
        k: v if (q := meanings.get(k)) is None else qtype.dequantize(qtype.quantize(v, q), q) for k, v in feeds.items()
    }


def _error(model: ir.Model, integer: ir.Model, results: Arrays, floats: Arrays) -> float:
    worst = 0.0
    for output in integer.graph.outputs:
        name = graph.value_name(output)
        got, want = results[name], floats[name]
        producer = output.producer()
        source = producer.inputs[0] if producer is not None and is_integer(producer) else None
        q = meta.qparams(source) if source is not None else None
        if q is None or got.dtype.kind != "f":
            same = np.array_equal(got, want, equal_nan=got.dtype.kind == "f")
            worst = max(worst, 0.0 if same else np.inf)
            continue
        # What lies outside the calibrated range, or is not a number, has no integer.
        reachable = np.clip(np.nan_to_num(want, nan=0.0, posinf=np.inf, neginf=-np.inf), *q.real_range)
        known = ~np.isnan(want)
        worst = max(worst, float((np.abs(got - reachable)[known] / max(q.scales)).max(initial=0.0)))
    return worst


def table(outcomes: list[Outcome]) -> str:
    """The pass table as Markdown: one row per operator."""
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    steps: dict[str, float] = collections.defaultdict(float)
    for outcome in outcomes:
        kind = "failed" if outcome.failed else outcome.verdict
        rows[outcome.case.op_type][f"{outcome.device} {kind}" if kind == "passed" else kind] += 1
        if outcome.steps is not None:
            steps[outcome.case.op_type] = max(steps[outcome.case.op_type], outcome.steps)
    columns = ("BPU passed", "both passed", "CPU passed", "failed", "onnxruntime fails")
    lines = ["| operator | BPU | BPU and CPU | CPU | failed | onnxruntime fails | largest error, steps |"]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    for name in sorted(rows):
        error = f"{steps[name]:.2f}" if name in steps else ""
        lines.append(f"| {name} | " + " | ".join(str(rows[name][c] or "") for c in columns) + f" | {error} |")
    total = collections.Counter()
    for counter in rows.values():
        total.update(counter)
    lines.append("| **all** | " + " | ".join(f"**{total[c]}**" for c in columns) + " | |")
    return "\n".join(lines)


def summary(outcomes: Mapping[Family, list[Outcome]]) -> str:
    """One row per BPU family."""
    lines = ["| family | BPU | BPU and CPU | CPU | refused | failed |", "|---|" + "---:|" * 5]
    for family, found in outcomes.items():
        passed = collections.Counter(o.device for o in found if o.verdict == "passed")
        refused = sum(o.verdict == "refused" for o in found)
        counts = (*(passed[d] for d in ("BPU", "both", "CPU")), refused, sum(o.failed for o in found))
        lines.append(f"| {family} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines)


def page(by_family: Mapping[Family, list[Outcome]]) -> str:
    """docs/onnx_node_tests.md."""
    outcomes = by_family["bayes-e"]
    judged = [o for found in by_family.values() for o in found if o.verdict != "onnxruntime fails"]
    passed = sum(not o.failed for o in judged)
    return f"""# The onnx package's node tests through hbtool

Written by `tools/onnx_node_tests.py` with onnx {onnx.__version__}; do not edit. Every BPU family; every operator that
the BPU can take asked for, ranges from the test's own inputs.

{passed} of {len(judged)} cases that onnxruntime itself passes go through hbtool ({100 * passed / len(judged):.1f} %).

{summary(by_family)}

On the CPU the result equals onnxruntime's bit for bit. On the BPU the definition and stock onnxruntime agree bit for
bit, and the last column of the table of bayes-e is the largest error against the float operator on the quantized
inputs.

{table(outcomes)}
"""


def main() -> int:
    """Run everything; exit code 1 if a case failed."""
    root = Path(__file__).resolve().parents[1]
    outcomes = {family: [run_case(case, family) for case in cases()] for family in FAMILIES}
    failed = [(family, o) for family, found in outcomes.items() for o in found if o.failed]
    for family, outcome in failed:
        if "--list" in sys.argv:
            print(f"{family} {outcome.case.name}: {outcome.verdict}")
    (root / "docs" / "onnx_node_tests.md").write_text(page(outcomes), encoding="utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

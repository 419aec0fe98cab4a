"""Check, compile and time a fixed-point model with the compiler that the mapper uses.

What the vendor's functions print goes to the logger `hbtool.quantization.compile` (level INFO, errors at ERROR).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

import hbtool
from hbtool.artifact.program import SegmentProgram
from hbtool.compiler.compile import compile_model as compile_segments
from hbtool.compiler.options import CompileOptions, OptimizeLevel
from hbtool.compiler.segments import split_segments
from hbtool.errors import CompileError, HbError, UnsupportedError, UsageError
from hbtool.ir import graph, meta
from hbtool.march import March, require_march
from hbtool.perf.critical import attribute_latency
from hbtool.perf.layers import layer_costs
from hbtool.perf.timeline import Timeline, timeline
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.layer_names import layer_names
from hbtool.quantization.lowering import target_of
from hbtool.runtime.artifact import Artifact, save_artifact
from hbtool.runtime.input_format import InputFormat
from hbtool.runtime.session import Session
from hbtool.target.target import Target
from hbtool.utils.onnx_helper import integer_graph_of

_log = logging.getLogger(__name__)

_SOURCES = ("ddr", "resizer", "pyramid")
_LAYOUTS = ("NHWC", "NCHW", "BPU_RAW")
_LEVELS: dict[Any, tuple[OptimizeLevel, str]] = {
    0: ("O0", "latency"), 1: ("O1", "latency"), 2: ("O2", "latency"), 3: ("O3", "latency"),
    "O0": ("O0", "latency"), "O1": ("O1", "latency"), "O2": ("O2", "latency"), "O3": ("O3", "latency"),
    "fast": ("O2", "latency"), "ddr": ("O2", "bandwidth"), "balance": ("O2", "balance"),
}  # fmt: skip


def _examples(example_inputs: Any) -> tuple[Tensor, ...]:
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not given or not all(isinstance(a, Tensor) for a in given):
        raise UsageError("example_inputs must be a tensor or a list of tensors.")
    return given


def _options(opt: Any, balance_factor: int, jobs: int) -> CompileOptions:
    if opt not in _LEVELS:
        raise UsageError(f"unknown opt {opt!r}.", hint="Use O0 to O3, 0 to 3, 'ddr', 'fast' or 'balance'.")
    level, mode = _LEVELS[opt]
    return CompileOptions(level, mode, balance_factor, jobs=max(jobs, 1))  # type: ignore[arg-type]


def _check_sources(input_source: Any, count: int) -> list[str]:
    sources = [input_source] * count if isinstance(input_source, str) else list(input_source)
    wrong = [s for s in sources if s not in _SOURCES]
    if wrong or len(sources) != count:
        raise UsageError(
            f"input_source is {input_source!r} for {count} inputs.", hint=f"Give one of {', '.join(_SOURCES)} for each."
        )
    return sources


def _all_on_bpu(model: ir.Model) -> None:
    """Refuse float operators: they need hybrid mode and the mapper."""
    for node in model.graph:
        if node.domain != graph.INTEGER_DOMAIN:
            raise UnsupportedError(
                f"{node.op_type} runs on the CPU ({meta.placement(node).reason}).",
                where=meta.torch_module(node) or graph.node_name(node),
                hint="Export the QAT model with export_to_onnx and compile it with makertbin (hybrid models only so).",
            )


class _Build:
    """One model on its way to an artifact."""

    def __init__(self, module: nn.Module, example_inputs: Any, march: March | str | None, name: str | None) -> None:
        self.examples = _examples(example_inputs)
        self.march = require_march(march).value
        self.target: Target = target_of(self.march)
        self.model = integer_graph_of(module, self.examples)
        self.name = name or type(module).__name__
        made_for = self.model.metadata_props.get("hbtool.march")
        if made_for is not None and made_for != self.march:
            raise UsageError(
                f"the model was converted for {made_for}, march is {self.march}.", hint="Convert it again."
            )
        _all_on_bpu(self.model)

    def compile(self, options: CompileOptions) -> dict[str, SegmentProgram]:
        """Segment name -> program."""
        made = compile_segments(self.model, self.target, options)
        names = [s.name for s in split_segments(self.model) if s.device == "BPU"]
        return dict(zip(names, made, strict=True))

    def artifact(self, programs: Mapping[str, SegmentProgram], build: Mapping[str, Any]) -> Artifact:
        """The artifact, in memory."""
        inputs = tuple(
            InputFormat(graph.value_name(v), graph.static_shape(v), dtype=np.float32) for v in self.model.graph.inputs
        )
        return Artifact(self.name, self.march, self.target, self.model, programs, inputs, build)

    def verify(self, module: nn.Module, artifact: Artifact) -> None:
        """Run module and artifact on the example; every element must be the same."""
        session = Session(artifact)
        feeds = {i.name: x.cpu().numpy() for i, x in zip(session.get_inputs(), self.examples, strict=True)}
        got = session.run(None, feeds)
        examples = tuple(x.cpu() for x in self.examples)
        # What lies outside the compiled program is no part of the artifact.
        if isinstance(module, QuantizedGraphModule):
            want: Any = module.program(*examples).run(*examples)
        else:
            want = module(*examples)
        flat = [want] if isinstance(want, Tensor) else [t for t in _leaves(want)]
        for value, result, expected in zip(self.model.graph.outputs, got, flat, strict=True):
            if not np.array_equal(result, expected.detach().numpy()):
                raise CompileError(
                    "the compiled model and the module differ.",
                    where=value.name,
                    hint="This is a bug in hbtool; please report the model.",
                )


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    return [leaf for part in parts for leaf in _leaves(part)]


def check_model(
    module: nn.Module,
    example_inputs: Any,
    march: March | str | None = None,
    input_source: Any = "ddr",
    advice: float | None = None,
    check_quanti_param: bool = True,
) -> int:
    """Whether a fixed-point model (or its trace) compiles for the BPU: 0 if it does, 1 if not (the log says why).

    Args:
        module: result of `convert_fx` or its trace.
        example_inputs: a tensor, or a list of them.
        march: BPU generation; None for the one that is set.
        input_source: `ddr`, `resizer` or `pyramid`, or one per input.
        advice: log the layers that move data longer than this many microseconds beyond their computing time.
        check_quanti_param: accepted for compatibility.
    """
    try:
        build = _Build(module, example_inputs, march, None)
        _check_sources(input_source, len(build.examples))
        programs = build.compile(CompileOptions())
    except HbError as error:
        _log.error("HBDK model check fail: %s", error)
        return 1
    if advice is not None:
        for name, compiled in programs.items():
            _advise(name, timeline(compiled.program, build.target), advice)
    _log.info("This model is supported!")
    _log.info("HBDK model check PASS")
    return 0


def _advise(name: str, times: Timeline, limit_us: float) -> None:
    computing = max((t for (engine, _), t in times.busy_us.items() if engine in ("matrix", "vector")), default=0.0)
    waiting = times.total_us - computing
    if waiting > limit_us:
        _log.info("%s: %.0f us of %.0f us are not spent computing", name, waiting, times.total_us)


def compile_model(
    module: nn.Module,
    example_inputs: Any,
    hbm: str | Path,
    march: March | str | None = None,
    name: str | None = None,
    input_source: Any = "ddr",
    input_layout: str | None = None,
    output_layout: str = "NCHW",
    opt: Any = "O2",
    balance_factor: int = 2,
    progressbar: bool = True,
    jobs: int = 16,
    debug: bool = True,
    extra_args: Any = None,
) -> int:
    """Compile a fixed-point model (or its trace) into an artifact; returns 0.

    The artifact is hbtool's own open format, not the vendor's .hbm. It is run on the example and compared with the
    module, element by element, before it is written.

    Args:
        module: result of `convert_fx` or its trace.
        example_inputs: a tensor, or a list of them.
        hbm: path of the artifact.
        march: BPU generation; None for the one that is set.
        name: model name, the class name by default.
        input_source: `ddr`, `resizer` or `pyramid`, or one per input.
        input_layout: accepted for compatibility: `NHWC`, `NCHW` or `BPU_RAW`.
        output_layout: the same for outputs.
        opt: `O0` to `O3`, 0 to 3, `ddr`, `fast` or `balance`.
        balance_factor: weight of latency with `balance`, 0 to 100.
        progressbar: accepted for compatibility.
        jobs: processes; results do not depend on it.
        debug: accepted for compatibility; node names are always kept.
        extra_args: accepted for compatibility.

    Raises:
        UsageError: arguments that do not exist.
        UnsupportedError: an operator runs on the CPU.
        CompileError: a node cannot be placed.
    """
    build = _Build(module, example_inputs, march, name)
    sources = _check_sources(input_source, len(build.examples))
    for layout in (input_layout, output_layout):
        if layout is not None and layout not in _LAYOUTS:
            raise UsageError(f"unknown layout {layout!r}.", hint=f"Use one of {', '.join(_LAYOUTS)}.")
    if input_layout == "NCHW" and any(s != "ddr" for s in sources):
        _log.warning("an input fed by pyramid or resizer cannot be given the NCHW layout")
    options = _options(opt, balance_factor, jobs)
    facts = {"hbtool": hbtool.__version__, "compile": options.text(), "input_source": sources}
    artifact = build.artifact(build.compile(options), facts)
    build.verify(module, artifact)
    path = Path(hbm)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_artifact(artifact, path)
    _log.info("HBDK model compilation SUCCESS")
    return 0


def perf_model(
    module: nn.Module,
    example_inputs: Any,
    march: March | str | None = None,
    out_dir: str | Path = ".",
    name: str | None = None,
    hbm: str | Path | None = None,
    input_source: Any = "ddr",
    opt: Any = "O3",
    balance_factor: int = 2,
    jobs: int = 16,
    layer_details: bool = False,
    **ignored: Any,
) -> dict[str, Any]:
    """Estimated speed of a fixed-point model (or its trace) on the BPU; also written to `out_dir/<name>.json`.

    Returns:
        `summary` with the keys of the vendor's report, and with `layer_details` one row per layer.

    Raises:
        as `compile_model`.
    """
    build = _Build(module, example_inputs, march, name)
    sources = _check_sources(input_source, len(build.examples))
    options = _options(opt, balance_factor, jobs)
    programs = build.compile(options)
    if hbm is not None:
        save_artifact(build.artifact(programs, {"hbtool": hbtool.__version__, "input_source": sources}), Path(hbm))
    times = {n: timeline(p.program, build.target) for n, p in programs.items()}
    result: dict[str, Any] = {"summary": _summary(build, times, options)}
    if layer_details:
        result["layer details"] = _layer_details(build, programs, times)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{build.name}.json.part"
    beside.write_text(json.dumps(result, indent=1))
    beside.replace(folder / f"{build.name}.json")
    summary = result["summary"]
    _log.info("HBDK performance estimation SUCCESS")
    _log.info("FPS=%.2f, latency = %.1f us", summary["FPS"], summary["latency (us)"])
    return result


def _layer_details(
    build: _Build, programs: Mapping[str, SegmentProgram], times: Mapping[str, Timeline]
) -> list[dict[str, Any]]:
    """One row per layer, under the names that a traced model of the vendor's plugin has."""
    names = layer_names(build.model)
    rows = []
    for segment, compiled in programs.items():
        program, line = compiled.program, times[segment]
        for cost in layer_costs(program, build.target, line, attribute_latency(program, build.target, line)):
            rows.append(
                {
                    "layer": names.get(cost.name, cost.name),
                    "ops": cost.ops,
                    "computing cost (no DDR) (us)": round(cost.compute_us, 2),
                    "load/store cost (us)": round(cost.load_us + cost.store_us, 2),
                }
            )
    return rows


def _summary(build: _Build, times: Mapping[str, Timeline], options: CompileOptions) -> dict[str, Any]:
    total_us = sum(t.total_us for t in times.values())
    moved = sum(t.ddr_bytes for t in times.values())
    operations = 2 * sum(t.macs for t in times.values())
    batch = int(build.examples[0].shape[0])
    fps = batch * 1e6 / total_us if total_us else 0.0
    inputs = [["input name", "input size"]]
    for number, value in enumerate(build.model.graph.inputs):
        inputs.append([f"arg{number}", "x".join(str(n) for n in graph.static_shape(value))])
    return {
        "BPU OPs per run (effective)": operations,
        "BPU OPs per frame (effective)": operations // batch,
        "BPU core number": options.core_num,
        "BPU march": build.march,
        "DDR bytes per run": moved,
        "DDR bytes per frame": moved // batch,
        "DDR bytes per second": int(moved * 1e6 / total_us) if total_us else 0,
        "DDR megabytes per run": round(moved / 2**20, 3),
        "DDR megabytes per frame": round(moved / batch / 2**20, 3),
        "FPS": round(fps, 2),
        "frame per run": batch,
        "frame per second": round(fps, 2),
        "HBDK version": f"hbtool {hbtool.__version__}",
        "compiling options": options.text(),
        "input features": inputs,
        "latency (us)": round(total_us, 1),
        "latency (ms)": round(total_us / 1e3, 3),
        "latency (ms) by segments": {n: round(t.total_us / 1e3, 3) for n, t in times.items()},
    }


def export_hbir(
    module: nn.Module, example_inputs: Any, hbir: str | Path, march: March | str | None = None
) -> tuple[list[str], list[str]]:
    """Write the INTEGER graph (ONNX with operators of the domain `hbtool`); returns (input names, output names)."""
    model = integer_graph_of(module, _examples(example_inputs))
    path = Path(hbir)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(ir.to_proto(model).SerializeToString())
    beside.replace(path)
    return [graph.value_name(v) for v in model.graph.inputs], [graph.value_name(v) for v in model.graph.outputs]


def visualize_model(
    module: nn.Module,
    example_inputs: Any,
    march: March | str | None = None,
    save_path: str | Path | None = None,
    show: bool = True,
) -> None:
    """Write the INTEGER graph as a Graphviz file (`save_path`, by default `<ClassName>.dot`)."""
    model = integer_graph_of(module, _examples(example_inputs))
    lines = ["digraph model {", "  node [shape=box];"]
    for node in model.graph:
        label = f"{graph.node_name(node)}\\n{node.op_type}"
        lines.append(f"  {json.dumps(graph.node_name(node))} [label={json.dumps(label)}];")
        for value in graph.activations(node):
            producer = value.producer()
            source = graph.node_name(producer) if producer is not None else graph.value_name(value)
            lines.append(f"  {json.dumps(source)} -> {json.dumps(graph.node_name(node))};")
    lines.append("}")
    path = Path(save_path) if save_path is not None else Path(f"{type(module).__name__}.dot")
    path.write_text("\n".join(lines))
    if show:
        _log.info("the graph is in %s", path)

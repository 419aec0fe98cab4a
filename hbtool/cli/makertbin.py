"""`hbtool makertbin -c config.yaml --model-type onnx`, `hbtool makertbin --fast-perf --model net.onnx --march M`."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, shown, text_table
from hbtool.cli.options import model_options, model_type_option, only_onnx, required
from hbtool.cli.tables import inputs_text, node_text, refused_text, removed_text
from hbtool.errors import UsageError

if TYPE_CHECKING:
    from hbtool.config import LoadedConfig


@click.command("makertbin")
@click.option("-c", "--config", type=click.Path(dir_okay=False, path_type=Path), help="The config.yaml.")
@model_type_option
@click.option("--fast-perf", is_flag=True, help="Build for speed only, without a config: needs --model and --march.")
@model_options
@click.option("--strict", is_flag=True, help="Unknown keys and names that match no node are errors.")
@common_options
def command(
    config: Path | None,
    model_type: str,
    fast_perf: bool,
    model: Path | None,
    proto: Path | None,
    march: str | None,
    input_shape: tuple[tuple[str, str], ...],
    strict: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Calibrate, quantize and compile a model as config.yaml says.

    Writes the stage files (original_float, optimized_float, calibrated, quantized), the artifact PREFIX.bin, a log and
    run.json into working_dir. With --fast-perf no data are needed: everything the BPU can run goes there, removable
    head and tail nodes go, random data calibrate; the result (in model_output) is for timing, not for accuracy.

    \b
    Examples:
      hbtool makertbin -c config.yaml --model-type onnx
      hbtool makertbin --fast-perf --model net.onnx --march bayes-e
      hbtool makertbin --fast-perf --model net.onnx --march nash-e --input-shape data 1x3x224x224
    """
    only_onnx(model_type, proto)
    loaded = _load(config, fast_perf, model, march, input_shape, strict)
    from hbtool.config import dump, resolve_paths
    from hbtool.flows.makertbin import makertbin
    from hbtool.flows.run_record import versions

    log = resolve_paths(loaded).working_dir / "hb_mapper_makertbin.log"
    talk = ConsoleTalk(quiet, log)
    with _logged(talk):
        talk.info(f"log: {log}")
        talk.info("versions: " + ", ".join(f"{k} {v}" for k, v in versions().items()))
        talk.detail("Dump config:\n" + dump(loaded.config, full=True))
        result = makertbin(loaded, talk)
    if as_json:
        print_json(_as_json(result))
        return
    from hbtool.flows.info import formulas

    parts = [inputs_text(result.inputs), node_text(result.nodes), output_text(result.outputs)]
    if result.refused:
        parts.append(refused_text(result.refused))
    if result.removed:
        parts.append(removed_text(result.removed, formulas(result.removed)))
    text = "\n\n".join([*parts, next_steps(result)])
    talk.record(text)
    print_result(text)


@contextlib.contextmanager
def _logged(talk: ConsoleTalk) -> Any:
    """Failures stand in the log too."""
    from hbtool.errors import HbError

    try:
        yield
    except HbError as error:
        talk.failed(f"{error.kind} error: {error}")
        raise


def _load(
    config: Path | None,
    fast_perf: bool,
    model: Path | None,
    march: str | None,
    input_shape: tuple[tuple[str, str], ...],
    strict: bool,
) -> LoadedConfig:
    if fast_perf:
        if config is not None:
            raise UsageError("--fast-perf excludes --config", hint="Use --model and --march, or leave out --fast-perf.")
        from hbtool.flows.quick_config import fast_config, parse_shapes

        given = required(model, "--fast-perf needs --model", "Name the ONNX file.")
        target = required(march, "--fast-perf needs --march", "For example --march bayes-e.")
        return fast_config(given, target, parse_shapes(input_shape))
    if model is not None or march is not None or input_shape:
        raise UsageError(
            "--model, --march and --input-shape belong to --fast-perf", hint="With --config they stand in the file."
        )
    from hbtool.config import load_config

    return load_config(
        required(config, "there is no --config", "Write hbtool makertbin -c config.yaml."), strict=strict
    )


def _as_json(result: Any) -> dict[str, Any]:
    return {
        "artifact": str(result.artifact_path),
        "files": {k: str(v) for k, v in result.files.items()},
        "method": result.method,
        "seconds": dict(result.seconds),
        "inputs": [asdict(i) for i in result.inputs],
        "nodes": [asdict(r) for r in result.nodes],
        "outputs": {r.name: asdict(r.similarity) for r in result.outputs},
        "refused_int16": [asdict(r) for r in result.refused],
        "deleted_nodes": [r.as_json() for r in result.removed],
    }


def output_text(rows: Any) -> str:
    """The output table."""
    cells = [
        (
            r.name,
            f"{r.similarity.cosine:.6f}",
            f"{r.similarity.l1:.6f}",
            f"{r.similarity.l2:.6f}",
            f"{r.similarity.chebyshev:.6f}",
        )
        for r in rows
    ]
    header = ("Output", "Cosine Similarity", "L1 Distance", "L2 Distance", "Chebyshev Distance")
    return text_table("Outputs: integers against the float model", header, cells)


def next_steps(result: Any) -> str:
    """What was written, and what to do now."""
    path, size = shown(result.artifact_path), result.artifact_path.stat().st_size
    named = shlex.quote(path)
    lowest = min((r.similarity.cosine for r in result.outputs), default=1.0)
    advice = []
    if lowest < 0.99:
        advice.append(
            f"The lowest output similarity is {lowest:.4f}: look for the nodes where the column falls, and try "
            "calibration_type default, optimization: bias_correction, or int16 for these nodes (node_info)."
        )
    advice += [
        f"Next: hbtool verify {named}   (same bits in every executor)",
        f"      hbtool perf {named}     (latency, traffic, and what every CPU cut costs)",
        f"      hbtool infer {named} --input NAME=FILE",
    ]
    return "\n".join([f"Calibration: {result.method}", f"Artifact: {path} ({size} bytes)", *advice])

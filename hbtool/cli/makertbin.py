"""`hbtool makertbin -c config.yaml --model-type onnx`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, shortened, text_table


@click.command("makertbin")
@click.option("-c", "--config", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The config.yaml.")
@click.option("--model-type", type=click.Choice(["onnx", "caffe"]), default="onnx", show_default=True)
@click.option("--strict", is_flag=True, help="Unknown keys and names that match no node are errors.")
@common_options
def command(config: Path, model_type: str, strict: bool, as_json: bool, quiet: bool) -> None:
    """Calibrate, quantize and compile a model as config.yaml says.

    Writes the stage files (original_float, optimized_float, calibrated, quantized), the artifact PREFIX.bin, a log and
    run.json into working_dir.
    """
    from hbtool.config import load_config, resolve_paths
    from hbtool.errors import UnsupportedError

    if model_type == "caffe":
        raise UnsupportedError("Caffe models are not read", hint="Convert the model to ONNX first.")
    loaded = load_config(config, strict=strict)
    from hbtool.flows.makertbin import makertbin

    log = resolve_paths(loaded).working_dir / "hb_mapper_makertbin.log"
    talk = ConsoleTalk(quiet, log)
    result = makertbin(loaded, talk)
    if as_json:
        print_json(
            {
                "artifact": str(result.artifact_path),
                "files": {k: str(v) for k, v in result.files.items()},
                "method": result.method,
                "seconds": dict(result.seconds),
                "nodes": [asdict(r) for r in result.nodes],
                "outputs": {r.name: asdict(r.similarity) for r in result.outputs},
            }
        )
        return
    text = "\n\n".join([node_text(result.nodes), output_text(result.outputs), next_steps(result)])
    talk.record(text)
    print_result(text)


def node_text(rows) -> str:  # type: ignore[no-untyped-def]
    """The node table, and below it why nodes are on the CPU."""
    cells = [
        (
            shortened(r.node),
            r.device,
            r.subgraph,
            r.type,
            "--" if r.cosine is None else f"{r.cosine:.6f}",
            "--" if r.threshold is None else f"{r.threshold:.6g}",
            r.dtype,
        )
        for r in rows
    ]
    header = ("Node", "ON", "Subgraph", "Type", "Cosine Similarity", "Threshold", "DataType")
    text = text_table("Model nodes after quantization", header, cells)
    on_cpu = [(shortened(r.node), r.type, r.reason) for r in rows if r.device == "CPU"]
    if on_cpu:
        text += "\n\n" + text_table("Nodes on the CPU, and why", ("Node", "Type", "Reason"), on_cpu)
    return text


def output_text(rows) -> str:  # type: ignore[no-untyped-def]
    """The output table."""
    cells = [
        (
            shortened(r.name),
            f"{r.similarity.cosine:.6f}",
            f"{r.similarity.l1:.6f}",
            f"{r.similarity.l2:.6f}",
            f"{r.similarity.chebyshev:.6f}",
        )
        for r in rows
    ]
    header = ("Output", "Cosine Similarity", "L1 Distance", "L2 Distance", "Chebyshev Distance")
    return text_table("Outputs: integers against the float model", header, cells)


def next_steps(result) -> str:  # type: ignore[no-untyped-def]
    """What was written, and what to do now."""
    path = result.artifact_path
    lowest = min((r.similarity.cosine for r in result.outputs), default=1.0)
    advice = []
    if lowest < 0.99:
        advice.append(
            f"The lowest output similarity is {lowest:.4f}: look for the nodes where the column falls, and try "
            "calibration_type default, optimization: bias_correction, or int16 for these nodes (node_info)."
        )
    advice += [
        f"Next: hbtool verify {path}   (same bits in every executor)",
        f"      hbtool perf {path}     (latency, traffic, and what every CPU cut costs)",
        f"      hbtool infer {path} --input NAME=FILE",
    ]
    return "\n".join([f"Calibration: {result.method}", f"Artifact: {path} ({path.stat().st_size} bytes)", *advice])

"""`hbtool checker --model-type onnx --march M --model net.onnx`, `hbtool checker -c config.yaml`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result
from hbtool.cli.options import model_options, model_type_option, only_onnx, required
from hbtool.cli.tables import inputs_text, node_text, refused_text
from hbtool.errors import UsageError


@click.command("checker")
@click.option("-c", "--config", type=click.Path(dir_okay=False, path_type=Path), help="A config.yaml to check with.")
@model_type_option
@model_options
@click.option("--output", help="Deprecated, without effect.")
@click.option("--strict", is_flag=True, help="Unknown keys and names that match no node are errors.")
@common_options
def command(
    config: Path | None,
    model_type: str,
    model: Path | None,
    proto: Path | None,
    march: str | None,
    input_shape: tuple[tuple[str, str], ...],
    output: str | None,
    strict: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say where every node of a model would run, and why, without calibrating or writing anything.

    With --config the table is the one makertbin will print, because preprocessing, node_info and the other keys take
    part. With --model and --march every input is a feature map and nothing else is asked for.

    \b
    Examples:
      hbtool checker -c config.yaml
      hbtool checker --model-type onnx --march bayes-e --model net.onnx
      hbtool checker --march bernoulli2 --model net.onnx --input-shape data 1x3x224x224
    """
    only_onnx(model_type, proto)
    talk = ConsoleTalk(quiet)
    if output is not None:
        talk.info("--output is deprecated and has no effect")
    if config is not None:
        if model is not None or march is not None or input_shape:
            raise UsageError("--config excludes --model, --march and --input-shape", hint="They stand in the file.")
        from hbtool.config import load_config

        loaded = load_config(config, strict=strict)
    else:
        from hbtool.flows.quick_config import check_config, parse_shapes

        given = required(model, "there is neither --config nor --model", "Give a config.yaml, or --model and --march.")
        target = required(march, "--model needs --march", "For example --march bayes-e.")
        loaded = check_config(given, target, parse_shapes(input_shape))
    from hbtool.flows.checker import check

    result = check(loaded, talk)
    if as_json:
        print_json(
            {
                "segments": result.segments,
                "nodes": [asdict(r) for r in result.nodes],
                "refused_int16": [asdict(r) for r in result.refused],
                "deleted_nodes": [r.as_json() for r in result.removed],
            }
        )
        return
    parts = [inputs_text(result.inputs), node_text(result.nodes, measured=False)]
    if result.refused:
        parts.append(refused_text(result.refused))
    on_bpu = sum(r.device == "BPU" for r in result.nodes)
    parts.append(
        f"PASSED: {on_bpu} nodes on the BPU in {result.segments} segment{'s' if result.segments != 1 else ''}, "
        f"{len(result.nodes) - on_bpu} on the CPU."
    )
    print_result("\n\n".join(parts))

"""`hbtool debug VERB config.yaml`: where the accuracy goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, shortened, shown, text_table

if TYPE_CHECKING:
    from hbtool.analysis.metrics import Measures
    from hbtool.flows.debug import Analysis

METRICS = ("cosine", "mse", "mre", "sqnr", "chebyshev")
_ALIASES = {"cosine-similarity": "cosine"}


@click.group("debug")
def command() -> None:
    """Find the nodes that cost a quantized model its accuracy.

    MODEL is a config.yaml (calibrated as it says, nothing is written), or a *_calibrated_model.onnx with its
    *_optimized_float_model.onnx beside it; then --data names the calibration_data folder and --march the target.
    """


def _metric(_: Any, __: Any, value: str) -> str:
    return _ALIASES.get(value, value)


def _model(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--march", default="bayes-e", show_default=True, help="Target, with an .onnx file.")(
        function
    )
    function = click.option("--data", type=click.Path(path_type=Path), help="calibration_data, with an .onnx file.")(
        function
    )
    return click.argument("model", type=click.Path(path_type=Path))(function)


def _samples(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "-d", "--samples", "--data-num", type=click.IntRange(1), default=default, show_default=True, help="Samples."
    )


_metric_option = click.option(
    "-m", "--metric", type=click.Choice([*METRICS, *_ALIASES]), default="cosine", show_default=True, callback=_metric
)
_nodes_option = click.option("-i", "--node", "nodes", multiple=True, metavar="NAME", help="Only this node; repeat.")


def _open(model: Path, data: Path | None, march: str, talk: ConsoleTalk) -> Analysis:
    from hbtool.config import load_config
    from hbtool.errors import UsageError
    from hbtool.flows.debug import analyse, analyse_files

    if model.suffix != ".onnx":
        return analyse(load_config(model), talk)
    if data is None:
        raise UsageError(
            "an .onnx file needs its calibration data", hint="Give --data calibration_data, or config.yaml instead."
        )
    return analyse_files(model, data, march)


@command.command("sensitivity")
@_model
@_metric_option
@click.option(
    "-n", "--node-type", type=click.Choice(["node", "weight", "activation"]), default="node", show_default=True
)
@click.option("--mode", type=click.Choice(["only", "except"]), default="only", show_default=True)
@click.option("-o", "--output", "outputs", multiple=True, metavar="VALUE", help="Compare this value; repeat.")
@_nodes_option
@_samples(16)
@click.option("-v", "--verbose", is_flag=True, help="All rows; else the worst 20.")
@common_options
def sensitivity_command(
    model: Path, data: Path | None, march: str, metric: str, node_type: Any, mode: Any, outputs: tuple[str, ...],
    nodes: tuple[str, ...], samples: int, verbose: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Round only one node (or all but one) and measure the model's outputs; worst first."""
    from hbtool.analysis.sensitivity import SensitivityRequest, sensitivity

    talk = ConsoleTalk(quiet)
    analysis = _open(model, data, march, talk)
    request = SensitivityRequest(metric, node_type, mode, nodes, outputs, samples)
    rows = sensitivity(analysis.subject, request)
    if as_json:
        print_json([{"node": r.node, "type": r.op_type, "values": r.values, **_dict(r.measures)} for r in rows])
        return
    shown = rows if verbose else rows[:20]
    what = "rounding only this" if mode == "only" else "rounding everything but this"
    cells = [
        (shortened(r.node), r.op_type, "--" if r.threshold is None else f"{r.threshold:.6g}", *_cells(r.measures))
        for r in shown
    ]
    text = text_table(f"Sensitivity: {what}", ("Node", "Type", "Threshold", *METRICS), cells)
    if len(shown) < len(rows):
        text += f"\n({len(rows) - len(shown)} more rows with -v)"
    print_result(text)


@command.command("accumulated")
@_model
@click.option("-q", "--quantize", multiple=True, metavar="NODE", help="Round only this node; repeat.")
@click.option("-nq", "--leave-float", multiple=True, metavar="NODE", help="Do not round this node; repeat.")
@click.option("--part", type=click.Choice(["all", "weights", "activations"]), default="all", show_default=True)
@_samples(4)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def accumulated_command(
    model: Path, data: Path | None, march: str, quantize: tuple[str, ...], leave_float: tuple[str, ...], part: Any,
    samples: int, as_json: bool,
) -> None:  # fmt: skip
    """Every value of the (partly) quantized model against the float model, in graph order."""
    from hbtool.analysis.growth import growth

    analysis = _open(model, data, march, ConsoleTalk(True))
    rows = growth(analysis.subject, quantize=quantize, leave_float=leave_float, part=part, samples=samples)
    if as_json:
        print_json([{"node": r.node, "type": r.op_type, "value": r.value, **_dict(r.measures)} for r in rows])
        return
    cells = [(shortened(r.node), r.op_type, *_cells(r.measures)) for r in rows]
    print_result(text_table("Accumulated error", ("Node", "Type", *METRICS), cells))


@command.command("distribution")
@_model
@_nodes_option
@_samples(4)
@common_options
def distribution_command(
    model: Path, data: Path | None, march: str, nodes: tuple[str, ...], samples: int, as_json: bool, quiet: bool
) -> None:
    """Range, moments and threshold of weights and activations."""
    from hbtool.analysis.distribution import distributions

    found = distributions(_open(model, data, march, ConsoleTalk(quiet)).subject, nodes, samples)
    if as_json:
        print_json([_distribution(d) for d in found])
        return
    cells = [
        (
            shortened(d.node), shortened(d.name), d.kind, f"{d.low:.5g}", f"{d.high:.5g}", f"{d.mean:.4g}",
            f"{d.variance:.4g}", "--" if d.threshold is None else f"{d.threshold:.5g}", f"{d.imbalance:.1f}", d.remark,
        )
        for d in found
    ]  # fmt: skip
    header = ("Node", "Tensor", "Kind", "Low", "High", "Mean", "Variance", "Threshold", "Imbalance", "Remark")
    print_result(text_table("Distributions", header, cells))


@command.command("channelwise")
@_model
@click.option("-i", "--node", "nodes", multiple=True, required=True, metavar="NAME", help="The node; repeat.")
@_samples(4)
@common_options
def channelwise_command(
    model: Path, data: Path | None, march: str, nodes: tuple[str, ...], samples: int, as_json: bool, quiet: bool
) -> None:
    """Low, quartiles and high of every channel."""
    from hbtool.analysis.distribution import distributions

    found = distributions(_open(model, data, march, ConsoleTalk(quiet)).subject, nodes, samples)
    if as_json:
        print_json([_distribution(d) | {"channels": _channels(d)} for d in found])
        return
    for d in found:
        cells = [(str(i), *(f"{v:.5g}" for v in row)) for i, row in enumerate(_channels(d))]
        title = f"{d.name} ({d.kind} of {d.node}) {d.remark}".strip()
        print_result(text_table(title, ("Channel", "Low", "25 %", "Median", "75 %", "High"), cells) + "\n")


@command.command("layers")
@_model
@click.option("-a", "--first", default="optimized", show_default=True, help="Reference stage.")
@click.option("-b", "--second", default="quantized", show_default=True, help="The other stage.")
@_samples(1)
@common_options
def layers_command(
    model: Path, data: Path | None, march: str, first: str, second: str, samples: int, as_json: bool, quiet: bool
) -> None:
    """Similarity per layer between two stages: original, optimized, calibrated, quantized, artifact."""
    from hbtool.flows.debug import layers

    rows = layers(_open(model, data, march, ConsoleTalk(quiet)), first, second, samples)
    if as_json:
        print_json([{"value": r.value, "node": r.node, "type": r.op_type, **_dict(r.measures)} for r in rows])
        return
    cells = [(shortened(r.value), shortened(r.node), r.op_type, *_cells(r.measures)) for r in rows]
    print_result(text_table(f"{second} against {first}", ("Value", "Node", "Type", *METRICS), cells))


@command.command("runall")
@_model
@_metric_option
@_samples(16)
@click.option("-s", "--save", type=click.Path(path_type=Path), default=Path("hbtool_debug.html"), show_default=True)
@common_options
def runall_command(
    model: Path, data: Path | None, march: str, metric: str, samples: int, save: Path, as_json: bool, quiet: bool
) -> None:
    """Everything above on one page that opens offline."""
    from hbtool.flows.debug_page import run_all

    talk = ConsoleTalk(quiet)
    result = run_all(_open(model, data, march, talk), save, talk, metric=metric, samples=samples)
    if as_json:
        nodes = [{"node": r.node, **_dict(r.measures)} for r in result.nodes]
        print_json({"page": str(result.path), "lowest_cosine": result.lowest, "nodes": nodes})
        return
    cells = [(shortened(r.node), r.op_type, *_cells(r.measures)) for r in result.nodes[:5]]
    print_result(text_table("Costs most", ("Node", "Type", *METRICS), cells) + f"\nPage: {shown(result.path)}")


def _cells(measures: Measures) -> list[str]:
    return [f"{measures.value(m):.6g}" for m in METRICS]


def _dict(measures: Measures) -> dict[str, float]:
    return {m: measures.value(m) for m in METRICS}


def _distribution(d: Any) -> dict[str, Any]:
    keys = ("node", "name", "kind", "low", "high", "mean", "variance", "threshold", "outside", "imbalance", "remark")
    return {k: getattr(d, k) for k in keys}


def _channels(d: Any) -> Sequence[Sequence[float]]:
    return [] if d.channels is None else d.channels.tolist()

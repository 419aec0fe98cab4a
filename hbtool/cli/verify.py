"""`hbtool verify model.bin`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hbtool.cli.console import ConsoleTalk, common_options, print_json, print_result, text_table
from hbtool.cli.options import name_option


@click.command("verify")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("-i", "--input", "inputs", multiple=True, metavar="[NAME=]FILE", help="Input file; repeat. Else random.")
@click.option("-n", "--samples", type=click.IntRange(1), default=1, show_default=True, help="Random samples.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random samples.")
@click.option("--quantized", type=click.Path(path_type=Path), help="The quantized ONNX (found beside the artifact).")
@click.option("--float", "float_model", type=click.Path(path_type=Path), help="The original_float ONNX.")
@click.option("--reference", is_flag=True, help="Also run every operator by its definition (slow).")
@name_option
@common_options
def command(
    artifact: Path,
    inputs: tuple[str, ...],
    samples: int,
    seed: int,
    quantized: Path | None,
    float_model: Path | None,
    reference: bool,
    name: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Prove that every executor of ARTIFACT gives the same bits.

    Compares, element by element and for every output, the host runtime with the quantized ONNX in stock onnxruntime and
    with the simulator that runs the compiled program instruction by instruction. Exit code 1 on any difference.

    \b
    Examples:
      hbtool verify model_output/net.bin
      hbtool verify net.bin --input photo.jpg --reference
      hbtool verify net.bin --quantized elsewhere/net_quantized_model.onnx
    """
    from hbtool.flows.infer import read_feeds
    from hbtool.flows.verify import verify

    feeds = read_feeds(artifact, inputs, name) if inputs else None
    result = verify(
        artifact,
        feeds,
        quantized_model=quantized,
        float_model=float_model,
        random_samples=samples,
        seed=seed,
        reference=reference,
        talk=ConsoleTalk(quiet),
        name=name,
    )
    if as_json:
        print_json(
            {
                "passed": result.passed,
                "samples": result.samples,
                "differences": [asdict(d) for d in result.differences],
                "similarities": {k: asdict(v) for k, v in result.similarities.items()},
            }
        )
        return 0 if result.passed else 1
    rows = [(d.output, d.executor, str(d.elements), str(d.differing), f"{d.largest:g}") for d in result.differences]
    header = ("Output", "Against the host runtime", "Elements", "Differing", "Largest difference")
    print_result(text_table("Bit comparison", header, rows))
    if result.similarities:
        rows = [
            (output, f"{s.cosine:.6f}", f"{s.l1:.6f}", f"{s.l2:.6f}", f"{s.chebyshev:.6f}")
            for output, s in result.similarities.items()
        ]
        header2 = ("Output", "Cosine Similarity", "L1 Distance", "L2 Distance", "Chebyshev Distance")
        print_result("\n" + text_table("Float model against the artifact (worst sample)", header2, rows))
    verdict = "PASSED: no element differs" if result.passed else "FAILED: some elements differ"
    print_result(f"\n{verdict} ({result.samples} sample{'s' if result.samples != 1 else ''}).")
    return 0 if result.passed else 1

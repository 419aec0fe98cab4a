"""convert: the best trained (or calibrated) model as fixed point: measured, traced, compiled, compared."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hbtool.config.training_loader import LoadedTraining
from hbtool.errors import CompileError, HbError
from hbtool.flows.calib import calibrated_model, load_state
from hbtool.flows.talk import Quiet, Talk
from hbtool.flows.training_results import BEST, StageResult, finish
from hbtool.flows.training_setup import Processes, build_model, march_set, processes, split_batch
from hbtool.flows.training_stages import evaluate, metric_of, prepare, validation_loader
from hbtool.ir.save import written_beside
from hbtool.quantization.checkpoint_files import read_checkpoint
from hbtool.quantization.compare_codes import Agreement, agreement
from hbtool.quantization.compile import compile_model
from hbtool.quantization.fake_quantize import FakeQuantState, set_fake_quantize
from hbtool.quantization.fixed_point import QuantizedGraphModule
from hbtool.quantization.observed import ObservedGraphModule
from hbtool.quantization.quantize_fx import convert_fx


def convert(loaded: LoadedTraining, talk: Talk | None = None) -> StageResult | None:
    """Convert, measure and compile the best model that the working folder holds.

    Writes `PREFIX_fixed_point.pt` (TorchScript) and `PREFIX.hbm` (the artifact; not for hybrid models, which go through
    export-onnx and makertbin).

    Raises:
        HbError: of the class that names the cause; nothing is half-written.
    """
    talk = talk or Quiet()
    given = loaded.config
    with processes("cpu") as mine, march_set(given.model_parameters.march):
        if not mine.first:
            return None
        stage, model = best_model(loaded, mine, talk)
        fixed = fixed_point(model)
        value = evaluate(fixed, validation_loader(loaded, mine), metric_of(loaded), mine, talk, "fixed-point model")
        examples = example_inputs(loaded)
        report = agreement(model, *_real_inputs(loaded, mine, examples))
        notes = (f"converted from the {stage} model", agreement_text(report))
        files = _write(loaded, fixed, examples, talk)
        facts = {"source": stage, "agreement": {"codes": report.rate, "outputs": report.outputs}}
        return finish(loaded, "convert", {"fixed point": value}, files, notes, facts)


def fixed_point(model: ObservedGraphModule) -> QuantizedGraphModule:
    """The fixed-point model; shapes are those it is called with."""
    return convert_fx(model)


def best_model(loaded: LoadedTraining, mine: Processes, talk: Talk) -> tuple[str, ObservedGraphModule]:
    """("QAT" or "calibrated", model in VALIDATION state): the best checkpoint of the working folder."""
    model = build_model(loaded).to(mine.device)
    path = loaded.working_dir / BEST
    if not path.is_file():
        return "calibrated", calibrated_model(loaded, model, mine, talk)
    tensors, _ = read_checkpoint(path)
    made = prepare(loaded, model, calibrating=False, device=mine.device)
    load_state(made, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, str(path))
    made.eval()
    set_fake_quantize(made, FakeQuantState.VALIDATION)
    return "QAT", made


def example_inputs(loaded: LoadedTraining) -> tuple[torch.Tensor, ...]:
    """Zeros of the shapes of the deployed model."""
    return tuple(torch.zeros(shape) for shape in loaded.config.model_parameters.input_shape)


def _real_inputs(loaded: LoadedTraining, mine: Processes, examples: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """The first validation batch; random numbers without validation data."""
    loader = validation_loader(loaded, mine)
    if loader is not None:
        return split_batch(next(iter(loader)), mine.device)[0]
    random = torch.Generator().manual_seed(1)
    return tuple(torch.randn(e.shape, generator=random) for e in examples)


def agreement_text(report: Agreement) -> str:
    """One line about how the trained and the deployed model agree."""
    different = [row for row in report.layers if row.rate < 1]
    text = f"QAT model and fixed point: {100 * report.rate:.4f} % of all integer codes identical"
    text += f", {100 * report.outputs:.2f} % of the outputs to the last bit"
    if different:
        worst = min(different, key=lambda row: row.rate)
        text += (
            f"; most differ in {worst.name} ({100 * worst.rate:.3f} % identical, {worst.largest_steps} steps at most)"
        )
    return text


def _write(
    loaded: LoadedTraining, fixed: QuantizedGraphModule, examples: tuple[torch.Tensor, ...], talk: Talk
) -> dict[str, Path]:
    given = loaded.config.model_parameters
    files: dict[str, Path] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(fixed, examples)  # type: ignore[no-untyped-call]
        path = loaded.working_dir / f"{given.output_model_file_prefix}_fixed_point.pt"
        with written_beside(path) as beside:
            torch.jit.save(traced, str(beside))
    files["fixed_point"] = path
    talk.info(f"saved {path.name}")
    if loaded.config.quantization_parameters.hybrid:
        talk.info("a hybrid model is compiled by: hbtool export-onnx --stage qat, then hbtool makertbin")
        return files
    files["artifact"] = _compiled(traced, examples, loaded.working_dir / f"{given.output_model_file_prefix}.hbm")
    talk.info(f"saved {files['artifact'].name}")
    return files


def _compiled(traced: nn.Module, examples: tuple[torch.Tensor, ...], path: Path) -> Path:
    try:
        code = compile_model(traced, list(examples), hbm=str(path), progressbar=False)
    except HbError:
        raise
    if code:
        raise CompileError("the fixed-point model was not compiled.", where=str(path), hint="See the lines above.")
    return path

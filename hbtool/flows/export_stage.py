"""export-onnx: the ONNX file of one stage of the road."""

from __future__ import annotations

from typing import Any, Literal

from hbtool.config.training_loader import LoadedTraining
from hbtool.errors import UsageError
from hbtool.flows.calib import calibrated_model
from hbtool.flows.convert import best_model, example_inputs, fixed_point
from hbtool.flows.talk import Quiet, Talk
from hbtool.flows.training_results import BEST, StageResult, finish
from hbtool.flows.training_setup import build_model, march_set, processes
from hbtool.utils.onnx_helper import export_quantized_onnx, export_to_onnx

Stage = Literal["float", "calib", "qat", "quantized"]


def export_stage(loaded: LoadedTraining, stage: Stage, talk: Talk | None = None) -> StageResult:
    """Write `PREFIX_STAGE.onnx`: float operators, standard Q/DQ (calib, qat), or integer operators (quantized).

    Raises:
        UsageError: stage qat before there is a trained checkpoint.
        HbError: of the class that names the cause; nothing is half-written.
    """
    talk = talk or Quiet()
    given = loaded.config.model_parameters
    if stage == "qat" and not (loaded.working_dir / BEST).is_file():
        raise UsageError(
            "there is no trained model yet.",
            where=str(loaded.working_dir),
            hint="Run hbtool qat, or take calib.",
        )
    path = loaded.working_dir / f"{given.output_model_file_prefix}_{stage}.onnx"
    loaded.working_dir.mkdir(parents=True, exist_ok=True)
    names: dict[str, Any] = {"input_names": given.input_name or None, "output_names": given.output_name or None}
    with processes("cpu") as mine, march_set(given.march):
        examples = example_inputs(loaded)
        if stage == "float":
            export_to_onnx(build_model(loaded), examples, path, **names)
        elif stage == "quantized":
            export_quantized_onnx(fixed_point(best_model(loaded, mine, talk)[1]), examples, path, **names)
        else:
            model = best_model(loaded, mine, talk)[1]
            if stage == "calib":
                model = calibrated_model(loaded, build_model(loaded), mine, talk)
            export_to_onnx(model, examples, path, **names)
    return finish(loaded, "export-onnx", {}, {"onnx": path}, (f"wrote {path.name}",))

"""calib: observe ranges on calibration data, measure, and leave the scales in a checkpoint."""

from __future__ import annotations

from torch import Tensor, nn

from hbtool.config.training_loader import LoadedTraining
from hbtool.errors import ModelError
from hbtool.flows.talk import Quiet, Talk
from hbtool.flows.training_calibration import calibrate
from hbtool.flows.training_results import CALIBRATED, StageResult, finish
from hbtool.flows.training_setup import Processes, build_model, march_set, processes
from hbtool.flows.training_stages import evaluate, metric_of, prepare, validation_loader
from hbtool.quantization.checkpoint_files import read_checkpoint, write_checkpoint
from hbtool.quantization.fake_quantize import FakeQuantState, set_fake_quantize
from hbtool.quantization.observed import ObservedGraphModule


def calib(loaded: LoadedTraining, talk: Talk | None = None) -> StageResult | None:
    """Calibrate the model of the YAML; None in processes other than the first.

    Raises:
        HbError: of the class that names the cause; nothing is half-written.
    """
    talk = talk or Quiet()
    given = loaded.config
    with processes(given.training_parameters.device) as mine, march_set(given.model_parameters.march):
        model = build_model(loaded).to(mine.device)
        metric, loader = metric_of(loaded), validation_loader(loaded, mine)
        value = evaluate(model, loader, metric, mine, talk, "float model")
        calibrated = calibrated_model(loaded, model, mine, talk, again=True)
        after = evaluate(calibrated, loader, metric, mine, talk, "calibrated model")
        if not mine.first:
            return None
        path = loaded.working_dir / CALIBRATED
        return finish(loaded, "calib", {"float": value, "calibrated": after}, {"calibrated": path})


def calibrated_model(
    loaded: LoadedTraining, model: nn.Module, mine: Processes, talk: Talk, again: bool = False
) -> ObservedGraphModule:
    """The calibrated model in VALIDATION state: from its checkpoint if that fits, else calibrated now and written.

    Args:
        loaded: the configuration.
        model: float model.
        mine: this process.
        talk: progress.
        again: calibrate even if there is a checkpoint.
    """
    path = loaded.working_dir / CALIBRATED
    key = loaded.config.quantization_parameters.model_dump(mode="json")
    if path.is_file() and not again:
        tensors, facts = read_checkpoint(path)
        if facts.get("quantization") == key:
            made = prepare(loaded, model, calibrating=True, device=mine.device)
            load_state(made, tensors, str(path))
            made.eval()
            set_fake_quantize(made, FakeQuantState.VALIDATION)
            talk.info(f"scales from {path.name}")
            return made
        talk.info(f"{path.name} was made with other settings; calibrating again")
    made, observer = calibrate(loaded, model, mine, talk)
    if mine.first:
        write_checkpoint(path, made.state_dict(), {"stage": "calibrated", "quantization": key, "observer": observer})
        talk.info(f"saved {path.name}")
    return made


def load_state(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load a state dict that must fit exactly."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = [line.strip() for line in str(error).splitlines()[1:2]]
        raise ModelError(
            f"the checkpoint does not fit the model: {' '.join(first)}",
            where=where,
            hint="The network or its quantization changed since; delete the file and calibrate again.",
        ) from error

"""lint: the usual mistakes of calibration data and preprocessing, from the data and the model's first layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hbtool.analysis.input_checks import (
    Array,
    Remark,
    confidences,
    first_layer_strength,
    normalizing_nodes,
    odd_numbers,
    same_everywhere,
    strength_remarks,
    swapped_colours,
    swapped_means,
    wrong_layout,
)
from hbtool.calibration.dataset import FolderDataset, to_graph_input, type_remarks, value_remarks
from hbtool.calibration.input_spec import InputSpec
from hbtool.calibration.sample_files import check_sample, read_sample
from hbtool.config.inputs import InputConfig
from hbtool.config.notes import ConfigNote
from hbtool.config.schema import LoadedConfig
from hbtool.errors import DataError
from hbtool.flows.float_stage import FloatStage, prepare_float
from hbtool.flows.talk import Quiet, Talk
from hbtool.passes.insert_preprocess import PREFIX

QUICK_SAMPLES = 4
SAMPLES = 16


@dataclass(frozen=True)
class LintResult:
    """What was found.

    Attributes:
        remarks: suspicions.
        samples: how many samples were read.
    """

    remarks: tuple[Remark, ...]
    samples: int


@dataclass
class _Survey:
    """One input's files.

    Attributes:
        read: how many could be read.
        kept: the first of these, with their paths.
        remarks: what is wrong with single files.
    """

    read: int = 0
    kept: list[tuple[Path, Array]] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def lint(loaded: LoadedConfig, talk: Talk | None = None, samples: int = SAMPLES) -> LintResult:
    """Everything, the model's answers included.

    Args:
        loaded: the configuration.
        talk: receives the notes about it.
        samples: how many samples the model is run on; all files are read.

    Raises:
        HbError: the configuration or model cannot be used at all.
    """
    stage = prepare_float(loaded, talk or Quiet(), check_data=False)
    if not isinstance(stage.samples, FolderDataset):
        raise DataError("there are no calibration files to look at", hint="Name them with cal_data_dir.")
    data = stage.samples
    remarks = _from_configuration((*loaded.warnings, *stage.check.warnings), data.specs[0].name)
    surveys = [_survey(data, spec, len(data), samples) for spec in data.specs]
    for config, spec, survey in zip(stage.check.inputs, data.specs, surveys, strict=True):
        remarks += survey.remarks
        remarks += _from_files(config, spec, survey)
        remarks += _from_model(stage, config)
    if len(surveys) == 1:
        remarks += _from_answers(stage, data.specs[0], stage.check.inputs[0], [a for _, a in surveys[0].kept])
    return LintResult(tuple(remarks), min(s.read for s in surveys))


def _from_configuration(notes: Sequence[ConfigNote], first_input: str) -> list[Remark]:
    """What reading the configuration found wrong with the type of the samples; a note names its input where it must."""
    return [
        Remark(first_input, "data type", note.message)
        for note in notes
        if note.loud and note.key == "calibration_parameters.cal_data_type"
    ]


def quick_remarks(stage: FloatStage) -> Iterator[Remark]:
    """What costs no run of the model and is not said while the data are opened: for warnings before calibration."""
    if not isinstance(stage.samples, FolderDataset):
        return
    count = min(QUICK_SAMPLES, len(stage.samples))
    for config, spec in zip(stage.check.inputs, stage.samples.specs, strict=True):
        survey = _survey(stage.samples, spec, count, count)
        yield from survey.remarks
        yield from _from_values(config, spec, survey)
        yield from _from_model(stage, config)


def _survey(data: FolderDataset, spec: InputSpec, count: int, kept: int) -> _Survey:
    """Read the first `count` files of an input: broken ones, constant ones, and those that are there twice."""
    survey = _Survey()
    seen: dict[bytes, str] = {}
    for index in range(count):
        path = data.files(index)[spec.name]
        try:
            check_sample(path, spec)
            array = read_sample(path, spec)
        except DataError as error:
            survey.remarks.append(Remark(spec.name, "unreadable", f"{path.name}: {error.message}.", error.hint or ""))
            continue
        survey.read += 1
        if len(survey.kept) < kept:
            survey.kept.append((path, array))
        # Feature maps may repeat: the first state of a recurrent network is zeros.
        if spec.is_image or _like_an_image(spec):
            survey.remarks += same_everywhere(spec.name, path.name, array, seen)
    return survey


def _from_files(config: InputConfig, spec: InputSpec, survey: _Survey) -> Iterator[Remark]:
    """What makertbin warns of while it opens the data, and the rest."""
    if survey.kept:
        path, array = survey.kept[0]
        for text in type_remarks(spec, path):
            yield Remark(spec.name, "data type", text)
        for text in value_remarks(spec, array, path):
            yield Remark(spec.name, "value range", text)
    yield from _from_values(config, spec, survey)


def _from_values(config: InputConfig, spec: InputSpec, survey: _Survey) -> Iterator[Remark]:
    yield from swapped_means(spec.name, config.type_train, config.mean)
    if spec.is_image:
        yield from odd_numbers(spec.name, config.mean, config.scale, config.std)
    if spec.is_image and spec.channels == 3:
        yield from wrong_layout(spec.name, [a for _, a in survey.kept], spec.layout_train)


def _from_model(stage: FloatStage, config: InputConfig) -> Iterator[Remark]:
    """Normalization in the model and in the configuration."""
    own = normalizing_nodes(stage.original, config.name, PREFIX)
    configured = [k for k, v in (("mean_value", config.mean), ("scale_value", config.scale), ("std_value", config.std))
                  if v is not None and any(x not in (0.0, 1.0) for x in v)]  # fmt: skip
    if own and configured:
        text = f"the model itself normalizes ({', '.join(own[:3])}), and {', '.join(configured)} do it once more."
        yield Remark(config.name, "double normalization", text, "Remove one of them (norm_type: no_preprocess).")


def _from_answers(
    stage: FloatStage, spec: InputSpec, config: InputConfig, samples: Sequence[Array]
) -> Iterator[Remark]:
    """What the model says of the samples."""
    if not samples or not (spec.is_image or _like_an_image(spec)):
        return
    as_is = [{spec.name: to_graph_input(a, spec)} for a in samples]
    yield from strength_remarks(spec.name, first_layer_strength(stage.original, as_is[:QUICK_SAMPLES], PREFIX))
    if spec.type_train not in ("rgb", "bgr"):
        return
    first = confidences(stage.original, as_is)
    if first is not None:
        axis = 3 if spec.layout_train == "NHWC" else 1
        exchanged = [{spec.name: to_graph_input(np.flip(a, axis), spec)} for a in samples]
        yield from swapped_colours(spec.name, first, confidences(stage.original, exchanged), config.type_train)


def _like_an_image(spec: InputSpec) -> bool:
    """A feature map in the place of a picture: four axes, one or three channels."""
    return len(spec.shape) == 4 and spec.shape[1 if spec.layout_train == "NCHW" else 3] in (1, 3)

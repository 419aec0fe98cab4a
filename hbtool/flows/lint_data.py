"""lint: the usual mistakes of calibration data and preprocessing, from the data and the model's first layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hbtool.analysis.input_checks import (
    Array,
    Remark,
    confidence,
    constant_samples,
    first_layer_strength,
    normalizing_nodes,
    strength_remarks,
    swapped_colours,
    swapped_means,
    wrong_layout,
)
from hbtool.calibration.dataset import FolderDataset, to_graph_input
from hbtool.calibration.input_spec import InputSpec
from hbtool.calibration.sample_files import read_sample
from hbtool.config.inputs import InputConfig
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


def lint(loaded: LoadedConfig, talk: Talk | None = None, samples: int = SAMPLES) -> LintResult:
    """Everything, the model's answers included.

    Raises:
        HbError: the configuration or model cannot be used at all.
    """
    stage = prepare_float(loaded, talk or Quiet())
    if not isinstance(stage.samples, FolderDataset):
        raise DataError("there are no calibration files to look at", hint="Name them with cal_data_dir.")
    data = stage.samples
    count = min(samples, len(data))
    remarks: list[Remark] = []
    for config, spec in zip(stage.check.inputs, data.specs, strict=True):
        arrays, broken = _read(data, spec, count)
        remarks += broken
        remarks += _from_data(config, spec, arrays)
        remarks += _from_model(stage, config)
    if not any(r.check == "unreadable" for r in remarks):
        remarks += _from_answers(stage, data, count)
    return LintResult(tuple(remarks), count)


def quick_remarks(stage: FloatStage) -> Iterator[Remark]:
    """What costs no run of the model: for warnings before calibration."""
    if not isinstance(stage.samples, FolderDataset):
        return
    count = min(QUICK_SAMPLES, len(stage.samples))
    for config, spec in zip(stage.check.inputs, stage.samples.specs, strict=True):
        arrays, _ = _read(stage.samples, spec, count)
        yield from _from_data(config, spec, arrays)
        yield from _from_model(stage, config)


def _read(data: FolderDataset, spec: InputSpec, count: int) -> tuple[list[tuple[str, Array]], list[Remark]]:
    arrays: list[tuple[str, Array]] = []
    broken: list[Remark] = []
    for index in range(count):
        path = data.files(index)[spec.name]
        try:
            arrays.append((path.name, read_sample(path, spec)))
        except DataError as error:
            broken.append(Remark(spec.name, "unreadable", f"{path.name}: {error.message}.", error.hint or ""))
    return arrays, broken


def _from_data(config: InputConfig, spec: InputSpec, arrays: Sequence[tuple[str, Array]]) -> Iterator[Remark]:
    yield from constant_samples(spec.name, arrays)
    yield from swapped_means(spec.name, config.type_train, config.mean)
    if spec.is_image and spec.channels == 3:
        yield from wrong_layout(spec.name, arrays, spec.layout_train)


def _from_model(stage: FloatStage, config: InputConfig) -> Iterator[Remark]:
    """Normalization in the model and in the configuration."""
    own = normalizing_nodes(stage.original, config.name, PREFIX)
    configured = [k for k, v in (("mean_value", config.mean), ("scale_value", config.scale), ("std_value", config.std))
                  if v is not None and any(x not in (0.0, 1.0) for x in v)]  # fmt: skip
    if own and configured:
        text = f"the model itself normalizes ({', '.join(own[:3])}), and {', '.join(configured)} do it once more."
        yield Remark(config.name, "double normalization", text, "Remove one of them (norm_type: no_preprocess).")


def _from_answers(stage: FloatStage, data: FolderDataset, count: int) -> Iterator[Remark]:
    """What the model says of the samples."""
    images = [(c, s) for c, s in zip(stage.check.inputs, data.specs, strict=True) if s.is_image]
    if len(images) != 1 or len(data.specs) != 1 or not count:
        return
    config, spec = images[0]
    raw = [read_sample(data.files(i)[spec.name], spec) for i in range(count)]
    as_is = [{spec.name: to_graph_input(a, spec)} for a in raw]
    yield from strength_remarks(spec.name, first_layer_strength(stage.original, as_is[:QUICK_SAMPLES], PREFIX))
    if spec.type_train not in ("rgb", "bgr"):
        return
    axis = 3 if spec.layout_train == "NHWC" else 1
    exchanged = [{spec.name: to_graph_input(np.flip(a, axis), spec)} for a in raw]
    first = confidence(stage.original, as_is)
    if first is not None:
        yield from swapped_colours(spec.name, first, confidence(stage.original, exchanged), config.type_train)

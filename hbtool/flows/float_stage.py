"""Everything before calibration: configuration and model checked against each other, the float graph ready to place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from hbtool.calibration.dataset import Dataset, FolderDataset
from hbtool.config.inputs import InputConfig
from hbtool.config.model_check import ModelCheck, ModelFacts, check_against_model
from hbtool.config.no_effect import without_effect
from hbtool.config.paths import ResolvedPaths, check_files
from hbtool.config.schema import LoadedConfig
from hbtool.errors import ConfigError, UnsupportedError
from hbtool.flows.custom_ops import add_custom_ops
from hbtool.flows.inputs import input_specs, insert_inputs, model_facts, open_dataset
from hbtool.flows.talk import Talk
from hbtool.ir.load import prepare_model, read_proto
from hbtool.ops.op import Family
from hbtool.passes.cut_outputs import cut_outputs
from hbtool.passes.equalize import equalize
from hbtool.passes.read_qdq import has_qdq, read_qdq
from hbtool.passes.simplify import simplify, simplify_trained
from hbtool.target.target import BORROWED, Target
from hbtool.target.target import load as load_target


@dataclass(frozen=True)
class FloatStage:
    """What is known before calibration starts.

    Attributes:
        loaded: the configuration.
        paths: its absolute paths.
        check: the configuration in terms of the model.
        facts: the model as the file declares it.
        target: the machine.
        original: float graph with preprocessing, otherwise as the user's.
        optimized: the same numbers with fewer nodes; trained ranges are attached as meanings.
        samples: calibration samples (random for skip); None where ranges come with the model.
        trained: whether ranges come with the model.
    """

    loaded: LoadedConfig
    paths: ResolvedPaths
    check: ModelCheck
    facts: ModelFacts
    target: Target
    original: ir.Model
    optimized: ir.Model
    samples: Dataset
    trained: bool

    @property
    def family(self) -> Family:
        """BPU family of the target."""
        return self.target.family


def prepare_float(
    loaded: LoadedConfig, talk: Talk, *, random_data: bool = False, check_data: bool = True
) -> FloatStage:
    """Check everything that can be checked, read the model, clean it up.

    Args:
        loaded: the configuration.
        talk: receives the notes about it.
        random_data: use random samples whatever the configuration names (checker).
        check_data: refuse files that do not fit and warn of odd ones; off for who reports on the data itself (lint).

    Raises:
        ConfigError: the configuration contradicts itself or the model.
        ModelError: the model cannot be read.
        DataError: calibration folders do not fit.
    """
    paths = check_files(loaded, data=not random_data)
    if random_data:
        for folder in paths.cal_data_dirs:
            if not folder.is_dir():
                talk.warn(f"cal_data_dir: the folder {folder} does not exist yet; makertbin will need it")
    if paths.onnx_model is None:
        raise UnsupportedError(
            "Caffe models are not read",
            where=str(loaded.place("model_parameters", "caffe_model")),
            hint="Convert the model to ONNX first and name it with onnx_model.",
        )
    target = _target(loaded, paths)
    if target.march in BORROWED:
        talk.warn(
            f"march {target.march}: most figures of this machine are those of {BORROWED[target.march]}; results are "
            "the same bits as on any nash march, latencies were held against no board"
        )
    proto = read_proto(paths.onnx_model)
    facts = model_facts(proto)
    check = check_against_model(loaded, facts)
    for note in (*loaded.warnings, *check.warnings):
        (talk.warn if note.loud else talk.info)(str(note))
    for line in without_effect(loaded):
        talk.info(line)
    proto = add_custom_ops(proto, loaded, talk)
    model = prepare_model(proto, str(paths.onnx_model), {c.name: c.shape for c in check.inputs})
    cut_outputs(model, check.output_nodes)
    calibration = loaded.calibration_parameters
    trained = calibration.calibration_type == "load"
    if trained and not has_qdq(model):
        raise ConfigError(
            "calibration_type load needs a model that carries ranges, and this one has no Q/DQ nodes",
            where=str(loaded.place("calibration_parameters", "calibration_type")),
            hint="Export the QAT model with hbtool export-onnx, or calibrate with another calibration_type.",
        )
    insert_inputs(model, check.inputs)
    dtypes = {i.name: i.dtype for i in facts.inputs}
    specs = input_specs(check.inputs, dtypes, calibration)
    random = random_data or calibration.calibration_type in ("skip", "load")
    samples = open_dataset(specs, random)
    if check_data:
        _check_data(samples, talk)
    check = _with_stored_types(check, samples)
    _tell_inputs(check.inputs, samples, talk)
    original = model.clone()
    if trained:
        read_qdq(model)
        optimized = simplify_trained(model)
    else:
        optimized = simplify(model)
        if calibration.optimization.equalize:
            evened = equalize(optimized)
            talk.info(f"equalized the channels behind {len(evened)} nodes{': ' if evened else ''}{', '.join(evened)}")
    talk.info(f"optimized the float graph: {original.graph.num_nodes()} -> {optimized.graph.num_nodes()} nodes")
    return FloatStage(loaded, paths, check, facts, target, original, optimized, samples, trained)


def _target(loaded: LoadedConfig, paths: ResolvedPaths) -> Target:
    """The machine; an error about a march that is a name in the configuration has the key's place."""
    try:
        target = load_target(str(paths.target_file) if paths.target_file else loaded.model_parameters.march)
    except ConfigError as error:
        if paths.target_file is not None:
            raise
        where = str(loaded.place("model_parameters", "march"))
        raise ConfigError(f"march: {error.message}", where=where, hint=error.hint) from error
    compiler = loaded.compiler_parameters
    if not compiler.max_l2m_size:
        return target
    per_core = max(1, compiler.max_l2m_size // compiler.core_num)
    return target.with_less_memory(per_core, "max_l2m_size of the configuration")


def _check_data(samples: Dataset, talk: Talk) -> None:
    """Refuse sample files that do not fit, and warn of those that look wrong."""
    if isinstance(samples, FolderDataset):
        samples.check()
        for remark in samples.remarks():
            talk.warn(remark)


def _with_stored_types(check: ModelCheck, samples: Dataset) -> ModelCheck:
    """The inputs with the type that their sample files turned out to hold."""
    if not isinstance(samples, FolderDataset):
        return check
    stored = {file.input_name: file.dtype for file in samples.description()}
    inputs = tuple(replace(i, cal_data_type=stored.get(i.name, i.cal_data_type)) for i in check.inputs)
    return replace(check, inputs=inputs)


def _tell_inputs(inputs: Sequence[InputConfig], samples: Dataset, talk: Talk) -> None:
    """One line per input, before anything long starts: what was understood of it, and its first sample."""
    files = {f.input_name: f for f in samples.description()} if isinstance(samples, FolderDataset) else {}
    for config in inputs:
        shape = "x".join(map(str, config.shape))
        line = (
            f"input {config.name}: {shape} {config.layout_train}, trained on {config.type_train}, "
            f"fed as {config.type_rt} from {config.source}, {config.norm_type}"
        )
        for label, numbers in (("mean", config.mean), ("scale", config.scale), ("std", config.std)):
            if numbers is not None:
                line += f", {label} {' '.join(f'{n:g}' for n in numbers)}"
        talk.info(line)
        if (first := files.get(config.name)) is not None:
            talk.info(
                f"  {first.samples} samples ({first.dtype}) in {first.path.parent}, first {first.path.name} "
                f"(md5 {first.md5})"
            )
    if not files:
        talk.info(f"  calibration data: {len(samples)} random samples, for structure and speed only")

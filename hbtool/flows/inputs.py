"""From the configured inputs to what calibration reads, what the graph starts with, and what the artifact takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from hbtool.calibration.dataset import Dataset, FolderDataset, RandomDataset
from hbtool.calibration.input_spec import InputSpec
from hbtool.config.calibration_section import CalibrationParameters
from hbtool.config.inputs import InputConfig, ModelInput
from hbtool.config.model_check import ModelFacts, NodeFact
from hbtool.ir import graph, meta
from hbtool.numerics.color import preprocess_affine
from hbtool.passes.insert_preprocess import insert_preprocess
from hbtool.runtime.input_format import InputFormat


def model_facts(proto: onnx.ModelProto) -> ModelFacts:
    """What a configuration is held against, from the file alone."""
    constants = {t.name for t in proto.graph.initializer}
    inputs = []
    for value in proto.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = tuple(d.dim_value or d.dim_param or None for d in tensor.shape.dim)
        inputs.append(ModelInput(value.name, shape, _dtype_name(tensor.elem_type)))
    nodes = tuple(
        NodeFact(n.name or (n.output[0] if n.output else ""), n.op_type, _module_path(n), tuple(n.output))
        for n in proto.graph.node
    )
    return ModelFacts(tuple(inputs), tuple(o.name for o in proto.graph.output), nodes)


def _dtype_name(elem_type: int) -> str:
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(elem_type).name)
    except KeyError:
        return "float32"


def _module_path(node: onnx.NodeProto) -> str | None:
    return next((p.value for p in node.metadata_props if p.key == "hbtool.torch_module"), None)


def input_specs(
    configs: Sequence[InputConfig], dtypes: dict[str, str], calibration: CalibrationParameters
) -> tuple[InputSpec, ...]:
    """What calibration must know of each input."""
    return tuple(
        InputSpec(
            name=c.name,
            shape=c.shape,
            dtype=dtypes.get(c.name, "float32"),
            type_rt=c.type_rt,
            type_train=c.type_train,
            layout_rt=c.layout_rt,
            layout_train=c.layout_train,
            space_and_range=c.space_and_range,
            cal_data_dir=Path(c.cal_data_dir) if c.cal_data_dir is not None else None,
            cal_data_type=c.cal_data_type,
            preprocess_on=calibration.preprocess_on and c.is_image,
            type_stated=bool(calibration.cal_data_type),
        )
        for c in configs
    )


def open_dataset(specs: Sequence[InputSpec], random: bool) -> Dataset:
    """The calibration samples: files, or random data where none are asked for."""
    return RandomDataset(specs) if random or any(s.cal_data_dir is None for s in specs) else FolderDataset(specs)


def insert_inputs(model: ir.Model, configs: Sequence[InputConfig]) -> None:
    """Put the preprocessing of every image (and of every normalized 4-D feature map) in front of the model."""
    for config in configs:
        normalized = any(v is not None for v in (config.mean, config.scale, config.std))
        if not config.is_image and not (normalized and len(config.shape) == 4):
            continue
        affine = preprocess_affine(
            config.type_rt,
            config.type_train,
            config.space_and_range,
            config.mean,
            config.scale,
            config.std,
            channels=config.channels,
        )
        insert_preprocess(model, config.name, affine, config.layout_train, config.is_image)


def input_formats(model: ir.Model, configs: Sequence[InputConfig]) -> tuple[InputFormat, ...]:
    """What the application feeds, one per input of the INTEGER graph."""
    known = {c.name: c for c in configs}
    formats = []
    for value in model.graph.inputs:
        config = known[graph.value_name(value)]
        dtype = value.dtype.numpy() if value.dtype is not None else "float32"
        formats.append(
            InputFormat(
                config.name,
                graph.static_shape(value),
                config.type_rt if meta.integer_input(value) else "featuremap",
                config.layout_rt or "NCHW",
                config.layout_train,
                config.space_and_range,
                dtype,
                config.separate,
                config.source,
            )
        )
    return tuple(formats)

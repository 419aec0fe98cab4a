"""infer on a stage file: every layer's output as real numbers, one file per layer (hb_mapper infer)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from hbtool.calibration.dataset import to_graph_input
from hbtool.calibration.input_spec import InputSpec
from hbtool.calibration.sample_files import read_sample
from hbtool.calibration.scorer import as_graph_input
from hbtool.config.model_check import ModelFacts
from hbtool.config.schema import LoadedConfig
from hbtool.errors import DataError, ModelError, UsageError
from hbtool.flows.inputs import input_specs, model_facts
from hbtool.ir import graph, meta
from hbtool.ir.load import read_proto
from hbtool.ir.onnx_session import make_session
from hbtool.ir.save import write_bytes
from hbtool.numerics import qtype
from hbtool.ops.onnx_builder import decode

PICTURES = {".jpg", ".jpeg", ".png", ".bmp"}


@dataclass(frozen=True)
class LayerDump:
    """One layer's output.

    Attributes:
        layer: name of the float value it holds, the same in every stage.
        path: the file: raw float32, C order.
        shape: its shape.
    """

    layer: str
    path: Path
    shape: tuple[int, ...]


def dump_layers(
    loaded: LoadedConfig,
    model_file: Path,
    files: Mapping[str, Path],
    folder: Path,
    layouts: Sequence[str] = (),
) -> tuple[LayerDump, ...]:
    """Run a stage file on one sample and write every layer's output.

    Args:
        loaded: the configuration the stage file was built with: it says how a picture becomes the model's input.
        model_file: original_float, optimized_float, calibrated or quantized ONNX.
        files: input name -> picture, .npy or raw file, as for calibration.
        folder: where `<layer>_float.bin` go.
        layouts: layout of the files, per input in the model's order; empty: input_layout_train.

    Raises:
        UsageError: an input is missing or unknown.
        DataError: a file does not fit.
    """
    proto = read_proto(model_file)
    feeds = _feeds(loaded, proto, files, layouts)
    model = ir.from_proto(proto)
    values = _layers(model)
    known = {v.name for v in model.graph.outputs}
    for value in values:
        if value.name not in known:
            model.graph.outputs.append(value)
            known.add(value.name)
    # onnxruntime's optimizer trips over Q/DQ graphs whose inner values are outputs; one sample needs no speed.
    session = make_session(model, optimize=False)
    names = [graph.value_name(v) for v in values]
    results = dict(zip(names, session.run(names, feeds), strict=True))
    dumps, taken = [], set()
    for value, layer in values.items():
        real = _real(value, np.asarray(results[graph.value_name(value)]))
        stem = _file_word(layer)
        while stem in taken:
            stem += "_"
        taken.add(stem)
        path = folder / f"{stem}_float.bin"
        write_bytes(path, np.ascontiguousarray(real, np.float32).tobytes())
        dumps.append(LayerDump(layer, path, real.shape))
    return tuple(dumps)


def _feeds(
    loaded: LoadedConfig, proto: onnx.ModelProto, files: Mapping[str, Path], layouts: Sequence[str]
) -> dict[str, np.ndarray]:
    facts = model_facts(proto)
    known = [entry.name for entry in facts.inputs]
    if unknown := [name for name in files if name not in known]:
        raise UsageError(f"the model has no input {unknown[0]!r}", hint=f"Inputs: {', '.join(known)}.")
    if missing := [name for name in known if name not in files]:
        raise UsageError(f"input {missing[0]!r} has no file", hint=f"Give --image-file {missing[0]} FILE.")
    if layouts and len(layouts) != len(known):
        raise UsageError(f"--input-layout comes {len(layouts)} times for {len(known)} inputs", hint="Once per input.")
    specs = _specs(loaded, facts)
    types = {entry.name: entry.dtype for entry in facts.inputs}
    feeds = {}
    for index, name in enumerate(known):
        spec = specs[name]
        path = files[name]
        if not path.is_file():
            raise DataError("the file does not exist", where=str(path))
        layout = layouts[index] if layouts else None
        sample = _read(path, spec, layout)
        array = to_graph_input(sample, spec)
        feeds[name] = np.asarray(as_graph_input(array, np.int8 if types[name] == "int8" else None))
    return feeds


def _specs(loaded: LoadedConfig, facts: ModelFacts) -> dict[str, InputSpec]:
    """What the configuration says about each input; the stage files have static shapes."""
    configs = loaded.resolve_inputs(facts.inputs)
    dtypes = {i.name: "float32" if i.dtype == "int8" else i.dtype for i in facts.inputs}
    by_suffix = loaded.calibration_parameters.model_copy(update={"preprocess_on": False})
    return {spec.name: spec for spec in input_specs(configs, dtypes, by_suffix)}


def _read(path: Path, spec: InputSpec, layout: str | None) -> np.ndarray:
    if spec.is_image and path.suffix.lower() in PICTURES:
        return read_sample(path, replace(spec, preprocess_on=True))
    if layout is None or layout == spec.layout_train or len(spec.shape) != 4:
        return read_sample(path, spec)
    n, a, b, c = spec.shape
    turned = (n, b, c, a) if layout == "NHWC" else (n, c, a, b)
    sample = read_sample(path, replace(spec, shape=turned, layout_train=layout))
    return np.moveaxis(sample, -1, 1) if layout == "NHWC" else np.moveaxis(sample, 1, -1)


def _layers(model: ir.Model) -> dict[ir.Value, str]:
    """The values to write, each with the layer's name: computed, numeric, and in a quantized model those that stand
    for a float value."""
    quantized = any(meta.float_value(v) for n in model.graph for v in n.outputs)
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        for value in node.outputs:
            if not value.name or value.dtype is None or graph.known_shape(value) is None:
                continue
            stands_for = meta.float_value(value)
            if quantized and stands_for is None and not meta.is_placed(node) and not value.is_graph_output():
                continue  # a step inside an integer operator
            found.setdefault(stands_for or value.name, value)  # an integer and its Dequantize are one layer
    if not found:
        raise ModelError("no layer of the model has a known shape", hint="Name a stage file that makertbin wrote.")
    return {value: layer for layer, value in found.items()}


def _real(value: ir.Value, array: np.ndarray) -> np.ndarray:
    q = meta.qparams(value)
    if q is None or meta.float_value(value) is None:
        return array
    return qtype.dequantize(decode(array, q.type), q)


def _file_word(name: str) -> str:
    return re.sub(r"[^\w.\-]+", "_", name).strip("_") or "layer"

"""input_batch: the artifact takes several images at once, and each gives the bits that it gives alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hbtool.errors import ConfigError, ModelError
from hbtool.flows.float_stage import FloatStage
from hbtool.flows.quantize_stage import QuantizeStage
from hbtool.ir import graph
from hbtool.ir.onnx_session import make_session
from hbtool.ops.op import is_integer
from hbtool.passes.expose_layers import expose_layers
from hbtool.passes.lower_to_integer import lower_to_integer
from hbtool.passes.set_batch import set_batch
from hbtool.passes.to_standard_onnx import to_standard_onnx

MOST_CHECKED = 4
"""Images that are run to see that none reads its neighbour; a batch of thousands would not fit into memory."""


FLIPPED_ROUNDING = 0.02
"""Share of the largest value that a step of int8 is, with room; what mixes images is off by far more."""


def check_batch_ahead(stage: FloatStage) -> None:
    """Whether the float model can run input_batch images, before anything is calibrated.

    Raises:
        ConfigError: a node mixes the batch with other axes (names it), or images change each other's results.
    """
    batch = stage.loaded.input_parameters.input_batch
    whole = _batched(stage, stage.optimized, batch)
    few = min(batch, MOST_CHECKED)
    tried = whole if few == batch else _batched(stage, stage.optimized, few)
    _check_batch(stage, stage.optimized, tried, few, tolerance=1e-3)


def with_batch(stage: FloatStage, quantized: QuantizeStage, single: ir.Model, *, expose: bool) -> ir.Model:
    """The INTEGER graph for input_batch images, tried on `MOST_CHECKED` of them.

    Args:
        stage: the float model and its configuration.
        quantized: its integer forms for one image.
        single: the INTEGER graph for one image, with exposed layers if `expose`.
        expose: whether every layer is an output.

    Raises:
        ConfigError: images change each other's results.
    """
    batch = stage.loaded.input_parameters.input_batch
    whole = _lowered(stage, quantized, batch, expose=expose)
    few = min(batch, MOST_CHECKED)
    tried = whole if few == batch else _lowered(stage, quantized, few, expose=expose)
    # A float node gives other last bits for other batches, which may turn the rounding of an integer behind it.
    tolerance = None if all(is_integer(node) for node in single.graph) else FLIPPED_ROUNDING
    _check_batch(stage, to_standard_onnx(single), to_standard_onnx(tried), few, tolerance=tolerance)
    return whole


def _lowered(stage: FloatStage, quantized: QuantizeStage, batch: int, *, expose: bool) -> ir.Model:
    ranged = _batched(stage, quantized.quantized.ranged, batch)
    whole = lower_to_integer(ranged, stage.family, stage.target.multiplier_bits)
    return expose_layers(whole)[0] if expose else whole


_BATCH_HINT = "Remove input_batch, or export the model so that no node mixes the batch with other axes."


def _batched(stage: FloatStage, model: ir.Model, batch: int) -> ir.Model:
    try:
        return set_batch(model, batch)
    except ModelError as error:
        message = f"{error.where}: {error.message}" if error.where else error.message
        place = str(stage.loaded.place("input_parameters", "input_batch"))
        raise ConfigError(f"input_batch: {message}.", where=place, hint=_BATCH_HINT) from error


def _check_batch(
    stage: FloatStage, single: ir.Model, whole: ir.Model, batch: int, *, tolerance: float | None = None
) -> None:
    """Every image of a batch gives what it gives alone: the same bits, or float results within a tolerance."""
    rng = np.random.default_rng(0)
    feeds = {
        graph.value_name(v): _random(rng, (batch, *graph.static_shape(v)[1:]), v.dtype) for v in single.graph.inputs
    }
    one, many = make_session(single), make_session(whole)
    names = [o.name for o in one.get_outputs()]
    together = many.run(names, feeds)
    for index in range(batch):
        alone = one.run(names, {name: array[index : index + 1] for name, array in feeds.items()})
        for name, a, b in zip(names, alone, together, strict=True):
            if a.shape[0] != 1 or a.shape[1:] != b.shape[1:] or not _equal(a[0], b[index], tolerance):
                raise ConfigError(
                    f"input_batch: output {name!r} of {batch} images differs from that of single images.",
                    where=str(stage.loaded.place("input_parameters", "input_batch")),
                    hint=_BATCH_HINT,
                )


def _equal(a: np.ndarray, b: np.ndarray, tolerance: float | None) -> bool:
    if tolerance is None or a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    # onnxruntime sums in another order for other batches; a node that mixes images is off by far more.
    return bool(np.abs(a - b).max(initial=0.0) <= tolerance * max(1.0, float(np.abs(a).max(initial=0.0))))


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: ir.DataType | None) -> np.ndarray:
    kind = np.dtype(np.float32) if dtype is None else np.dtype(dtype.numpy())
    if kind.kind == "f":
        return rng.standard_normal(shape).astype(kind)
    return rng.integers(-128, 128, shape).astype(kind) if kind == np.int8 else rng.integers(0, 2, shape).astype(kind)

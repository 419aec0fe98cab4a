"""Corrects biases for the mean error that quantization leaves in the outputs of convolutions and matrix products.

Two ways, both in terms of per-channel means, so that whoever owns the quantized model decides how it is run:

* analytic: the error of the weights times the mean of the input (M. Nagel et al., "Data-Free Quantization through
  Weight Equalization and Bias Correction", 2019, section 4.2); one pass over the float model;
* empirical: the mean of the float output minus the mean of the quantized output, stage after stage, because a node's
  output only shows its own error once those before it are corrected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.calibration.instrument import Instrument, Samples, float_feeds, run
from hbtool.errors import DataError, ModelError

FloatArray = NDArray[np.float64]
Means = Mapping[str, FloatArray]


def channel_means(
    model: ir.Model, channel_axis: Mapping[str, int], samples: Samples
) -> dict[str, FloatArray]:
    """Mean of each channel of float32 values over all samples, accumulated in float64.

    Args:
        model: a float model, or one whose quantization is written as QuantizeLinear/DequantizeLinear.
        channel_axis: value name -> its channel axis (negative counts from the end): 1 for a convolution's output,
            -1 for a matrix product's.
        samples: the calibration samples.

    Returns:
        name -> means `[C]`.

    Raises:
        DataError: no samples. ModelError: a name is unknown or the model cannot run.
    """
    if not len(samples):
        raise DataError("there are no calibration samples")
    instrument = Instrument(model)
    parts: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for name, axis in channel_axis.items():
        shape = instrument.shape(name)
        if not -len(shape) <= axis < len(shape):
            raise ModelError(f"has {len(shape)} dimensions, so no channel axis {axis}", where=name)
        axis %= len(shape)
        parts.append(instrument.reduce("ReduceMean", name, tuple(range(axis + 1, len(shape)))))
        shapes.append(shape[: axis + 1])
    output = instrument.output(instrument.joined(parts))
    session = instrument.session()
    inputs = [i.name for i in session.get_inputs()]
    total = np.zeros(sum(math.prod(s) for s in shapes))
    for number, sample in enumerate(samples):
        total += run(session, [output], float_feeds(sample, inputs), f"calibration sample {number}")[0]
    total /= len(samples)
    ends = np.cumsum([math.prod(s) for s in shapes])
    pieces = np.split(total, ends[:-1])
    return {n: p.reshape(-1, s[-1]).mean(axis=0) for n, p, s in zip(channel_axis, pieces, shapes, strict=True)}


def analytic_update(weight_error: FloatArray, input_mean: FloatArray, groups: int = 1) -> FloatArray:
    """What to add to a bias so that the error of the weights does not move the mean of the output.

    Args:
        weight_error: quantized minus float weights `[C_out, C_in / groups, ...kernel]`.
        input_mean: means of the input's channels `[C_in]`. Padding is not accounted for.
        groups: convolution groups.

    Returns:
        The addend `[C_out]`.

    Raises:
        ModelError: the shapes do not go together.
    """
    outputs, inputs = weight_error.shape[:2]
    if outputs % groups or input_mean.shape != (inputs * groups,):
        raise ModelError(
            f"weights {weight_error.shape} in {groups} groups do not fit {input_mean.shape[0]} input channels"
        )
    error = weight_error.reshape(groups, outputs // groups, inputs, -1).sum(axis=-1)
    return -np.einsum("goi,gi->go", error, input_mean.reshape(groups, inputs)).reshape(outputs)


def empirical_updates(
    stages: Sequence[Collection[str]],
    float_means: Means,
    quantized_means: Callable[[Collection[str], Means], Means],
) -> dict[str, FloatArray]:
    """Bias addends that bring the quantized means to the float ones.

    Args:
        stages: node outputs in groups that are corrected together, from the input of the model to its outputs. One
            group is one pass; groups of one node each are the most accurate.
        float_means: means of every named output in the float model, `[C]` each.
        quantized_means: given the outputs of one stage and the addends found so far, the means of these outputs in
            the quantized model with those addends applied.

    Returns:
        output name -> addend `[C]`.

    Raises:
        ModelError: a mean is missing or has another number of channels.
    """
    updates: dict[str, FloatArray] = {}
    for stage in stages:
        measured = quantized_means(stage, dict(updates))
        for name in stage:
            if name not in float_means or name not in measured:
                raise ModelError("has no mean to correct its bias by", where=name)
            if float_means[name].shape != measured[name].shape:
                raise ModelError(f"means of {measured[name].shape} and {float_means[name].shape} channels", where=name)
            updates[name] = updates.get(name, 0.0) + (float_means[name] - measured[name])
    return updates

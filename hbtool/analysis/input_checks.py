"""Signs that samples are not what the model was trained on: from the data alone, and from the model's first layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from hbtool.analysis.readout import Readout
from hbtool.calibration.instrument import Sample
from hbtool.ir import graph

Array = NDArray[np.generic]
FloatArray = NDArray[np.float64]
_NORMALIZING = ("Sub", "Add", "Mul", "Div", "BatchNormalization")
_PASSING = ("Cast", "Transpose", "Identity", "Reshape", "Pad")
_LAYERS = ("Conv", "Gemm", "MatMul")
_TOO_STRONG, _TOO_WEAK = 10.0, 0.03
"""Of the models of shared/real the first layer answers with 0.2 to 3.5 when fed as they were trained; without mean and
scale with 15 and more, with data scaled twice with less than 0.02."""
_SMOOTHER = 0.5
_MORE_CONFIDENT = 0.04
_IMAGENET_RGB = np.array([123.675, 116.28, 103.53])
_STD = np.array([58.395, 57.12, 57.375])


@dataclass(frozen=True)
class Remark:
    """One suspicion.

    Attributes:
        input: which input.
        check: short name of the check.
        text: what was seen.
        hint: what to do.
        level: `warning`, or `note` for what is right for some models (it does not fail lint).
    """

    input: str
    check: str
    text: str
    hint: str = ""
    level: Literal["warning", "note"] = "warning"

    def __str__(self) -> str:
        text = self.text if self.text.startswith("input ") else f"input {self.input!r}: {self.text}"
        return f"{text} {self.hint}".strip()


def same_everywhere(name: str, file: str, array: Array, seen: dict[bytes, str]) -> Iterator[Remark]:
    """A sample that holds one value only, or that was there before; `seen` keeps digests between calls."""
    if array.size > 1 and np.min(array) == np.max(array):
        yield Remark(name, "constant", f"{file} holds nothing but {float(np.min(array)):g}.", "Take it out.")
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
    other = seen.setdefault(digest, file)
    if other != file:
        yield Remark(name, "duplicate", f"{file} is the same as {other}.", "Take one out; it counts twice.")


def wrong_layout(name: str, samples: Sequence[Array], layout: str) -> Iterator[Remark]:
    """Pictures are smooth along their width; read in the wrong layout they are not."""
    pairs = [(_roughness(a, layout), _roughness(_other_layout(a, layout), _other(layout))) for a in samples]
    if not pairs:
        return
    as_read, other_way = (float(np.median(x)) for x in zip(*pairs, strict=True))
    if as_read > 0 and other_way < _SMOOTHER * as_read:
        text = f"the samples look like {_other(layout)}, but are read as {layout} (neighbouring pixels differ "
        text += f"{as_read / max(other_way, 1e-9):.1f} times as much that way)."
        yield Remark(name, "layout", text, f"Write them as {layout}, or correct input_layout_train.")


def _other(layout: str) -> str:
    return "NHWC" if layout == "NCHW" else "NCHW"


def _other_layout(array: Array, layout: str) -> Array:
    """The same bytes, read in the other layout."""
    n, *rest = array.shape
    if layout == "NCHW":
        c, h, w = rest
        return array.reshape(n, h, w, c)
    h, w, c = rest
    return array.reshape(n, c, h, w)


def _roughness(array: Array, layout: str) -> float:
    """Mean difference of neighbours along the width, in standard deviations."""
    x = np.asarray(array, np.float64)
    steps = np.diff(x, axis=3 if layout == "NCHW" else 2)
    deviation = float(x.std())
    return float(np.abs(steps).mean()) / deviation if deviation > 0 and steps.size else 0.0


def swapped_means(name: str, type_train: str, mean: Sequence[float] | None) -> Iterator[Remark]:
    """The usual means in the order of the other colour type; a note, because some models were trained so."""
    if mean is None or len(mean) != 3 or type_train not in ("rgb", "bgr") or len(set(mean)) == 1:
        return
    given = np.asarray(mean, np.float64)
    usual = _IMAGENET_RGB if type_train == "rgb" else _IMAGENET_RGB[::-1]
    if np.abs(given - usual[::-1]).max() < 2.5 and np.abs(given - usual).max() > 2.5:
        other = "bgr" if type_train == "rgb" else "rgb"
        text = f"mean_value {_joined(mean)} is the usual one for {other}, but input_type_train is {type_train}."
        hint = "Reverse mean_value or correct input_type_train, unless the model was trained so (PaddleOCR's are)."
        yield Remark(name, "mean order", text, hint, "note")


def odd_numbers(
    name: str, mean: Sequence[float] | None, scale: Sequence[float] | None, std: Sequence[float] | None
) -> Iterator[Remark]:
    """Numbers for 0..1 data in a configuration whose images are 0..255, and deviations where factors belong."""
    for key, given in (("mean_value", mean), ("std_value", std)):
        if given is not None and 0 < max(given) < 1:
            text = f"{key} {_joined(given)} is one for data of 0..1, but images are 0..255 here."
            yield Remark(name, "scale", text, f"Write it times 255: {_joined([255 * g for g in given])}.")
    if scale is not None and len(scale) == 3:
        for usual, full in ((_STD / 255, 255.0), (_STD, 1.0)):
            if np.abs(np.sort(scale) / np.sort(usual) - 1).max() < 0.02:
                text = f"scale_value {_joined(scale)} are standard deviations, but images are multiplied by it."
                factors = _joined([1 / (full * s) for s in scale])
                yield Remark(name, "scale", text, f"Write them as std_value times 255, or scale_value: {factors}.")


def _joined(numbers: Sequence[float]) -> str:
    return " ".join(f"{n:.6g}" for n in numbers)


def normalizing_nodes(model: ir.Model, name: str, inserted: str) -> tuple[str, ...]:
    """Nodes between an input and the first real layer that subtract or scale by constants."""
    value = next((v for v in model.graph.inputs if v.name == name), None)
    found: list[str] = []
    while value is not None:
        node = graph.sole_consumer(value)
        if node is None:
            break
        own = graph.node_name(node).startswith(inserted)
        if node.op_type in _NORMALIZING and not own:
            if not all(v is None or v is value or graph.constant(v) is not None for v in node.inputs):
                break
            found.append(graph.node_name(node))
        elif node.op_type not in _PASSING and not own:
            break
        value = node.outputs[0]
    return tuple(found)


def first_layer_strength(model: ir.Model, samples: Sequence[Sample], inserted: str) -> float | None:
    """Median over the channels of the standard deviation of the first layer's output, behind its batch norm."""
    layers = (n for n in model.graph if n.op_type in _LAYERS and not graph.node_name(n).startswith(inserted))
    layer = next((n for n in layers if graph.constant(graph.input_at(n, 1)) is not None), None)
    if layer is None or not samples:
        return None
    following = graph.sole_consumer(layer.outputs[0])
    last = following if following is not None and following.op_type == "BatchNormalization" else layer
    output = graph.value_name(last.outputs[0])
    reader = Readout(model, [output])
    stacked = np.stack([np.asarray(reader.run(s)[output], np.float64) for s in samples])
    channel = 2 if layer.op_type == "Conv" else stacked.ndim - 1
    return float(np.median(stacked.std(axis=tuple(i for i in range(stacked.ndim) if i != channel))))


def strength_remarks(name: str, strength: float | None) -> Iterator[Remark]:
    """Outputs of a first layer are of the order of 1 when its inputs are what it was trained on."""
    if strength is None:
        return
    if strength > _TOO_STRONG:
        text = f"the first layer answers with values around {strength:.3g}; the input is too large for it."
        yield Remark(name, "scale", text, "Is mean_value / scale_value missing (0..255 instead of 0..1 or -1..1)?")
    elif strength < _TOO_WEAK:
        text = f"the first layer hardly answers (deviation {strength:.3g}); the input is too small for it."
        yield Remark(name, "scale", text, "Is the data scaled twice (0..1 data and scale_value 1/255)?")


def confidences(model: ir.Model, samples: Sequence[Sample]) -> FloatArray | None:
    """Largest class probability per sample; None where the model is no classifier (one vector of ten or more)."""
    outputs = [v for v in model.graph.outputs if graph.is_float(v)]
    if len(outputs) != 1:
        return None
    name = graph.value_name(outputs[0])
    reader = Readout(model, [name])
    found = []
    for sample in samples:
        scores = reader.run(sample)[name]
        if scores.size != max(scores.shape, default=0) or scores.size < 10:
            return None
        found.append(_largest_probability(scores))
    return np.array(found)


def _largest_probability(scores: Array) -> float:
    x = np.asarray(scores, np.float64).ravel()
    if x.min() >= 0 and abs(x.sum() - 1) < 1e-3:
        return float(x.max())
    powers = np.exp(x - x.max())
    return float(1 / powers.sum())


def swapped_colours(
    name: str, as_is: FloatArray | None, swapped: FloatArray | None, type_train: str
) -> Iterator[Remark]:
    """A classifier that is surer of pictures with red and blue exchanged was trained on those."""
    if as_is is None or swapped is None or len(as_is) < 2:
        return
    gains = swapped - as_is
    if gains.mean() > max(_MORE_CONFIDENT, 2 * gains.std() / np.sqrt(len(gains))):
        other = "bgr" if type_train == "rgb" else "rgb"
        text = "with red and blue exchanged the model is surer of its classes "
        text += f"({swapped.mean():.2f} against {as_is.mean():.2f})."
        hint = f"Was it trained on {other}, or are the files {other}? Correct input_type_train or the data."
        yield Remark(name, "colour order", text, hint)

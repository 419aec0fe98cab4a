"""The rules of a single input: legal types and layouts, picture sizes, and which of mean, scale, std count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hbtool.config.marches import is_nash

if TYPE_CHECKING:
    from hbtool.config.inputs import Draft

LEGAL_RT = {
    "rgb": ("nv12", "yuv444", "rgb", "bgr"),
    "bgr": ("nv12", "yuv444", "rgb", "bgr"),
    "yuv444": ("nv12", "yuv444"),
    "gray": ("gray",),
    "featuremap": ("featuremap",),
}
"""input_type_train → the input_type_rt that the preprocessing can convert from."""

Norm = tuple[str, tuple[float, ...] | None, tuple[float, ...] | None, tuple[float, ...] | None]


def check_types(draft: Draft, shape: tuple[int, ...] | None = None) -> tuple[str, str, str, str]:
    """(type_rt, type_train, layout_train, layout_rt) of an input, after the rules that tie them together."""
    rt, train = draft.part("input_type_rt") or "", draft.part("input_type_train") or ""
    for key, word in (("input_type_rt", rt), ("input_type_train", train)):
        if not word:
            raise draft.error(key, "mandatory and empty.", "Write one type per input.")
    if rt not in LEGAL_RT[train]:
        hint = f"With input_type_train {train}, input_type_rt is {' or '.join(LEGAL_RT[train])}."
        raise draft.error("input_type_rt", f"{train} → {rt} is not a legal pair (train → rt).", hint)
    if shape is not None and len(shape) != 4:
        if train != "featuremap":
            message = f"{train} needs a 4-D input; {'x'.join(map(str, shape))} has {len(shape)} dimensions."
            raise draft.error("input_type_train", message, "Write featuremap in input_type_train and input_type_rt.")
        if draft.march == "bernoulli2":
            message = f"bernoulli2 takes 4-D inputs only; {'x'.join(map(str, shape))} has {len(shape)} dimensions."
            raise draft.error("input_shape", message, "Reshape to 4-D inside the model, or compile for bayes-e.")
    if shape is not None and draft.march == "bernoulli2" and shape[0] != 1:
        hint = "Export the model with batch 1 and set input_batch."
        raise draft.error("input_shape", f"bernoulli2 takes batch 1 only, not {shape[0]}.", hint)
    _check_range(draft, rt, train)
    layout_train = _layout_train(draft, train, shape)
    return rt, train, layout_train, _layout_rt(draft, rt, layout_train)


def _check_range(draft: Draft, rt: str, train: str) -> None:
    if draft.part("input_space_and_range") != "bt601_video":
        return
    if rt != "nv12":
        hint = "Write regular, or feed nv12."
        raise draft.error("input_space_and_range", f"bt601_video is only for input_type_rt nv12, not {rt}.", hint)
    if train not in ("rgb", "bgr"):
        draft.note("input_space_and_range", f"bt601_video has no effect with input_type_train {train}.", "value")


def _layout_train(draft: Draft, train: str, shape: tuple[int, ...] | None) -> str:
    layout = draft.part("input_layout_train")
    if layout is not None:
        return layout
    if train == "featuremap":
        return "NCHW"
    channels = 1 if train == "gray" else 3
    guess = "NCHW or NHWC"
    if shape is not None and len(shape) == 4 and (shape[1] == channels) != (shape[3] == channels):
        guess = "NCHW" if shape[1] == channels else "NHWC"
    raise draft.error(
        "input_layout_train", f"mandatory for {train} and missing.", f"Write input_layout_train: '{guess}'."
    )


def _layout_rt(draft: Draft, rt: str, layout_train: str) -> str:
    layout = draft.part("input_layout_rt")
    if rt == "nv12":
        return "NHWC"
    if draft.march == "bernoulli2" and rt == "yuv444":
        if layout == "NCHW":
            raise draft.error("input_layout_rt", "bernoulli2 has no yuv444 in NCHW.", "Write input_layout_rt: 'NHWC'.")
        return "NHWC"
    return layout or layout_train


def check_image(draft: Draft, channels: int, height_width: tuple[int, int]) -> None:
    """Channels and sizes of a picture."""
    train, rt = draft.part("input_type_train") or "", draft.part("input_type_rt") or ""
    expected = 1 if train == "gray" else 3
    if channels != expected:
        layout = draft.part("input_layout_train")
        hint = f"Check input_layout_train ({layout}) and input_type_train; featuremap takes any number."
        key = "input_type_train"
        raise draft.error(key, f"{train} has {expected} channel{'s' * (expected > 1)}, the input {channels}.", hint)
    height, width = height_width
    if rt in ("nv12", "yuv444") and (height % 2 or width % 2):
        hint = "Export the model with an even height and width, or feed rgb or bgr."
        raise draft.error("input_type_rt", f"{rt} needs even sizes; the input is {height}x{width}.", hint)


def settle_norm(draft: Draft, shape: tuple[int, ...] | None = None) -> Norm:
    """(norm_type, mean, scale, std): what is built into the model, the unused values None."""
    given = {name: draft.numbers(f"{name}_value") for name in ("mean", "scale", "std")}
    if given["scale"] is not None and given["std"] is not None:
        raise draft.error("std_value", "exclusive with scale_value.", "Keep one: scale multiplies, std divides.")
    wanted = draft.part("norm_type")
    values = {name for name, value in given.items() if value is not None}
    used = _used(draft, wanted, values)
    numbers = {name: given[name] if name in used else None for name in given}
    _check_featuremap(draft, used, shape)
    for name in used:
        _check_numbers(draft, f"{name}_value", numbers[name] or (), shape)
    return _norm_name(used), numbers["mean"], numbers["scale"], numbers["std"]


def _used(draft: Draft, wanted: str | None, values: set[str]) -> set[str]:
    """Which of mean, scale, std are applied: what norm_type says, or the values that are given."""
    if wanted is None or is_nash(draft.march):
        asked = _asked(wanted) if wanted is not None else values
        if asked != values:
            message = f"{wanted} is deprecated on nash, where the given values decide: {_norm_name(values)}."
            draft.note("norm_type", message, "value")
        elif wanted is None and values and not is_nash(draft.march):
            draft.note("norm_type", f"absent; read as {_norm_name(values)} from the values given.", "value")
        return values
    asked = _asked(wanted)
    if "scale" in asked and "std" in values and "scale" not in values:
        asked = (asked - {"scale"}) | {"std"}
    missing = sorted(asked - values)
    if missing:
        keys = " and ".join(f"{name}_value" for name in missing)
        key = f"{missing[0]}_value"
        raise draft.error(key, f"norm_type {wanted} needs {keys}.", f"Add {keys}, or write norm_type: 'no_preprocess'.")
    for name in sorted(values - asked):
        draft.note(f"{name}_value", f"has no effect with norm_type {wanted}.", "value")
    return asked


def _asked(norm_type: str) -> set[str]:
    return {name for name in ("mean", "scale", "std") if name in norm_type}


def _norm_name(used: set[str]) -> str:
    words = [name for name in ("mean", "scale", "std") if name in used]
    return "data_" + "_and_".join(words) if words else "no_preprocess"


def _check_featuremap(draft: Draft, used: set[str], shape: tuple[int, ...] | None) -> None:
    if not used or draft.part("input_type_train") != "featuremap":
        return
    key = "norm_type" if draft.part("norm_type") else f"{sorted(used)[0]}_value"
    if is_nash(draft.march):
        raise draft.error(key, "a featuremap takes no mean, scale or std on nash.", "Normalise before feeding.")
    if shape is not None and len(shape) != 4:
        hint = "Write no_preprocess, and normalise before feeding."
        raise draft.error(key, f"a featuremap of {len(shape)} dimensions takes no_preprocess only.", hint)


def _check_numbers(draft: Draft, key: str, numbers: tuple[float, ...], shape: tuple[int, ...] | None) -> None:
    train = draft.part("input_type_train")
    channels = {"gray": 1, "featuremap": None}.get(train or "", 3)
    if channels is None and shape is not None and len(shape) == 4:
        channels = shape[1] if (draft.part("input_layout_train") or "NCHW") == "NCHW" else shape[3]
    if channels is not None and len(numbers) not in (1, channels):
        hint = "Write one value, or one per channel, separated by blanks."
        raise draft.error(key, f"{len(numbers)} values for {channels} channel{'s' * (channels > 1)}.", hint)
    if key != "mean_value" and 0.0 in numbers:
        raise draft.error(key, "0 erases the input.", "Write a value other than 0.")
    if train in ("rgb", "bgr", "gray"):
        _check_units(draft, key, numbers)


def _check_units(draft: Draft, key: str, numbers: tuple[float, ...]) -> None:
    """The two slips that cost most accuracy: 0..1 units, and std written where scale is read."""
    largest = max(map(abs, numbers))
    if key == "mean_value" and 0 < largest <= 1:
        draft.note(key, f"{numbers[0]:g} looks like 0..1 units; the key is in 0..255 units (255·mean).", "value")
    if key == "scale_value" and largest > 10:
        draft.note(key, f"{numbers[0]:g} looks like a divisor; the key multiplies (1/std, or use std_value).", "value")
    if key == "std_value" and largest <= 1:
        draft.note(key, f"{numbers[0]:g} looks like 0..1 units; the key is in 0..255 units (255·std).", "value")

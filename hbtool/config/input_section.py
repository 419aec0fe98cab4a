"""`input_parameters`: what the application feeds, what the model was trained on, and what lies between."""

from __future__ import annotations

from typing import Annotated

from hbtool.config.keys import Key
from hbtool.config.kinds import BOOL, INPUT_NAMES, NAMES, NUMBERS, SHAPES, integer, parts_of
from hbtool.config.section import Section

TRAIN_TYPES = ("rgb", "bgr", "yuv444", "gray", "featuremap")
RT_TYPES = ("rgb", "bgr", "yuv444", "nv12", "gray", "featuremap")
_TYPE_ALIASES = {
    "grey": "gray",
    "feature_map": "featuremap",
    "feature": "featuremap",
    "yuv420sp": "nv12",
    "yuvnv12": "nv12",
    "yuv444_128": "yuv444",
    "rgbp": "rgb",
    "bgrp": "bgr",
}
LAYOUTS = ("NCHW", "NHWC")
RANGES = ("regular", "bt601_video")
NORM_TYPES = (
    "no_preprocess",
    "data_mean",
    "data_scale",
    "data_mean_and_scale",
    "data_std",
    "data_mean_and_std",
)
_NORM_ALIASES = {
    "none": "no_preprocess",
    "mean": "data_mean",
    "scale": "data_scale",
    "data_mean_and_data_scale": "data_mean_and_scale",
    "data_scale_and_mean": "data_mean_and_scale",
    "mean_and_scale": "data_mean_and_scale",
}
Words = tuple[str | None, ...]


class InputParameters(Section):
    """The `input_parameters` group. Per-input values are tuples in the order of `input_name`."""

    input_name: Annotated[
        Words,
        Key(
            INPUT_NAMES,
            "Names of the model's inputs. Optional with one input; with several all must be listed, and their order "
            "is the order of every other per-input key.",
            default_text="from the model",
            per_input=True,
        ),
    ] = ()
    input_type_rt: Annotated[
        Words,
        Key(
            parts_of(RT_TYPES, _TYPE_ALIASES),
            "What the application feeds on the board. Legal with input_type_train rgb or bgr: nv12, yuv444, rgb, bgr; "
            "with yuv444: nv12, yuv444; gray only with gray, featuremap only with featuremap. nv12 and yuv444 need an "
            "even height and width.",
            default_text="mandatory",
            per_input=True,
        ),
    ]
    input_type_train: Annotated[
        Words,
        Key(
            parts_of(TRAIN_TYPES, _TYPE_ALIASES),
            "What the float model was trained on. Inputs that are not 4-D are featuremap.",
            default_text="mandatory",
            per_input=True,
        ),
    ]
    input_layout_train: Annotated[
        Words,
        Key(
            parts_of(LAYOUTS),
            "Layout of the float model's input. Mandatory for images; featuremap inputs default to NCHW.",
            default_text="mandatory for images",
            per_input=True,
        ),
    ] = ()
    input_layout_rt: Annotated[
        Words,
        Key(
            parts_of(LAYOUTS),
            "Layout the application feeds. Not used for nv12. yuv444 with NCHW does not exist on bernoulli2.",
            default_text="as input_layout_train (bernoulli2 yuv444: NHWC)",
            per_input=True,
            ignored_on={"nash": "deprecated there; the layout follows input_layout_train"},
        ),
    ] = ()
    input_space_and_range: Annotated[
        Words,
        Key(
            parts_of(RANGES),
            "regular: full range 0..255. bt601_video: studio swing 16..235, only with input_type_rt nv12.",
            default_text="regular",
            per_input=True,
        ),
    ] = ()
    input_shape: Annotated[
        tuple[tuple[int, ...] | None, ...],
        Key(
            SHAPES,
            "Shape of each input such as 1x3x224x224. Mandatory if the model leaves a dimension open. Also the shape "
            "of one calibration sample.",
            default_text="from the model",
            per_input=True,
        ),
    ] = ()
    input_batch: Annotated[
        int,
        Key(
            integer(1),
            "Batch of the artifact; the ONNX products keep batch 1. bernoulli2 1..128, others 1..4096. Needs a model "
            "(or input_shape) with batch 1. One value for all inputs.",
        ),
    ] = 1
    separate_batch: Annotated[
        bool,
        Key(
            BOOL,
            "One input per image of a batch instead of one for the batch: the application feeds NAME_0, NAME_1, ... of "
            "batch 1. Counts for a batch of the model and for input_batch.",
            marches="bayes, nash",
            ignored_on={"bernoulli2": "not offered there", "bayes-e": "not offered there"},
        ),
    ] = False
    separate_name: Annotated[
        tuple[str, ...],
        Key(
            NAMES,
            "The inputs whose batch is split as separate_batch does. Exclusive with separate_batch.",
            marches="bayes, nash",
            ignored_on={"bernoulli2": "not offered there", "bayes-e": "not offered there"},
        ),
    ] = ()
    norm_type: Annotated[
        Words,
        Key(
            parts_of(NORM_TYPES, _NORM_ALIASES),
            "Which of mean_value, scale_value, std_value are built into the model. Absent: derived from the values "
            "that are given. On nash always derived. featuremap inputs that are not 4-D take no_preprocess.",
            default_text="no_preprocess",
            per_input=True,
        ),
    ] = ()
    mean_value: Annotated[
        tuple[tuple[float, ...] | None, ...],
        Key(
            NUMBERS,
            "Subtracted, in units 0..255 of input_type_train: one value, or one per channel. 255·mean where training "
            "divided by 255 first.",
            default_text="none",
            per_input=True,
        ),
    ] = ()
    scale_value: Annotated[
        tuple[tuple[float, ...] | None, ...],
        Key(
            NUMBERS,
            "Multiplied after the mean: one value, or one per channel. 1/(255·std) where training divided by 255.",
            default_text="none",
            per_input=True,
        ),
    ] = ()
    std_value: Annotated[
        tuple[tuple[float, ...] | None, ...],
        Key(
            NUMBERS,
            "Divides after the mean: one value, or one per channel. Exclusive with scale_value. The vendor's tools "
            "know it on nash only; hbtool takes it on every march.",
            default_text="none",
            per_input=True,
        ),
    ] = ()

"""`calibration_parameters`: the data, the method, and where int8 is not enough."""

from __future__ import annotations

from typing import Annotated, Literal

from hbtool.config.dict_kinds import FLAGS
from hbtool.config.keys import Key
from hbtool.config.kinds import BOOL, NAMES, PATHS, choice, parts_of, real
from hbtool.config.optimization import OptimizationFlags
from hbtool.config.quant_config import QuantConfig
from hbtool.config.quant_reader import QUANT
from hbtool.config.section import Section

CALIBRATION_TYPES = ("default", "mix", "kl", "max", "load", "skip", "percentile", "mse")
DATA_TYPES = ("float32", "uint8", "int8", "int16", "int32")
_DATA_ALIASES = {
    "float": "float32",
    "f32": "float32",
    "fp32": "float32",
    "np.float32": "float32",
    "u8": "uint8",
    "np.uint8": "uint8",
}
CalibrationType = Literal["default", "mix", "kl", "max", "load", "skip", "percentile", "mse"]
DataType = Literal["float32", "uint8", "int8", "int16", "int32"]


class CalibrationParameters(Section):
    """The `calibration_parameters` group."""

    calibration_type: Annotated[
        CalibrationType,
        Key(
            choice(CALIBRATION_TYPES, {"maximum": "max", "minmax": "max", "kld": "kl"}),
            "default searches max and kl, two percentiles, per-channel and asymmetric, and keeps the best; mix picks a "
            "method per node; kl and max are single methods; percentile and mse are hbtool's own (max with "
            "max_percentile, and the threshold of least squared error); load takes the ranges that a QAT model "
            "carries; skip uses random data, for structure and speed only.",
        ),
    ] = "default"
    cal_data_dir: Annotated[
        tuple[str | None, ...],
        Key(
            PATHS,
            "One folder per input; every file in it is a sample. Mandatory unless calibration_type is load or skip; "
            "on nash its absence means skip.",
            default_text="none",
            per_input=True,
        ),
    ] = ()
    cal_data_type: Annotated[
        tuple[DataType | None, ...],
        Key(
            parts_of(DATA_TYPES, _DATA_ALIASES),
            "Number type of the raw sample files; .npy files carry their own. Absent: float32 for a folder whose name "
            "ends in _f32 and for featuremap inputs, else uint8 (nash: float32), or the one of the two that the file's "
            "size fits, with a warning. The key wins over the folder's name.",
            default_text="from the folder's name",
            per_input=True,
        ),
    ] = ()
    preprocess_on: Annotated[
        bool,
        Key(
            BOOL,
            "The samples are jpg, png or bmp files, read and resized by the tool. 4-D image inputs only; bad for "
            "accuracy unless training did the same.",
        ),
    ] = False
    max_percentile: Annotated[
        float,
        Key(
            real(0.0, 1.0),
            "Share of the absolute values kept by calibration_type max or percentile; usual are 0.99999, 0.99995, "
            "0.9999, 0.9995, 0.999. bernoulli2 0..1, others 0.5..1.",
        ),
    ] = 1.0
    per_channel: Annotated[
        bool,
        Key(BOOL, "Thresholds of activations per channel. default and mix decide themselves."),
    ] = False
    run_on_cpu: Annotated[
        tuple[str, ...],
        Key(NAMES, "Nodes to compute in float on the CPU. Cuts the BPU segment. Names, module paths and globs."),
    ] = ()
    run_on_bpu: Annotated[
        tuple[str, ...],
        Key(
            NAMES,
            "Nodes to place on the BPU where the tool would choose the CPU. bernoulli2: only a Relu, Softmax or "
            "pooling at the tail, or a Transpose behind an operator the BPU runs.",
        ),
    ] = ()
    optimization: Annotated[
        OptimizationFlags,
        Key(
            FLAGS,
            "Flags: set_model_output_int8 and set_model_output_int16 (type of the outputs instead of high precision); "
            "set_{Kind}_{input|output}_{int8|int16} for every node of an ONNX op type, exact spelling; "
            "set_all_nodes_int16; asymmetric; bias_correction; equalize (hbtool's own: even out channels between "
            "convolutions); lstm_batch_last; run_fast (random data, no accuracy). bernoulli2 knows "
            "set_model_output_int8 only.",
            default_text="none",
        ),
    ] = OptimizationFlags()
    quant_config: Annotated[
        QuantConfig | None,
        Key(
            QUANT,
            "Nested settings: model_config (all_node_type, model_output_type, activation, weight, search), op_config, "
            "subgraph_config, node_config. A node's type comes from node_config, then op_config, then all_node_type, "
            "then int8. The vendor's tools know it on nash only; hbtool takes it on every march.",
            default_text="none",
        ),
    ] = None

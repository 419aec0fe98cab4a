"""`model_parameters`: which model, for which march, written where, changed how."""

from __future__ import annotations

from typing import Annotated

from hbtool.config.dict_kinds import NODE_INFO, NODE_TYPES
from hbtool.config.keys import Key
from hbtool.config.kinds import ANYTHING, BOOL, NAMES, PATH, TEXT, names_of, parsed_word
from hbtool.config.marches import MARCHES, parse_march
from hbtool.config.node_info import NodeSetting
from hbtool.config.section import Section

REMOVABLE = ("Quantize", "Dequantize", "Transpose", "Cast", "Reshape", "Softmax")
MARCH = parsed_word(" / ".join(MARCHES) + " / path of a target file (*.yaml)", parse_march)


class ModelParameters(Section):
    """The `model_parameters` group."""

    onnx_model: Annotated[
        str | None,
        Key(
            PATH, "The float model, a .onnx file. Exclusive with caffe_model and prototxt; one of the two is mandatory."
        ),
    ] = None
    caffe_model: Annotated[
        str | None,
        Key(PATH, "Weights of a Caffe 1.0 model (.caffemodel); needs prototxt. Refused: convert the model to ONNX."),
    ] = None
    prototxt: Annotated[str | None, Key(PATH, "Structure of a Caffe 1.0 model (.prototxt); needs caffe_model.")] = None
    march: Annotated[
        str,
        Key(
            MARCH,
            "The machine to compile for: bernoulli2 (X3), bayes (J5, Ultra), bayes-e (X5), nash-e (S100), nash-m "
            "(S100P) and the other nash marches, or the path of a YAML file that describes a target. A board's name is "
            "read as its march. An artifact runs only on the march it was compiled for.",
            default_text="mandatory",
        ),
    ]
    output_model_file_prefix: Annotated[str, Key(TEXT, "Prefix of the name of every file written.")] = "model"
    working_dir: Annotated[str, Key(PATH, "Folder for what is written; created if absent.")] = "model_output"
    layer_out_dump: Annotated[
        bool,
        Key(
            BOOL,
            "Keep every layer's output in the artifact, for debugging only: it slows the model and makes it larger. "
            "Not together with input_source resizer.",
        ),
    ] = False
    log_level: Annotated[
        str | None,
        Key(ANYTHING, "Historic; the console and the log file have fixed levels.",
            ignored_on={"all": "log levels are fixed; use --quiet; the log file holds everything"}),
    ] = None  # fmt: skip
    output_nodes: Annotated[
        tuple[str, ...],
        Key(
            NAMES,
            "These nodes become all the outputs of the model: cuts the tail, or exposes inner tensors. Applied before "
            "anything else. Names, module paths and globs are accepted.",
        ),
    ] = ()
    remove_node_type: Annotated[
        tuple[str, ...],
        Key(
            names_of(REMOVABLE),
            "Node types to take off the head and the tail of the finished model, in this order, from the border "
            "inwards. The application then does their work.",
        ),
    ] = ()
    remove_node_name: Annotated[tuple[str, ...], Key(NAMES, "The same by node name.")] = ()
    set_node_data_type: Annotated[
        tuple[NodeSetting, ...],
        Key(
            NODE_TYPES,
            "Output type of single nodes. Old spelling of node_info, which wins where both name a node.",
            marches="bayes, bayes-e",
            ignored_on={"bernoulli2": "bernoulli2 has no int16", "nash": "deprecated there; use node_info"},
        ),
    ] = ()
    debug_mode: Annotated[
        tuple[str, ...],
        Key(
            names_of(("dump_calibration_data",)),
            "dump_calibration_data also writes the calibration tensors as the model gets them, "
            "calibration_data/<input>/<index>.npy.",
        ),
    ] = ()
    node_info: Annotated[
        tuple[NodeSetting, ...],
        Key(
            NODE_INFO,
            "Device and integer types of single nodes: {node: {'ON': 'BPU' or 'CPU', 'InputType': 'int16', "
            "'InputType0': 'int16', 'OutputType': 'int16'}}. InputType covers every input, InputTypeN the N-th from 0; "
            "OutputType covers all outputs (OutputTypeN is refused). Types are int8 and int16; where the march cannot, "
            "int8 is used and reported. Wins over run_on_cpu, run_on_bpu and optimization. Names, module paths and "
            "globs are accepted.",
            marches="bayes, bayes-e, nash",
            ignored_on={"bernoulli2": "bernoulli2 has no node_info; use run_on_cpu and run_on_bpu"},
        ),
    ] = ()
    enable_vpu: Annotated[
        bool,
        Key(BOOL, "Whether the compiler may use the VPU.", marches="nash",
            ignored_on={"all": "hbtool's machine model has no VPU switch"}),
    ] = True  # fmt: skip
    enable_spu: Annotated[
        bool,
        Key(BOOL, "Whether the compiler may use the SPU.", marches="nash",
            ignored_on={"all": "hbtool's machine model has no SPU switch"}),
    ] = True  # fmt: skip

"""What several keys say together, and what a march makes of them: checked, and settled, before the model is seen.

`settle` works on the raw values of a file so that it can tell "absent" from "given as the default".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hbtool.config.compiler_section import PADDING_SWITCHES
from hbtool.config.marches import is_nash, is_target_file, max_batch, max_cores, max_time_per_fc_us
from hbtool.config.node_info import NodeSetting
from hbtool.config.notes import Notebook, NoteKind, Place
from hbtool.config.optimization import OptimizationFlags
from hbtool.config.values import BadValueError, parse_bool
from hbtool.config.yaml_text import find_placeholder
from hbtool.errors import ConfigError

PERCENTILE_DEFAULT = 0.99995
"""max_percentile of calibration_type percentile: the winner of 12 of the 15 published searches."""
MOST_PREFIX_BYTES = 200
"""Longest output_model_file_prefix."""
_MODEL_SUFFIX = {"onnx_model": ".onnx", "caffe_model": ".caffemodel", "prototxt": ".prototxt"}
_L2_MARCHES = ("nash-h", "nash-p", "nash-starry-p")


@dataclass
class _Group:
    """One section while it is being settled."""

    section: str
    values: dict[str, Any]
    march: str
    places: Mapping[str, Place]
    book: Notebook
    file: str

    def place(self, key: str) -> Place:
        found = self.places.get(f"{self.section}.{key}") or self.places.get(self.section)
        return found or Place(self.file, 1)

    def given(self, key: str) -> bool:
        """Whether the key stands in the file, even if empty."""
        return f"{self.section}.{key}" in self.places

    def error(self, key: str, message: str, hint: str) -> ConfigError:
        return ConfigError(f"{key}: {message}", where=str(self.place(key)), hint=hint)

    def note(self, key: str, message: str, kind: NoteKind) -> None:
        self.book.add(self.place(key), f"{self.section}.{key}", f"{key}: {message}", kind)


def settle(
    values: dict[str, dict[str, Any]], march: str, places: Mapping[str, Place], book: Notebook, file: str
) -> None:
    """Check all sections in the order the vendor's tool does, and fill in what one key decides for another."""

    def group(section: str) -> _Group:
        return _Group(section, values[section], march, places, book, file)

    for section in ("input_parameters", "calibration_parameters", "compiler_parameters"):
        if section not in places:
            book.add(Place(file, 1, 1), section, f"the section {section} is absent; defaults count.", "info")
    _settle_model(group("model_parameters"))
    _settle_input(group("input_parameters"))
    _settle_calibration(group("calibration_parameters"))
    _settle_compiler(group("compiler_parameters"))
    _check_resizer(group("compiler_parameters"), bool(values["model_parameters"].get("layer_out_dump")))


def _settle_model(group: _Group) -> None:
    values = group.values
    if values.get("onnx_model") and (values.get("caffe_model") or values.get("prototxt")):
        filled = [key for key in _MODEL_SUFFIX if values.get(key) and not find_placeholder(values[key])]
        if "onnx_model" in filled and len(filled) > 1:
            hint = "Keep onnx_model, or caffe_model with prototxt."
            raise group.error(filled[1], "an ONNX and a Caffe model are given.", hint)
        # A template with every model key filled by a placeholder: ONNX, unless Caffe is the one filled in.
        dropped = ("onnx_model",) if filled and "onnx_model" not in filled else ("caffe_model", "prototxt")
        for key in dropped:
            values.pop(key, None)
    _check_model_given(group)
    for key, suffix in _MODEL_SUFFIX.items():
        if values.get(key) and not find_placeholder(values[key]) and not values[key].lower().endswith(suffix):
            raise group.error(key, f"{values[key]!r} does not end in {suffix}.", f"Name a {suffix} file.")
    prefix = values.get("output_model_file_prefix")
    if prefix is None and group.given("output_model_file_prefix"):
        raise group.error("output_model_file_prefix", "the prefix is empty.", "Name it, or remove the line ('model').")
    if prefix and ("/" in prefix or "\\" in prefix or prefix.startswith("..")):
        raise group.error("output_model_file_prefix", f"{prefix!r} holds a folder.", "Put folders into working_dir.")
    if prefix and len(prefix.encode()) > MOST_PREFIX_BYTES:
        message = f"{len(prefix.encode())} bytes; names of files end at 255, and each gets a suffix."
        raise group.error("output_model_file_prefix", message, f"Use at most {MOST_PREFIX_BYTES}.")
    if values.get("set_node_data_type"):
        named = {setting.node for setting in values.get("node_info", ())}
        older: list[NodeSetting] = [s for s in values["set_node_data_type"] if s.node not in named]
        values["node_info"] = (*values.get("node_info", ()), *older)
        group.note("set_node_data_type", "merged into node_info, which wins where both name a node.", "deprecated")


def _check_model_given(group: _Group) -> None:
    values = group.values
    if values.get("onnx_model"):
        return
    if values.get("caffe_model") or values.get("prototxt"):
        missing = "prototxt" if values.get("caffe_model") else "caffe_model"
        if not values.get(missing):
            raise group.error(missing, "a Caffe model needs caffe_model and prototxt.", f"Add {missing}.")
        return
    key = next((key for key in _MODEL_SUFFIX if group.given(key)), "onnx_model")
    raise group.error(key, "no model is given.", "Write onnx_model: 'net.onnx' below model_parameters.")


def _settle_input(group: _Group) -> None:
    values, march = group.values, group.march
    for key in ("input_type_rt", "input_type_train"):
        while values.get(key) and values[key][-1] is None:
            values[key] = values[key][:-1]  # 'nv12;' says one thing
        if not values.get(key) or None in values[key]:
            state = "empty" if group.given(key) else "missing"
            raise group.error(
                key, f"the key is mandatory and {state}.", f"Write {key}: 'rgb' (or bgr, ..., featuremap)."
            )
    batch = values.get("input_batch", 1)
    if batch > max_batch(march):
        raise group.error(
            "input_batch", f"{batch} is outside 1..{max_batch(march)} of {march}.", "Use a smaller batch."
        )
    for shape in values.get("input_shape", ()):
        if batch > 1 and shape and shape[0] != 1:
            hint = f"Write 1 as the first size of input_shape; input_batch makes it {batch}."
            raise group.error("input_batch", f"{batch} needs batch 1 in input_shape, which has {shape[0]}.", hint)
    if values.get("separate_batch") and values.get("separate_name"):
        raise group.error("separate_name", "exclusive with separate_batch.", "Keep one of them.")


def _settle_calibration(group: _Group) -> None:
    values, march = group.values, group.march
    flags = values.get("optimization", OptimizationFlags())
    method = values.get("calibration_type", "default")
    folders = [folder for folder in values.get("cal_data_dir", ()) if folder]
    if not folders and method not in ("load", "skip"):
        if not (is_nash(march) or flags.run_fast):
            hint = "Name a folder of samples per input, or write calibration_type: 'skip' for a structure check."
            raise group.error("cal_data_dir", f"calibration_type {method} needs samples, and none are named.", hint)
        values["calibration_type"] = method = "skip"
        group.note("cal_data_dir", "no samples are named; calibration_type skip (random data).", "info")
    if values.get("max_percentile", 1.0) < 0.5 and march != "bernoulli2":
        low = values["max_percentile"]
        raise group.error("max_percentile", f"{low:g} is outside 0.5..1.", "Usual values are 0.9999 and 0.99995.")
    if "max_percentile" in values and method not in ("max", "percentile"):
        group.note("max_percentile", f"has no effect with calibration_type {method}.", "ignored")
    if method == "percentile":
        values.setdefault("max_percentile", PERCENTILE_DEFAULT)
    if values.get("per_channel") and method in ("default", "mix"):
        group.note("per_channel", f"calibration_type {method} decides by itself.", "ignored")
    if values.get("preprocess_on") and is_nash(march):
        group.note("preprocess_on", "deprecated on nash; hbtool still reads the pictures.", "deprecated")
    both = sorted(set(values.get("run_on_cpu", ())) & set(values.get("run_on_bpu", ())))
    if both:
        raise group.error("run_on_bpu", f"{both[0]!r} is also in run_on_cpu.", "Name a node in one of the two.")
    if values.get("quant_config") is not None and not (is_nash(march) or is_target_file(march)):
        group.note("quant_config", f"the vendor's tools do not know it on {march}; hbtool uses it.", "info")


def _settle_compiler(group: _Group) -> None:
    values, march = group.values, group.march
    _settle_balance(group)
    if values.get("optimize_level") == "O3" and is_nash(march):
        raise group.error("optimize_level", f"{march} has no O3.", "Write O2, its highest level.")
    cores, most = values.get("core_num", 1), max_cores(march)
    if most is not None and cores > most:
        raise group.error(
            "core_num", f"{cores} cores are not offered on {march}.", f"Use {'1' if most == 1 else f'1..{most}'}."
        )
    time_us, limit_us = values.get("max_time_per_fc", 0), max_time_per_fc_us(march)
    if time_us and not 1000 <= time_us <= limit_us:
        hint = f"Write 0 (no limit) or 1000..{limit_us} microseconds."
        raise group.error("max_time_per_fc", f"{time_us} is outside 1000..{limit_us}.", hint)
    for switch in set(PADDING_SWITCHES) & set(values.get("extra_params", {})):
        try:
            values["extra_params"][switch] = parse_bool(str(values["extra_params"][switch]))
        except BadValueError as error:
            raise group.error("extra_params", f"{switch}: {error.message}.", error.hint) from None
    if values.get("jobs") == 0:
        values["jobs"] = None
        group.note("jobs", "0 is read as one process per core.", "info")
    if values.get("max_l2m_size") and is_nash(march) and march not in _L2_MARCHES:
        values.pop("max_l2m_size")
        group.note("max_l2m_size", f"has no effect: {march} has no such memory.", "ignored")


def _settle_balance(group: _Group) -> None:
    values, march = group.values, group.march
    mode = values.get("compile_mode", "latency")
    if mode != "balance":
        if values.get("balance_factor") is not None:
            values.pop("balance_factor")
            group.note("balance_factor", f"has no effect with compile_mode {mode}.", "value")
        return
    if march in ("bernoulli2", "bayes"):
        raise group.error("compile_mode", f"{march} has no balance.", "Use latency or bandwidth.")
    if values.get("balance_factor") is None:
        if not is_nash(march):
            hint = "Add balance_factor: 0 (bandwidth) .. 100 (latency)."
            key = "balance_factor" if group.given("balance_factor") else "compile_mode"
            raise group.error(key, "balance needs balance_factor.", hint)
        values["balance_factor"] = 0


def _check_resizer(group: _Group, dumps_layers: bool) -> None:
    if dumps_layers and "resizer" in group.values.get("input_source", {}).values():
        hint = "Set layer_out_dump: False, or use pyramid."
        raise group.error("input_source", "resizer does not go together with layer_out_dump.", hint)

"""Custom operators as data: an ONNX function says in standard operators what one computes. No code is ever executed.

A model's node of a foreign domain needs a function of that domain and name: in the model itself, in an .onnx file that
`custom_op: op_register_files` names, or registered from Python (`register_custom_op`, for example with onnxscript's
`to_function_proto()`). The function is inlined, so calibration, every executor and the BPU see ordinary operators.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from hbtool.config.schema import LoadedConfig
from hbtool.errors import ConfigError, UnsupportedError, UsageError
from hbtool.flows.talk import Talk
from hbtool.ir.load import read_functions

_KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_REGISTERED: dict[tuple[str, str], onnx.FunctionProto] = {}


def register_custom_op(function: onnx.FunctionProto) -> None:
    """Let every model of this process use an operator that the function defines.

    Raises:
        UsageError: the function has no domain of its own, no name, or no body.
    """
    if function.domain in _KNOWN_DOMAINS or not function.name or not function.node:
        raise UsageError(
            f"{function.domain or 'the standard domain'}:{function.name or '?'} cannot be registered",
            hint="A custom operator is an ONNX function with a domain of its own and a body of standard operators.",
        )
    _REGISTERED[function.domain, function.name] = function


def add_custom_ops(proto: onnx.ModelProto, loaded: LoadedConfig, talk: Talk) -> onnx.ModelProto:
    """The model with the functions its foreign nodes need.

    Raises:
        ConfigError: a file of op_register_files is missing or defines nothing.
        UnsupportedError: a node's operator is defined nowhere (names operator and node).
    """
    offered = dict(_REGISTERED)
    for file in _files(loaded, talk):
        found = read_functions(file)
        if not found:
            raise _error(loaded, f"{file} defines no ONNX function", "Save the functions in it (ModelProto.functions).")
        offered |= {(f.domain, f.name): f for f in found}
    own = {(f.domain, f.name) for f in proto.functions}
    needed = {(n.domain, n.op_type): n for n in proto.graph.node if n.domain not in _KNOWN_DOMAINS}
    missing = {key: node for key, node in needed.items() if key not in own}
    if not missing:
        return proto
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    for (domain, op_type), node in missing.items():
        if (domain, op_type) not in offered:
            raise UnsupportedError(
                f"{domain}:{op_type} is no standard operator, and nothing says what it computes",
                where=node.name or node.output[0],
                hint="Define it as an ONNX function: in the model, or in an .onnx file named by custom_op: "
                "op_register_files. hbtool never executes Python files that a configuration names.",
            )
    _add(model, offered)
    talk.info(f"custom operators inlined: {', '.join(f'{d}:{n}' for d, n in missing)}")
    return model


def _add(model: onnx.ModelProto, offered: dict[tuple[str, str], onnx.FunctionProto]) -> None:
    """Add every offered function (one may call another) and the operator sets they need."""
    imported = {o.domain for o in model.opset_import}
    present = {(f.domain, f.name) for f in model.functions}
    for key, function in offered.items():
        if key in present:
            continue
        model.functions.add().CopyFrom(function)
        for domain, version in ((function.domain, 1), *((o.domain, o.version) for o in function.opset_import)):
            if domain not in imported:
                imported.add(domain)
                model.opset_import.add(domain=domain, version=version)


def _files(loaded: LoadedConfig, talk: Talk) -> list[Path]:
    group = loaded.custom_op
    folder = Path(loaded.folder, group.custom_op_dir) if group.custom_op_dir else loaded.folder
    files = []
    for name in group.op_register_files:
        path = folder / name
        if path.suffix != ".onnx":
            talk.warn(
                f"{loaded.place('custom_op', 'op_register_files')}: op_register_files: {name} is not executed (hbtool "
                "runs no code that a configuration names); define the operator as an ONNX function in an .onnx file"
            )
            continue
        if not path.is_file():
            raise _error(loaded, f"the file {path} does not exist", f"Relative paths count from {folder}.")
        files.append(path)
    return files


def _error(loaded: LoadedConfig, message: str, hint: str) -> ConfigError:
    where = str(loaded.place("custom_op", "op_register_files"))
    return ConfigError(f"op_register_files: {message}.", where=where, hint=hint)

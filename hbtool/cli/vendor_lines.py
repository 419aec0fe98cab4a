"""Command lines of the vendor's tools, as typed in documents, in hbtool's words.

`hbtool hb_perf ...`, `hbtool hb_model_verifier ...` and so on run the command that does the same. Options that mean
something else here, or belong to a board, are translated or left out with one line that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hbtool.cli.debugger_lines import translate_debugger

Line = tuple[list[str], list[str]]
"""Arguments, and remarks about what was left out."""

TOOLS = {
    "hb_perf": "perf",
    "hb_pack": "pack",
    "hb_model_info": "info",
    "hb_model_modifier": "modify",
    "hb_model_verifier": "verify",
    "hb_verifier": "verify",
    "hb_config_generator": "init",
    "hb_compile": "makertbin",
    "vec_diff": "vec-diff",
    "hmct-debugger": "debug",
}
"""The vendor's tool -> the command that does its work."""

_NO_BOARD = "no board is involved here"
_ARTIFACTS = (".bin", ".hbm")


def translate(arguments: Sequence[str]) -> Line:
    """The arguments of `hbtool` for a line of the vendor's tools; any other line stays as it is."""
    words = list(arguments)
    if words[:1] == ["hb_mapper"]:
        words = words[1:]
    if not words:
        return list(arguments), []
    tool, rest = words[0], words[1:]
    if tool == "hb_compile":
        return _compile(rest)
    if tool == "hmct-debugger":
        rest, remarks = translate_debugger(rest)
        return ["debug", *rest], remarks
    command = TOOLS.get(tool, tool)
    change = _CHANGES.get(command)
    rest, remarks = change(rest) if change is not None else (rest, [])
    return [command, *rest], remarks


def _info(words: list[str]) -> Line:
    if "-v" not in words:
        return words, []
    return [w for w in words if w != "-v"], ["-v: there is no viewer; hbtool perf draws the structure as .svg"]


# Options of hb_model_verifier and hb_verifier that hbtool verify does not have: option -> why it is left out.
_VERIFY_VALUES = {
    "-a": _NO_BOARD,
    "--ip": _NO_BOARD,
    "-u": _NO_BOARD,
    "-p": _NO_BOARD,
    "--username": _NO_BOARD,
    "--password": _NO_BOARD,
    "--port": _NO_BOARD,
    "--remote-root": _NO_BOARD,
    "-d": "all bits are compared, so all digits are",
    "-c": "all bits are compared, so all digits are",
    "-s": "the simulator always runs",
    "-r": "--reference compares operator by operator; hbtool debug layers compares stages",
}
_VERIFY_FLAGS = {"--skip-sim": "the simulator always runs", "--skip-arm": _NO_BOARD}


def _verify(words: list[str]) -> Line:
    found: list[str] = []
    remarks: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _VERIFY_FLAGS:
            remarks.append(f"{word}: {_VERIFY_FLAGS[word]}")
        elif word in _VERIFY_VALUES:
            next(rest, None)
            remarks.append(f"{word}: {_VERIFY_VALUES[word]}")
        elif word in ("-q", "-b", "-m"):
            value = next(rest, None)
            if value is None or not _is_model(value):
                found += _no_model(word, value, remarks)
            else:
                found += _models(value, remarks)
        else:
            found.append(word)
    return found, remarks


def _is_model(value: str) -> bool:
    return Path(value.split(",")[0].strip()).suffix.lower() in (*_ARTIFACTS, ".onnx", ".bc")


def _no_model(option: str, value: str | None, remarks: list[str]) -> list[str]:
    """`-q` and `-m NAME` of hbtool verify itself; `-b` with the address of a board."""
    if option == "-b" and value is not None:
        remarks.append(f"-b: {_NO_BOARD}")
        return []
    return [option] if value is None else [option, value]


def _models(value: str, remarks: list[str]) -> list[str]:
    """`quantized.onnx,model.bin`: the artifact and what it is compared with."""
    found: list[str] = []
    for name in (part.strip() for part in value.split(",")):
        suffix = Path(name).suffix.lower()
        if suffix in _ARTIFACTS:
            found.append(name)
        elif suffix == ".onnx":
            found += ["--float" if "float" in Path(name).name else "--quantized", name]
        else:
            remarks.append(f"{name}: hbtool compares artifacts (.bin, .hbm) and .onnx stage files")
    return found


_COMPILE = {"-m": "--model", "-i": "--input-shape"}
_COMPILE_VALUES = {"--core-num": "write core_num into a config.yaml", "--skip": "every stage is needed here"}


def _compile(words: list[str]) -> Line:
    """hb_compile: with -c the build, with --fast-perf the build for speed, with a model alone the check."""
    found: list[str] = []
    remarks: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _COMPILE_VALUES:
            next(rest, None)
            remarks.append(f"{word}: {_COMPILE_VALUES[word]}")
        else:
            found.append(_COMPILE.get(word, word))
    builds = any(word in ("-c", "--config", "--fast-perf") for word in words)
    return ["makertbin" if builds or not words or "--help" in words else "checker", *found], remarks


_CHANGES: dict[str, Callable[[list[str]], Line]] = {
    "info": _info,
    "verify": _verify,
}

"""doctor: is this computer fit to run hbtool, and does the whole road work on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import hbtool
from hbtool.config import parse_config
from hbtool.config.schema import LoadedConfig
from hbtool.errors import HbError
from hbtool.flows.makertbin import makertbin
from hbtool.flows.verify import verify
from hbtool.ir.int8_path import PRECISION, is_exact
from hbtool.ir.onnx_session import threads

Status = Literal["ok", "note", "failed"]
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "pydantic", "safetensors", "torch")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
_LITTLE_DISK_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what was looked at.
        status: ok, note (works, but worth knowing) or failed.
        text: what was found.
        hint: what to do, empty for ok.
        facts: the same for machines.
    """

    topic: str
    status: Status
    text: str
    hint: str = ""
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Checkup:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(f.status != "failed" for f in self.findings)


def doctor(*, self_test: bool = True) -> Checkup:
    """Look at everything that decides whether hbtool works here.

    Args:
        self_test: also build, compile and verify a small model (a few seconds).
    """
    checks: list[Callable[[], Finding]] = [_versions, _installs, _cpu, _int8_path, _threads, _memory_and_disk, _cuda]
    if self_test:
        checks.append(_self_test)
    return Checkup(tuple(_guarded(check) for check in checks))


def _guarded(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except HbError as error:
        return Finding(check.__name__.strip("_"), "failed", str(error))
    except Exception as error:  # a check that breaks is what doctor is there to report
        return Finding(check.__name__.strip("_"), "failed", f"{type(error).__name__}: {error}", "Report this.")


def _versions() -> Finding:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    text = ", ".join(f"{n} {v or 'is missing'}" for n, v in found.items())
    needed = [n for n, v in found.items() if v is None and n != "torch"]
    if needed:
        hint = "Install hbtool again with pip; it brings what it needs."
        return Finding("versions", "failed", text, hint, found)
    if found["torch"] is None:
        return Finding("versions", "note", text, "The PyTorch side needs torch; everything else works.", found)
    return Finding("versions", "ok", text, facts=found)


def _installs() -> Finding:
    """Two copies of hbtool on the path are the classic cause of half-updated installations."""
    running = Path(hbtool.__file__).resolve().parent
    on_path = {
        Path(e or ".").resolve() / "hbtool" for e in sys.path if (Path(e or ".") / "hbtool/__init__.py").is_file()
    }
    places = sorted(str(p) for p in on_path | {running})
    old = importlib.util.find_spec("horizon_plugin_pytorch")
    facts = {"hbtool": places, "horizon_plugin_pytorch": old is not None}
    if len(places) > 1:
        return Finding(
            "installation", "failed", f"hbtool is installed {len(places)} times: {', '.join(places)}",
            "Uninstall all but one.", facts,
        )  # fmt: skip
    return Finding("installation", "ok", f"one copy of hbtool, no native extension to load ({places[0]})", facts=facts)


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the CPU, as Linux names them; empty where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((t for t in text.splitlines() if t.lower().startswith(("flags", "features"))), "")
    return frozenset(line.partition(":")[2].split())


def _cpu() -> Finding:
    flags = cpu_flags()
    found = [f for f in _FLAGS if f in flags]
    text = f"{platform.machine()}, {os.cpu_count()} cores, integer instructions: {', '.join(found) or 'unknown'}"
    facts = {"machine": platform.machine(), "cores": os.cpu_count(), "flags": found}
    fast = any("vnni" in f or f in ("amx_int8", "asimddp", "i8mm") for f in found)
    if not fast:
        return Finding("cpu", "note", text, "Without VNNI (or its like) integer models are slower, not wrong.", facts)
    return Finding("cpu", "ok", text, facts=facts)


def _int8_path() -> Finding:
    """Whether u8 x s8 kernels are exact by themselves, and what sessions do about it."""
    alone, with_option = is_exact(False), is_exact(True)
    chosen = f"{PRECISION} not set" if alone else f"{PRECISION}=1"
    facts = {"exact_without_option": alone, "exact_with_option": with_option, "chosen": chosen}
    if not (alone or with_option):
        return Finding(
            "int8 path", "failed", f"u8·s8 is not exact in onnxruntime, with or without {PRECISION}=1",
            "Results here would differ from the chip's; update onnxruntime.", facts,
        )  # fmt: skip
    text = "exact by itself, the fast kernels are used" if alone else f"saturates by itself, exact with {PRECISION}=1"
    return Finding("int8 path", "ok", f"u8·s8 in onnxruntime: {text}", facts=facts)


def _threads() -> Finding:
    number = threads()
    used = f"{number} (HBTOOL_THREADS)" if number else f"all {os.cpu_count()} cores (HBTOOL_THREADS is not set)"
    facts = {"HBTOOL_THREADS": number or None, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
    return Finding("threads", "ok", f"sessions use {used}", facts=facts)


def _memory_and_disk() -> Finding:
    places = {"current folder": Path.cwd(), "temporary folder": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(path).free for name, path in places.items()}
    text = ", ".join(f"{n}: {b / 1024**3:.1f} GiB free" for n, b in free.items())
    facts = {name.replace(" ", "_") + "_free_bytes": b for name, b in free.items()}
    if min(free.values()) < _LITTLE_DISK_BYTES:
        return Finding("disk", "note", text, "Large models need room for their stage files.", facts)
    return Finding("disk", "ok", text, facts=facts)


def _cuda() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("cuda", "ok", "torch is not installed; nothing in hbtool needs a GPU", facts={"torch": None})
    import torch

    available = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if available else []
    facts = {"built_with": torch.version.cuda, "available": available, "devices": names}
    if available:
        return Finding("cuda", "ok", f"CUDA {torch.version.cuda}: {', '.join(names)}", facts=facts)
    if torch.version.cuda is None:
        return Finding("cuda", "ok", "this torch is built without CUDA; QAT runs on the CPU", facts=facts)
    hint = "Compare the driver (nvidia-smi) with torch's CUDA; in a container start it with --gpus all."
    return Finding("cuda", "note", f"torch is built for CUDA {torch.version.cuda}, but finds no device", hint, facts)


def _self_test() -> Finding:
    """Build, compile and verify a small network made here."""
    since = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hbtool_doctor_") as folder:
        result = makertbin(_small_project(Path(folder)))
        verified = verify(result.artifact_path, random_samples=2, reference=True)
        cosine = min(r.similarity.cosine for r in result.outputs)
    seconds = time.perf_counter() - since
    facts = {"seconds": round(seconds, 2), "cosine": cosine, "same_bits": verified.passed}
    if not verified.passed:
        bad = ", ".join(sorted({d.executor for d in verified.differences if d.differing}))
        return Finding("self-test", "failed", f"executors differ: {bad}", "Report this with the lines above.", facts)
    if not cosine > 0.99:
        text = f"the quantized test model is far from the float one (cosine {cosine:.4f})"
        return Finding("self-test", "failed", text, "Report this with the lines above.", facts)
    text = f"calibrate, quantize, compile, run: same bits in every executor, cosine {cosine:.4f}, {seconds:.1f} s"
    return Finding("self-test", "ok", text, facts=facts)


def _small_project(folder: Path) -> LoadedConfig:
    """A model, its data and its configuration in `folder`."""
    rng = np.random.default_rng(7)
    onnx.save(_small_model(rng), folder / "small.onnx")
    data = folder / "data"
    data.mkdir()
    for index in range(4):
        np.save(data / f"{index}.npy", rng.integers(0, 256, (1, 3, 32, 32)).astype(np.float32))
    text = f"""
model_parameters: {{onnx_model: small.onnx, march: bayes-e, working_dir: out, output_model_file_prefix: small}}
input_parameters:
  {{input_type_rt: rgb, input_layout_rt: NCHW, input_type_train: rgb, input_layout_train: NCHW,
    norm_type: data_mean_and_scale, mean_value: 127.5, scale_value: 0.0078431}}
calibration_parameters: {{cal_data_dir: {data.name}, cal_data_type: float32, calibration_type: max}}
compiler_parameters: {{optimize_level: O2}}
"""
    return parse_config(text, file=str(folder / "small.yaml"), folder=folder)


def _small_model(rng: np.random.Generator) -> onnx.ModelProto:
    def weight(name: str, *shape: int) -> TensorProto:
        fan_in = int(np.prod(shape[1:]))
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32), name)

    conv: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", strides=[2, 2], **conv),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="depthwise", group=16, **conv),
        helper.make_node("Add", ["b", "c"], ["d"], name="add"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="pool"),
        helper.make_node("Conv", ["e", "w3"], ["y"], name="last", kernel_shape=[1, 1]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [info("y", TensorProto.FLOAT, [1, 10, 1, 1])],
        [weight("w1", 16, 3, 3, 3), weight("w2", 16, 1, 3, 3), weight("w3", 10, 16, 1, 1)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

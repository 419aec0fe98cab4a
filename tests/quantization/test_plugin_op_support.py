"""Every row of the vendor's operator table: fx mode to fixed point, onnxruntime and the artifact, equal bits."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from op_cases import CASES, ELSEWHERE, ops_net
from torch import Tensor

from hbtool.ir.onnx_session import make_session
from hbtool.quantization import (
    FakeQuantState,
    compile_model,
    convert_fx,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
    set_march,
)
from hbtool.runtime.session import Session
from hbtool.utils.onnx_helper import export_quantized_onnx

NAMES = sorted(CASES)
GROUPS = [NAMES[i::6] for i in range(6)]
"""Some networks of many branches instead of a hundred small ones: what is slow is done once for each."""

# A branch ends far from the float result where the function jumps or an index changes; only bits are compared there.
JUMPS = ("argmax", "argmin", "ceil", "floor", "eq", "ge", "greater", "gt", "le", "less", "lt", "topk", "round", "sign")


def test_every_row_has_a_case(shared_dir: Path) -> None:
    table = shared_dir / "reference" / "plugin_op_support.csv"
    with table.open(newline="") as file:
        rows = {row["float_op"] for row in csv.DictReader(file)}
    assert rows - set(CASES) == set(ELSEWHERE)


def _prepared(names: list[str], dtype: str, **hybrid: Any) -> tuple[Any, list[Tensor]]:
    torch.manual_seed(3)
    net = ops_net({n: CASES[n] for n in names}).eval()
    inputs = [
        torch.rand(shape) * (CASES[n].limits[1] - CASES[n].limits[0]) + CASES[n].limits[0]
        for n in names
        for shape in CASES[n].shapes
    ]
    return prepare_qat_fx(net, {"": get_default_qat_qconfig(dtype)}, **hybrid).eval(), inputs


def _jumps(name: str) -> bool:
    return any(part.startswith(JUMPS) for part in name.rsplit(".", 1)[-1:])


def _check(names: list[str], dtype: str, tmp_path: Path) -> None:
    prepared, inputs = _prepared(names, dtype)
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    with torch.no_grad():
        floats = prepared(*inputs)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    fixed = convert_fx(prepared)
    want = fixed(*inputs)
    with torch.no_grad():
        qat = prepared(*inputs)
    export_quantized_onnx(fixed, tuple(inputs), tmp_path / "net.onnx")
    session = make_session((tmp_path / "net.onnx").read_bytes())
    onnx = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)})
    assert compile_model(fixed, inputs, tmp_path / "net.hbm") == 0
    artifact = Session(tmp_path / "net.hbm")
    feeds = {i.name: x.numpy() for i, x in zip(artifact.get_inputs(), inputs, strict=True)}
    compiled = artifact.run(None, feeds)
    wrong = {}
    for name, w, o, c, q, f in zip(names, want, onnx, compiled, qat, floats, strict=True):
        reach = float(f.float().abs().max()) + 1e-3
        if not (np.array_equal(w.numpy(), o) and np.array_equal(w.numpy(), c)):
            wrong[name] = "bits differ"
        elif not _jumps(name) and float((w - f).abs().max()) > 0.03 * reach + 0.02:
            wrong[name] = f"far from float: {float((w - f).abs().max())} of {reach}"
        elif float((w.float() - q.float()).abs().max()) > 0.03 * reach + 0.02 and not _jumps(name):
            wrong[name] = "far from the QAT model"
    assert wrong == {}


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_rows_on_bayes_in_int8(group: int, tmp_path: Path) -> None:
    set_march("bayes")
    _check(GROUPS[group], "qint8", tmp_path)


INT16_ROWS = [
    "torch.add", "torch.cat", "torch.exp", "torch.nn.Conv2d", "torch.nn.Linear", "torch.nn.MaxPool2d", "torch.matmul",
    "torch.nn.Softmax", "torch.nn.LayerNorm", "torch.mul", "torch.maximum", "torch.Tensor.transpose", "torch.clamp",
    "torch.nn.functional.grid_sample", "torch.nn.SiLU", "torch.sum", "torch.argmax", "torch.gt",
]  # fmt: skip


def test_int16_activations_reach_the_artifact_where_the_table_allows(tmp_path: Path, caplog: Any) -> None:
    set_march("bayes")
    prepared, _ = _prepared(INT16_ROWS, "qint16")
    widths = {k: v for k, v in prepared.hb.widths.items() if v.endswith("int8 only on bayes")}
    narrowed = {reason.split("(")[1].split(")")[0] for reason in widths.values()}
    assert narrowed == {"linear", "max_pool2d", "matmul", "softmax", "layer_norm", "grid_sample"}
    assert "int8 instead of int16" in caplog.text
    wide = [q for q in prepared.modules() if getattr(q, "dtype", None) == "qint16" and hasattr(q, "set_dtype")]
    assert len(wide) > len(INT16_ROWS) // 2
    _check(INT16_ROWS, "qint16", tmp_path)


def test_no_int16_on_bernoulli2(caplog: Any) -> None:
    set_march("bernoulli2")
    with caplog.at_level(logging.WARNING):
        prepared, _ = _prepared(["torch.add", "torch.nn.Conv2d"], "qint16")
    assert all(q.dtype == "qint8" for q in prepared.modules() if hasattr(q, "set_dtype"))
    assert "bernoulli2 has no int16" in caplog.text


@pytest.mark.parametrize("march", ["bernoulli2", "bayes", "nash-m"])
def test_hybrid_mode_places_every_row_by_itself_with_a_reason(march: str) -> None:
    set_march(march)
    prepared, inputs = _prepared(NAMES, "qint8", hybrid=True)
    devices = prepared.hb.devices
    calls = [n for n in prepared.graph.nodes if n.op == "call_module" and n.name in devices]
    assert calls
    for node in calls:
        device, _, reason = devices[node.name]
        assert device == "BPU" or reason, node.name
    on_cpu = {name for name, (device, _, reason) in devices.items() if device == "CPU" and "BPU operator" in reason}
    # The mapper's list, not the plugin's: a table for these functions only where the mapper has one.
    assert any("acos" in n for n in on_cpu) == (march in ("bernoulli2", "bayes"))
    with torch.no_grad():
        assert len(prepared(*inputs)) == len(NAMES)

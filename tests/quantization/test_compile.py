"""From the fixed-point module through the common compiler: the artifact gives the module's bits on every backend."""

import logging

import numpy as np
import pytest
import torch
from qat_samples import HYBRID_DICT, GoldenChain, Hybrid, Plain, golden_input

from hbtool.errors import UnsupportedError, UsageError
from hbtool.quantization import (
    check_model,
    compile_model,
    convert_fx,
    export_hbir,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    perf_model,
    prepare_qat_fx,
    visualize_model,
)
from hbtool.runtime.session import Session

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def _fixed(model, *example, qconfigs=None, **kwargs):
    prepared = prepare_qat_fx(model, qconfigs or {"": get_default_qat_qconfig()}, **kwargs)
    prepared(*example)
    return convert_fx(prepared.eval())


@pytest.mark.parametrize("backend", ["host", "sim", "reference"])
@pytest.mark.parametrize("kind", ["plain", "golden"])
def test_artifact_gives_the_bits_of_the_module(kind, backend, tmp_path):
    if kind == "plain":
        inputs = (torch.rand(1, 3, 16, 16),)
        qconfigs = {"": get_default_qat_qconfig(), "module_name": {"conv1": get_default_qat_out_qconfig()}}
        fixed = _fixed(Plain(), *inputs, qconfigs=qconfigs)
    else:
        inputs = (golden_input(), golden_input().flip(3).contiguous())
        fixed = _fixed(GoldenChain(), *inputs)
    traced = torch.jit.trace(fixed, inputs)
    path = tmp_path / "out" / "model.hbm"
    assert compile_model(traced, list(inputs), opt=3, hbm=path) == 0
    session = Session(path, backend)
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    assert np.array_equal(session.run(None, feeds)[0], fixed(*inputs).numpy())


def test_check_and_perf_say_what_scripts_read(tmp_path, caplog):
    x = torch.rand(1, 3, 16, 16)
    fixed = _fixed(Plain(), x)
    with caplog.at_level(logging.INFO):
        assert check_model(fixed, x, advice=0) == 0
        result = perf_model(fixed, [x], out_dir=tmp_path, name="plain", layer_details=True)
    for line in ("This model is supported!", "HBDK model check PASS", "HBDK performance estimation SUCCESS", "FPS="):
        assert line in caplog.text
    summary = result["summary"]
    assert summary["input features"] == [["input name", "input size"], ["arg0", "1x3x16x16"]]
    # Four 1x1 convolutions of 3 to 3 channels on 16 x 16 pixels, two operations for each multiply-accumulate.
    assert summary["BPU OPs per frame (effective)"] == 4 * 2 * 9 * 256
    assert summary["FPS"] == pytest.approx(1e6 / summary["latency (us)"], rel=1e-2)
    assert (tmp_path / "plain.json").is_file()
    assert result["layer details"]


def test_hybrid_model_is_sent_to_the_mapper(tmp_path, caplog):
    x = torch.rand(1, 3, 8, 8)
    fixed = _fixed(Hybrid(), x, hybrid=True, hybrid_dict=HYBRID_DICT)
    assert check_model(fixed, x) == 1
    assert "HBDK model check fail" in caplog.text
    with pytest.raises(UnsupportedError, match="makertbin"):
        compile_model(fixed, [x], hbm=tmp_path / "x.hbm")
    assert not list(tmp_path.iterdir())


def test_arguments_are_checked(tmp_path):
    x = torch.rand(1, 3, 8, 8)
    fixed = _fixed(Plain(), x)
    with pytest.raises(UsageError, match="unknown opt"):
        compile_model(fixed, [x], hbm=tmp_path / "x.hbm", opt="O9")
    with pytest.raises(UsageError, match="input_source"):
        compile_model(fixed, [x], hbm=tmp_path / "x.hbm", input_source=["ddr", "ddr"])
    with pytest.raises(UsageError, match="converted for bayes"):
        compile_model(fixed, [x], hbm=tmp_path / "x.hbm", march="bernoulli2")
    with pytest.raises(UsageError, match="no fixed-point model"):
        compile_model(Plain(), [x], hbm=tmp_path / "x.hbm")


def test_graph_files(tmp_path):
    x = torch.rand(1, 3, 8, 8)
    fixed = _fixed(Plain(), x)
    names = export_hbir(fixed, x, tmp_path / "model.hbir")
    assert (tmp_path / "model.hbir").stat().st_size > 0
    assert [len(n) for n in names] == [1, 1]
    visualize_model(fixed, x, save_path=tmp_path / "model.dot", show=False)
    assert '"layer2.add/Add"' in (tmp_path / "model.dot").read_text()

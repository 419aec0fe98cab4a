"""The commands of the PyTorch road: whole road, resume after a kill, several processes, bad input."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from hbtool.cli.main import run
from hbtool.config.training_loader import load_training_config
from hbtool.errors import ConfigError, HbError, ModelError, TrainingError
from hbtool.flows.calib import calib
from hbtool.flows.qat import qat
from hbtool.flows.training_results import BEST, CALIBRATED, LAST
from hbtool.quantization.checkpoint_files import read_checkpoint, write_checkpoint
from hbtool.runtime.session import Session

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def _edit(project: Path, old: str, new: str) -> Path:
    path = project / "training.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)[0]


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_whole_road(project, capsys):
    config = str(project / "training.yaml")
    assert run(["qat", "-c", config, "--json", "-q"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["metrics"]) == {"float", "calibrated", "QAT", "fixed point"}
    assert result["metrics"]["QAT"] > result["metrics"]["calibrated"]
    assert result["metrics"]["fixed point"] == result["metrics"]["QAT"]
    losses = [row["loss"] for row in result["history"]]
    assert losses[-1] < losses[0]

    assert run(["convert", "-c", config, "-q"]) == 0
    text = capsys.readouterr().out
    assert "converted from the QAT model" in text and "100.0000 % of all integer codes" in text
    for stage in ("float", "calib", "qat", "quantized"):
        assert run(["export-onnx", "-c", config, "--stage", stage, "-q"]) == 0
    out = project / "out"
    x = np.random.default_rng(1).standard_normal((1, 1, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(out / "small_quantized.onnx")
    integer = session.run(None, {session.get_inputs()[0].name: x})[0]
    assert np.array_equal(torch.jit.load(out / "small_fixed_point.pt")(torch.from_numpy(x)).numpy(), integer)
    artifact = Session(str(out / "small.hbm"))
    assert np.array_equal(artifact.run(None, {artifact.get_inputs()[0].name: x})[0], integer)
    trained = onnxruntime.InferenceSession(out / "small_qat.onnx")
    assert np.abs(trained.run(None, {trained.get_inputs()[0].name: x})[0] - integer).max() < 0.2
    assert {p.name for p in out.iterdir() if p.name.startswith(".")} == set()


def test_resume_after_a_kill_gives_the_same_result(project, tmp_path_factory):
    whole = load_training_config(project / "training.yaml")
    qat(whole)
    want = _tensors(project / "out" / LAST)

    _edit(project, "working_dir: out", "working_dir: killed")
    config = _edit(project, "network.py:training", "network.py:slow")
    command = [sys.executable, "-m", "hbtool", "qat", "-c", str(config), "-q"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    last = project / "killed" / LAST
    deadline = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last.is_file(), "the first epoch was written"
    done = read_checkpoint(last)[1]["epoch"]
    assert 1 <= done < 3, "killed in the middle"

    _edit(project, "network.py:slow", "network.py:training")
    result = qat(load_training_config(config), resume=True)
    assert result is not None
    _same(_tensors(last), want)


def _torchrun(project: Path, command: str) -> subprocess.CompletedProcess[str]:
    arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "hbtool", command]
    return subprocess.run(
        [sys.executable, *arguments, "-c", str(project / "training.yaml")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize("observer", ["min_max", "percentile"])
def test_two_processes_find_the_scales_of_one(project, observer):
    _edit(project, "observer: min_max", f"observer: {observer}")
    calib(load_training_config(project / "training.yaml"))
    want = _tensors(project / "out" / CALIBRATED)
    _edit(project, "batch_size: 16", "batch_size: 8")
    _edit(project, "working_dir: out", "working_dir: two")
    done = _torchrun(project, "calib")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Metric on the validation data") == 1
    _same(_tensors(project / "two" / CALIBRATED), want)


def test_two_processes_train_together(project):
    _edit(project, "epochs: 3", "epochs: 1")
    done = _torchrun(project, "qat")
    assert done.returncode == 0, done.stderr
    assert "learning rate 0.05 x 2 = 0.1" in done.stderr
    assert done.stdout.count("fixed point") == 1
    assert read_checkpoint(project / "out" / LAST)[1]["processes"] == 2
    command = [sys.executable, "-m", "hbtool", "qat", "-c", str(project / "training.yaml"), "--resume"]
    resumed = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "trained by 2 processes, now there are 1" in resumed.stderr


def test_not_finite_loss_names_the_first_module_and_keeps_checkpoints(project):
    config = project / "training.yaml"
    qat(load_training_config(_edit(project, "epochs: 3", "epochs: 1")))
    before = (project / "out" / LAST).read_bytes()
    _edit(project, "epochs: 1", "epochs: 2")
    _edit(project, "training: network.py:training", "training: network.py:poisoned")
    with pytest.raises(TrainingError, match="input is not finite"):
        qat(load_training_config(config), resume=True)
    assert (project / "out" / LAST).read_bytes() == before
    _edit(project, "network.py:poisoned", "network.py:training")
    _edit(project, "learning_rate: 0.05", "learning_rate: 1.0e+30")
    with pytest.raises(TrainingError, match=r"first module with a result that is not finite is \w") as caught:
        qat(load_training_config(config), resume=True)
    assert caught.value.where == "epoch 2, step 3" or str(caught.value.where).startswith("epoch 2")


def test_full_disk_in_a_run_is_an_error_and_leaves_the_checkpoints(project):
    """A limit on file sizes stands for the full disk: the write fails in the kernel, halfway."""
    config = _edit(project, "epochs: 3", "epochs: 1")
    qat(load_training_config(config))
    out = project / "out"
    before = {name: (out / name).read_bytes() for name in (LAST, BEST, CALIBRATED)}
    _edit(project, "epochs: 1", "epochs: 2")
    command = [sys.executable, "-m", "hbtool", "qat", "-c", str(config), "--resume"]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "cannot write: File too large" in done.stderr and "Traceback" not in done.stderr
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not [p.name for p in out.iterdir() if p.name.startswith(".") or "tmp" in p.name]


def test_a_factory_file_that_misses_a_file_of_its_own_is_not_missing_itself(project):
    (project / "network.py").write_text("open('no such file')\n")
    with pytest.raises(ConfigError, match=r"network.py cannot be imported: FileNotFoundError.*no such file"):
        calib(load_training_config(project / "training.yaml"))


def test_bfloat16_autocast_trains_on_the_cpu(project):
    result = qat(load_training_config(_edit(project, "device: cpu", "device: cpu\n  amp: true")))
    assert result is not None
    losses = [row["loss"] for row in result.facts["history"]]
    assert losses[-1] < losses[0]
    assert result.metrics["fixed point"] >= result.metrics["calibrated"] - 5


def test_default_chooses_the_observer_on_the_calibration_data(project):
    config = _edit(project, "  observer: min_max\n", "")
    assert run(["calib", "-c", str(config), "-q"]) == 0
    log = (project / "out" / "hbtool_calib.log").read_text()
    rows = re.findall(r"observer (\w+): cosine of the outputs ([\d.]+)", log)
    assert len(rows) == 3
    chosen = read_checkpoint(project / "out" / CALIBRATED)[1]["observer"]
    assert dict(rows)[chosen] == max(cosine for _, cosine in rows)


def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"w": torch.ones(3)}, {"epoch": 1})

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(HbError, match="No space left"):
        write_checkpoint(path, {"w": torch.zeros(3)}, {"epoch": 2})
    monkeypatch.undo()
    tensors, facts = read_checkpoint(path)
    assert facts == {"epoch": 1} and torch.equal(tensors["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_weights_that_would_execute_something_are_refused(project):
    torch.save({"state": subprocess.Popen}, project / "bad.pt")
    config = _edit(project, "  march:", "  weights: bad.pt\n  march:")
    with pytest.raises(ModelError, match="cannot be read safely"):
        calib(load_training_config(config))
    (project / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="cannot be read safely"):
        calib(load_training_config(config))


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("network.py:net", "network.py:nett", "Did you mean 'net'", 3),
        ("network.py:net", "netwrk.py:net", "no file netwrk.py", 3),
        ("network.py:net", "no_such_package.x:net", "cannot be imported", 3),
        ("network.py:net", "network", "no factory", 3),
        ("march: bayes-e", "march: bays", "not a march", 4),
        ("observer: min_max", "obsrver: min_max", "Did you mean 'observer'", 14),
        ("observer: min_max", "observer: minmax", "min_max", 14),
        ("epochs: 3", "epochs: many", "integer", 17),
        ("batch_size: 16", "batch_size: 0", "greater than or equal to 1", 12),
        ("learning_rate: 0.05", "epochs: 4", "stands twice", 18),
    ],
)
def test_bad_configuration_names_file_and_line(project, old, new, message, line):
    config = _edit(project, old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        calib(load_training_config(config))
    assert caught.value.where == f"{config}:{line}"
    assert not (project / "out").exists()


def test_unknown_output_layer_gets_the_nearest_name(project):
    config = _edit(project, "output_layers: head", "output_layers: haed")
    with pytest.raises(HbError, match="head"):
        calib(load_training_config(config))
    assert run(["calib", "-c", str(config), "-q"]) == 2
    assert run(["calib"]) == 2
    assert run(["export-onnx", "-c", str(_edit(project, "haed", "head")), "--stage", "qat"]) == 2

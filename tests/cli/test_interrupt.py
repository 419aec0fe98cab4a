"""Ctrl-C leaves nothing half-written, and exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from cli_project import Project

# Slow enough to be interrupted while calibration runs: every sample is read from a pipe-like wait.
PROGRAM = """
import sys, time
from hbtool.calibration import dataset
from hbtool.cli.main import main

read = dataset.read_sample

def slowly(path, spec):
    print("reading", path, file=sys.stderr, flush=True)
    time.sleep(0.5)
    return read(path, spec)

dataset.read_sample = slowly
main(["makertbin", "-c", sys.argv[1]])
"""


def test_ctrl_c_while_calibrating(project: Project) -> None:
    rng = np.random.default_rng(0)
    for index in range(40):
        rng.integers(0, 256, (1, 3, 16, 16)).astype(np.float32).tofile(project.folder / "cal_f32" / f"more{index}.rgb")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(project.config)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ},
    ) as process:
        assert process.stderr is not None
        seen = 0
        for line in process.stderr:
            seen += line.startswith("reading")
            if seen == 5:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    names = [p.name for p in Path(project.folder, "out").iterdir()]
    assert [n for n in names if n.startswith(".")] == []
    assert "net.bin" not in names
    assert "run.json" not in names

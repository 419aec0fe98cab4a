"""`hbtool --help` answers at once, because it imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ["numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "pydantic", "torch"]

PROGRAM = """
import json, sys
from hbtool.cli.main import main
sys.argv = ["hbtool", "--help"]
try:
    main()
    code = 0
except SystemExit as stop:
    code = stop.code or 0
print(json.dumps({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.splitlines()
    seen = json.loads(last)
    assert seen["code"] == 0
    assert "makertbin" in "\n".join(shown)
    assert [name for name in HEAVY if name in seen["modules"]] == []

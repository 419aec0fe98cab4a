"""Writes every generated page: runs each `generate_*_page.py` beside this file (`make docs`)."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

if __name__ == "__main__":
    for script in sorted(FOLDER.glob("generate_*_page.py")):
        sys.stdout.write(f"{script.name}\n")
        runpy.run_path(str(script), run_name="__main__")

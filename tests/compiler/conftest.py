from __future__ import annotations

import sys
from pathlib import Path

# The models of one operator are shared with the operators' own tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "ops"))

"""What every test shares: fixed seeds, one onnxruntime thread, and the way to the folder of real models."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parents[1]
SEED = 20240229


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of real models: `HBTOOL_SHARED`, or `shared` beside the checkout. Skip where it is absent."""
    folder = Path(os.environ.get("HBTOOL_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip("the folder of real models is not beside the checkout")
    return folder


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random state, whatever ran before it in this process."""
    random.seed(SEED)
    np.random.seed(SEED)
    try:
        import torch
    except ImportError:  # the integer road is tested without torch too
        return
    torch.manual_seed(SEED)


@pytest.fixture(scope="session", autouse=True)
def one_onnxruntime_thread() -> Iterator[None]:
    """Give each session that states no number of threads a single one.

    onnxruntime's default is one spinning thread per core; with a test process on every core they wait for each other.
    """
    original = onnxruntime.InferenceSession.__init__

    def limited(self: Any, model: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> None:
        options = sess_options or onnxruntime.SessionOptions()
        if options.intra_op_num_threads == 0:
            options.intra_op_num_threads = 1
        original(self, model, options, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "__init__", limited)
        yield

"""Compare the float ONNX model with the compiled artifact on the 500 test digits.

    python samples/digits/evaluate.py model_output/digits.bin

The float model gets normalized images; the artifact gets grey pixels as a camera would deliver them, because its first
node does the normalization. Exits with 1 if the artifact loses more accuracy than `--max-drop` percentage points.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from normalization import MEAN, SCALE

from hbtool.errors import HbError
from hbtool.runtime import Session

HERE = Path(__file__).resolve().parent


class Runner(Protocol):
    """What `onnxruntime.InferenceSession` and `hbtool.runtime.Session` have in common."""

    def get_inputs(self) -> Any: ...

    def run(self, output_names: None, feeds: dict[str, np.ndarray]) -> Any: ...


def logits(session: Runner, images: np.ndarray) -> np.ndarray:
    """Run images of shape (n, 1, 32, 32) one by one, for both models take batch 1; return (n, 10)."""
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0].reshape(1, -1) for image in images])


def pixels(images: np.ndarray, type_name: str) -> np.ndarray:
    """Give grey pixels uint8 0..255 the type the artifact asks for: 8 bits unsigned, 8 bits minus 128, or float."""
    if type_name == "tensor(int8)":
        return (images.astype(np.int16) - 128).astype(np.int8)
    return images.astype({"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[type_name])


def main() -> int:
    parser = argparse.ArgumentParser(description="Accuracy of the float model and of the artifact on the test digits.")
    parser.add_argument("artifact", type=Path, help="the file hbtool makertbin wrote, model_output/digits.bin")
    parser.add_argument("--max-drop", type=float, default=1.0, help="accepted loss in percentage points (default 1)")
    arguments = parser.parse_args()
    test = HERE / "data" / "test.npz"
    if not test.exists():
        print(f"{test.name} is missing; run samples/digits/make_data.py first", file=sys.stderr)
        return 1
    with np.load(test) as data:
        images, labels = data["images"], data["labels"]

    float_session = onnxruntime.InferenceSession(HERE / "digits.onnx", providers=["CPUExecutionProvider"])
    try:
        session = Session(str(arguments.artifact))
    except HbError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    expected = logits(float_session, (images.astype(np.float32) - np.float32(MEAN)) * np.float32(SCALE))
    got = logits(session, pixels(images, session.get_inputs()[0].type))

    float_percent = 100 * np.mean(expected.argmax(1) == labels)
    artifact_percent = 100 * np.mean(got.argmax(1) == labels)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(got, axis=1)
    cosine = np.sum(expected * got, axis=1) / norms
    print(f"float ONNX   {float_percent:6.2f} % of {len(labels)} test digits")
    print(f"artifact     {artifact_percent:6.2f} %")
    print(f"same answer  {100 * np.mean(expected.argmax(1) == got.argmax(1)):6.2f} %")
    print(f"cosine of the logits: mean {cosine.mean():.5f}, worst {cosine.min():.5f}")
    if float_percent - artifact_percent > arguments.max_drop:
        print(f"the artifact loses more than {arguments.max_drop} percentage points", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

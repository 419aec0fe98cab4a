"""The float digits network as a state dict, `qat_output/float.safetensors`: the weights of the committed `digits.onnx`.

That file holds the batch normalizations absorbed into the convolutions; here each becomes a convolution and a batch
normalization that only adds the bias. Train from scratch instead with `train.py`, and save its state dict.
"""

from __future__ import annotations

import onnx
import torch
from make_data import HERE
from onnx import numpy_helper
from qat_model import QatDigits
from safetensors.torch import save_file
from torch import Tensor


def state() -> dict[str, Tensor]:
    """The state dict of `QatDigits`."""
    model = QatDigits().eval()
    found = {
        i.name: torch.from_numpy(numpy_helper.to_array(i).copy())
        for i in onnx.load(HERE / "digits.onnx").graph.initializer
    }
    made = dict(model.state_dict())
    for name in made:
        if name in found:
            made[name] = found[name]
        elif name.endswith(".1.running_var"):
            # 1 / sqrt(running_var + eps) is 1, and the bias is beta.
            stem = name.removesuffix(".1.running_var")
            made[name] = torch.full_like(made[name], 1.0 - 1e-5)
            made[f"{stem}.1.bias"] = found[f"{stem}.0.weight_bias"]
    return {k: v.contiguous().clone() for k, v in made.items()}


def main() -> None:
    path = HERE / "qat_output" / "float.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(state(), path)
    print(f"samples/digits/qat_output/{path.name} written")


if __name__ == "__main__":
    main()

"""Train the float digits network for QAT and write `qat_output/float.safetensors` (under a minute on two cores)."""

from __future__ import annotations

import torch
from make_data import HERE, load_split
from qat_model import QatDigits
from safetensors.torch import save_file
from train import SEED, Digits, normalized, train


def main() -> None:
    torch.manual_seed(SEED)
    split = load_split()
    network = Digits()
    train(network, normalized(split.train_images), torch.from_numpy(split.train_labels))
    model = QatDigits()
    model.body, model.head = network.body, network.head
    path = HERE / "qat_output" / "float.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    print(f"samples/digits/qat_output/{path.name}: {len(model.state_dict())} tensors")


if __name__ == "__main__":
    main()

"""Writes a sample network as ONNX: seeded random weights, opset 18, no weights are kept in the repository."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

Shapes = Mapping[str, Sequence[int]]


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a module for inference whose weights depend on the seed alone."""
    torch.manual_seed(seed)
    return build().eval()


def write(build: Callable[[], nn.Module], inputs: Shapes, path: str) -> None:
    """Write the module as an ONNX file with inputs of these names and shapes."""
    arguments = tuple(torch.rand(tuple(shape)) for shape in inputs.values())
    program = torch.onnx.export(
        seeded(build), arguments, dynamo=True, opset_version=18, input_names=list(inputs), verbose=False
    )
    assert program is not None
    program.save(path)


def main(build: Callable[[], nn.Module], inputs: Shapes, about: str | None) -> None:
    """Write the ONNX file that the command line names."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("path", help="the ONNX file to write")
    write(build, inputs, parser.parse_args().path)

"""Options that several commands share, as hb_mapper spells them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hbtool.errors import UnsupportedError, UsageError

_T = TypeVar("_T")

model_type_option = click.option(
    "--model-type", type=click.Choice(["onnx", "caffe"]), default="onnx", show_default=True, help="Kind of the model."
)

name_option = click.option("-m", "--name", metavar="NAME", help="Which model of a packed file.")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--model`, `--proto`, `--march` and `--input-shape`."""
    for option in (
        click.option(
            "--input-shape",
            nargs=2,
            multiple=True,
            metavar="NAME SHAPE",
            help="Shape of an input, such as data 1x3x224x224; repeat per input.",
        ),
        click.option("--march", help="bernoulli2, bayes, bayes-e, nash-e, nash-m, ... or a target file."),
        click.option("--proto", type=click.Path(path_type=Path), help="Caffe only."),
        click.option("--model", type=click.Path(path_type=Path), help="The ONNX file."),
    ):
        command = option(command)
    return command


def only_onnx(model_type: str, proto: Path | None = None) -> None:
    """Refuse Caffe."""
    if model_type == "caffe" or proto is not None:
        raise UnsupportedError("Caffe models are not read", hint="Convert the model to ONNX first.")


def required(value: _T | None, message: str, hint: str) -> _T:
    """The value of an option that must be there in this form of the command."""
    if value is None:
        raise UsageError(message, hint=hint)
    return value

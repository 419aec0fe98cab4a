"""The schema of the YAML that drives calibration, QAT, conversion and export of a PyTorch model.

Sections have the names and style of config.yaml. Everything is a closed, frozen pydantic model; an unknown key is an
error. Reading from a file, with file:line in every error, is `hbtool.config.training_loader`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from hbtool.config.marches import parse_march
from hbtool.config.values import BadValueError, parse_shape, split_shapes


class Group(BaseModel):
    """A frozen group of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _march(text: str) -> str:
    try:
        return parse_march(text)
    except BadValueError as error:
        raise ValueError(f"{error.message}. {error.hint}") from None


def _factory(text: str) -> str:
    module, _, name = text.rpartition(":")
    if not module or not name.isidentifier():
        raise ValueError(f"{text!r} is no factory; write 'package.module:function' or 'file.py:Class'")
    return text


def _shapes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return tuple(parse_shape(part) for part in split_shapes(value) if part)
    except BadValueError as error:
        raise ValueError(f"{error.message}. {error.hint}") from None


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(";") if part.strip())
    return value


Factory = Annotated[str, AfterValidator(_factory)]
"""`package.module:function` or `file.py:Class` (the file relative to the YAML)."""
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Kwargs = dict[str, Any]


class TorchModel(Group):
    """The network and where results go."""

    model: Factory = Field(description="what builds the float network, QuantStub and DeQuantStub included")
    model_kwargs: Kwargs = Field(default={}, description="keyword arguments of the factory")
    weights: str | None = Field(
        default=None, description="state dict of the float network: .safetensors, or .pt/.pth/.th"
    )
    march: Annotated[str, AfterValidator(_march)] = Field(description="BPU generation, such as bayes-e")
    input_shape: Annotated[tuple[tuple[int, ...], ...], BeforeValidator(_shapes)] = Field(
        description="shape of each input of the deployed model, such as 1x3x32x32; `;` between inputs"
    )
    input_name: Names = Field(default=(), description="names of the inputs in ONNX files; `;` between them")
    output_name: Names = Field(default=(), description="names of the outputs in ONNX files; `;` between them")
    output_model_file_prefix: str = Field(default="model", description="first part of the names of the files written")
    working_dir: str = Field(default="./torch_output", description="folder of the results, relative to the YAML")


class TorchData(Group):
    """Data sets, loss and metric. A factory returns a Dataset of (inputs..., target), or a DataLoader."""

    calibration: Factory | None = Field(default=None, description="data of calibration; the training data by default")
    training: Factory | None = Field(default=None, description="data of QAT")
    validation: Factory | None = Field(default=None, description="data the metric is measured on")
    data_kwargs: Kwargs = Field(default={}, description="keyword arguments of the three factories")
    loss: str = Field(default="cross_entropy", description="cross_entropy, mse, or a factory function(outputs, target)")
    metric: str = Field(
        default="accuracy", description="accuracy, or a factory function(outputs, target) -> (sum, count) of one batch"
    )
    metric_mode: Literal["max", "min"] = Field(default="max", description="whether a larger metric is better")
    batch_size: int = Field(default=32, ge=1, description="images per step and process")
    workers: int = Field(default=0, ge=0, description="data loader processes")


class ModuleQuantization(Group):
    """What differs for one module (and everything below it)."""

    quantize: bool = Field(default=True, description="False leaves it in float")
    output: Literal["int8", "int16", "int32"] = Field(default="int8", description="int32: high-precision output layer")
    weight_bits: Literal[4, 8] = Field(default=8, description="bits of the weights")
    weight_per_channel: bool = Field(default=True, description="one weight scale per output channel")
    observer: str | None = Field(default=None, description="activation observer of calibration, if another")


class TorchQuantization(Group):
    """How the network is quantized."""

    observer: Literal["default", "min_max", "percentile", "mse", "kl", "mix", "clip_std"] = Field(
        default="default",
        description="activation observer of calibration; default tries min_max, mse and percentile and keeps the one "
        "whose outputs on the calibration data are nearest to float",
    )
    asymmetric: bool = Field(
        default=True,
        description="int8 activations with a zero point: what is never negative keeps all 8 bits (not lsq and pact)",
    )
    bias_correction: bool = Field(
        default=True, description="after calibration, biases take back the mean error of every channel"
    )
    calibration_steps: int = Field(default=20, ge=1, description="batches used for calibration, at most")
    calibration_averaging_constant: float = Field(default=0.1, ge=0, le=1, description="share of the newest batch")
    fake_quant: Literal["fake_quant", "lsq", "pact"] = Field(default="fake_quant", description="activations in QAT")
    activation_averaging_constant: float = Field(
        default=0.0, ge=0, le=1, description="share of the newest batch in QAT; 0 keeps the calibrated scales"
    )
    weight_averaging_constant: float = Field(default=1.0, ge=0, le=1, description="1: the scale follows the weights")
    weight_bits: Literal[4, 8] = Field(default=8, description="bits of all weights")
    weight_per_channel: bool = Field(default=True, description="one weight scale per output channel")
    weight_narrow_range: bool = Field(
        default=True, description="weights in -127..127, the largest exactly; false: scale max/127.5, as published"
    )
    output_layers: Names = Field(
        default=(), description="modules whose int32 accumulator is the output; `;` between them"
    )
    module_name: dict[str, ModuleQuantization] = Field(default={}, description="module path -> what differs there")
    qat_mode: Literal["fuse_bn", "with_bn", "with_bn_reverse_fold"] = Field(
        default="fuse_bn", description="when batch normalization is absorbed"
    )
    hybrid: bool = Field(default=False, description="allow CPU operators between BPU operators")
    hybrid_modules: Names = Field(default=(), description="module paths forced to the CPU; `;` between them")
    exact: bool = Field(default=False, description="train with the integer forward (exact mode)")


class TorchTraining(Group):
    """QAT."""

    epochs: int = Field(default=1, ge=0, description="passes over the training data")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(default="sgd", description="optimizer")
    learning_rate: float = Field(default=1e-3, gt=0, description="for one process; it is scaled with their number")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(default=4e-5, ge=0, description="weight decay")
    schedule: Literal["constant", "cosine", "step"] = Field(default="cosine", description="course of the learning rate")
    step_epochs: tuple[int, ...] = Field(
        default=(), description="schedule step: epochs after which the rate is a tenth"
    )
    clip_gradient: float | None = Field(default=None, gt=0, description="largest norm of all gradients")
    amp: bool = Field(default=False, description="mixed precision (bfloat16) between fake quantizers")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:1")
    seed: int = Field(default=1, ge=0, description="seed of the data order and of everything random")


class TrainingConfig(Group):
    """The whole file."""

    model_parameters: TorchModel
    data_parameters: TorchData = TorchData()
    quantization_parameters: TorchQuantization = TorchQuantization()
    training_parameters: TorchTraining = TorchTraining()

"""The nash `quant_config` dict (or JSON file), typed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

QType = Literal["int4", "int8", "int16", "float16", "float32"]
QTYPES = ("int4", "int8", "int16", "float16", "float32")
METRICS = ("cosine-similarity", "mse", "mae", "mre", "sqnr", "chebyshev")
MIN_KL_BINS = 129
MIN_KL_MAX_BINS = 258


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), populate_by_name=True)


class ActivationConfig(_Part):
    """How activations are calibrated; several values of one field are a space to search."""

    calibration_type: tuple[Literal["max", "kl"], ...] = ()
    num_bin: tuple[int, ...] = ()
    max_num_bin: int | None = None
    max_percentile: tuple[float, ...] = ()
    per_channel: tuple[bool, ...] = ()
    asymmetric: tuple[bool, ...] = ()


class BiasCorrection(_Part):
    """Bias correction after quantization."""

    num_sample: int = 1
    metric: Literal["cosine-similarity", "mse", "mae", "mre", "sqnr", "chebyshev"] = "cosine-similarity"


class WeightConfig(_Part):
    """How weights are treated."""

    bias_correction: BiasCorrection | None = None


class WholeModelConfig(_Part):
    """`model_config`: settings of the whole model."""

    all_node_type: QType | None = None
    model_output_type: QType | None = None
    activation: ActivationConfig = ActivationConfig()
    weight: WeightConfig = WeightConfig()
    search: bool = False


class TypeRule(_Part):
    """One entry of op_config or node_config: a type for all inputs, or for single ones."""

    name: str
    qtype: QType | None = None
    input_types: tuple[tuple[int, QType], ...] = ()


class SubgraphRule(_Part):
    """A named group of nodes between tensors, and its type."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    qtype: QType | None = None


class QuantConfig(_Part):
    """The whole of quant_config. Priority: node > subgraph > op > model_config.all_node_type > int8."""

    whole_model: WholeModelConfig = Field(default=WholeModelConfig(), alias="model_config")
    op_config: tuple[TypeRule, ...] = ()
    subgraph_config: tuple[SubgraphRule, ...] = ()
    node_config: tuple[TypeRule, ...] = ()

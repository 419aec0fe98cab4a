"""The whole configuration: five frozen groups, and what a load adds to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hbtool.config.calibration_section import CalibrationParameters
from hbtool.config.compiler_section import CompilerParameters, CustomOp
from hbtool.config.input_section import InputParameters
from hbtool.config.model_section import ModelParameters
from hbtool.config.notes import ConfigNote, Place
from hbtool.config.section import Section

if TYPE_CHECKING:
    from hbtool.config.inputs import InputConfig, ModelInput

SECTIONS: Mapping[str, type[Section]] = {
    "model_parameters": ModelParameters,
    "input_parameters": InputParameters,
    "calibration_parameters": CalibrationParameters,
    "compiler_parameters": CompilerParameters,
    "custom_op": CustomOp,
}


class Config(Section):
    """A configuration as it counts: typed, frozen, without notation."""

    model_parameters: ModelParameters
    input_parameters: InputParameters
    calibration_parameters: CalibrationParameters = CalibrationParameters()
    compiler_parameters: CompilerParameters = CompilerParameters()
    custom_op: CustomOp = CustomOp()

    @property
    def march(self) -> str:
        """`model_parameters.march`."""
        return self.model_parameters.march


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration with its file: the places of its keys and the notes made while reading.

    ``places`` maps `section` and `section.key` to where they stand; ``folder`` is the absolute base of relative paths.
    A configuration built in Python has no places: `LoadedConfig(config)`.
    """

    config: Config
    file: str = "<config>"
    folder: Path = field(default_factory=Path.cwd)
    warnings: tuple[ConfigNote, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    strict: bool = False

    @property
    def model_parameters(self) -> ModelParameters:
        """The group of that name."""
        return self.config.model_parameters

    @property
    def input_parameters(self) -> InputParameters:
        """The group of that name."""
        return self.config.input_parameters

    @property
    def calibration_parameters(self) -> CalibrationParameters:
        """The group of that name."""
        return self.config.calibration_parameters

    @property
    def compiler_parameters(self) -> CompilerParameters:
        """The group of that name."""
        return self.config.compiler_parameters

    @property
    def custom_op(self) -> CustomOp:
        """The group of that name."""
        return self.config.custom_op

    def place(self, section: str, key: str = "") -> Place:
        """Where a key stands; its section's place, or the file, where it is absent."""
        path = f"{section}.{key}" if key else section
        return self.places.get(path) or self.places.get(section) or Place(self.file, 1 if self.places else 0)

    def resolve_inputs(self, model_inputs: Sequence[ModelInput]) -> tuple[InputConfig, ...]:
        """One InputConfig per model input; see `hbtool.config.inputs.resolve_inputs`."""
        from hbtool.config.inputs import resolve_inputs

        return resolve_inputs(self, model_inputs)

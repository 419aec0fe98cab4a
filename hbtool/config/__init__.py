"""The config.yaml of the mapper: read, checked, explained, and written back. No model and no data are touched here."""

from hbtool.config.dump import dump
from hbtool.config.inputs import InputConfig, ModelInput, inputs_table, resolve_inputs
from hbtool.config.json_schema import json_schema, json_schema_text
from hbtool.config.loader import load_config, parse_config
from hbtool.config.marches import MARCHES
from hbtool.config.model_check import ModelCheck, ModelFacts, NodeFact, RefusedType, check_against_model
from hbtool.config.node_info import InputTypeAt, NodeSetting
from hbtool.config.notes import ConfigNote, Place
from hbtool.config.optimization import KindFlag, OptimizationFlags
from hbtool.config.page import config_page, explain
from hbtool.config.paths import ResolvedPaths, check_files, resolve_paths
from hbtool.config.quant_config import QuantConfig
from hbtool.config.schema import Config, LoadedConfig
from hbtool.config.template import template

__all__ = [
    "MARCHES",
    "Config",
    "ConfigNote",
    "InputConfig",
    "InputTypeAt",
    "KindFlag",
    "LoadedConfig",
    "ModelCheck",
    "ModelFacts",
    "ModelInput",
    "NodeFact",
    "NodeSetting",
    "OptimizationFlags",
    "Place",
    "QuantConfig",
    "RefusedType",
    "ResolvedPaths",
    "check_against_model",
    "check_files",
    "config_page",
    "dump",
    "explain",
    "inputs_table",
    "json_schema",
    "json_schema_text",
    "load_config",
    "parse_config",
    "resolve_inputs",
    "resolve_paths",
    "template",
]

"""Tools to find lost accuracy in a PyTorch model: similarity, statistics, weights, dtypes, scripts, training."""

from hbtool.utils.quant_profiler.features import get_raw_features, profile_featuremap
from hbtool.utils.quant_profiler.memory import show_cuda_memory_consumption
from hbtool.utils.quant_profiler.preserve import set_preserve_qat_mode
from hbtool.utils.quant_profiler.profiler import model_profiler
from hbtool.utils.quant_profiler.qconfigs import check_qconfig
from hbtool.utils.quant_profiler.questions import (
    check_deploy_device,
    check_unfused_operations,
    get_module_called_count,
)
from hbtool.utils.quant_profiler.scripts import compare_script_models, script_profile
from hbtool.utils.quant_profiler.similarity import featuremap_similarity
from hbtool.utils.quant_profiler.training import TrainingFinding, diagnose_training
from hbtool.utils.quant_profiler.weights import compare_weights

__all__ = [
    "TrainingFinding",
    "check_deploy_device",
    "check_qconfig",
    "check_unfused_operations",
    "compare_script_models",
    "compare_weights",
    "diagnose_training",
    "featuremap_similarity",
    "get_module_called_count",
    "get_raw_features",
    "model_profiler",
    "profile_featuremap",
    "script_profile",
    "set_preserve_qat_mode",
    "show_cuda_memory_consumption",
]

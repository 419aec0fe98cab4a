"""Eager-mode fusion: named modules become one fused module, in a copy of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.ao.nn.quantized import FloatFunctional as TorchFloatFunctional

from hbtool.errors import UsageError
from hbtool.nn import intrinsic
from hbtool.nn.functional_module import FloatFunctional
from hbtool.qat_mode import QATMode, get_qat_mode
from hbtool.quantization.fusion import fold_bn
from hbtool.quantization.selection import check_names
from hbtool.quantization.tracing import copy_model, set_module

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_ADDS = (FloatFunctional, TorchFloatFunctional)


def fuse_known_modules(
    mod_list: Sequence[nn.Module],
    is_qat: bool = False,
    additional_fuser_method_mapping: Mapping[Any, Any] | None = None,
) -> list[nn.Module]:
    """The modules that take the places of `mod_list` (conv or linear, then optional BN, add, ReLU).

    Without an add the fused module takes the first place, with one the add's; the others become Identity.

    Raises:
        UsageError: the sequence does not fuse.
    """
    kinds = tuple(type(m) for m in mod_list)
    if additional_fuser_method_mapping and kinds in additional_fuser_method_mapping:
        return [additional_fuser_method_mapping[kinds](*mod_list), *(nn.Identity() for _ in mod_list[1:])]
    rest = list(mod_list)
    conv = rest.pop(0)
    bn = rest.pop(0) if rest and isinstance(rest[0], _NORMS) else None
    add = rest.pop(0) if rest and isinstance(rest[0], _ADDS) else None
    relu = rest.pop(0) if rest and isinstance(rest[0], (nn.ReLU, nn.ReLU6)) else None
    if rest or type(conv) not in intrinsic.BASES.values():
        raise UsageError(
            f"the sequence {', '.join(k.__name__ for k in kinds)} does not fuse.",
            hint="Give a convolution or linear layer, then optional BN, FloatFunctional and ReLU, in this order.",
        )
    keep_bn = bn is not None and get_qat_mode() != QATMode.FuseBN
    if bn is not None and not keep_bn:
        fold_bn(conv, bn)
    fused: nn.Module = conv
    if keep_bn or add is not None or relu is not None:
        activation = "" if relu is None else "ReLU6" if isinstance(relu, nn.ReLU6) else "ReLU"
        name = intrinsic.fused_name(conv, keep_bn, add is not None, activation)
        fused = intrinsic.CLASSES[name](conv, bn if keep_bn else None, relu)
        if hasattr(conv, "qconfig"):
            fused.qconfig = conv.qconfig
    place = next((i for i, m in enumerate(mod_list) if m is add), 0) if add is not None else 0
    return [fused if i == place else nn.Identity() for i in range(len(mod_list))]


def fuse_modules(
    model: nn.Module,
    modules_to_fuse: Sequence[Any],
    inplace: bool = False,
    fuser_func: Callable[..., list[nn.Module]] = fuse_known_modules,
    fuse_custom_config_dict: Mapping[str, Any] | None = None,
) -> nn.Module:
    """`model` (a copy unless `inplace`) with each list of module names fused.

    Raises:
        UsageError: an unknown name (with the nearest ones) or a sequence that does not fuse.
    """
    made = model if inplace else copy_model(model)
    groups = [modules_to_fuse] if modules_to_fuse and isinstance(modules_to_fuse[0], str) else list(modules_to_fuse)
    extra = (fuse_custom_config_dict or {}).get("additional_fuser_method_mapping")
    known = dict(made.named_modules())
    for names in groups:
        check_names(names, known, "modules_to_fuse")
        parts = [made.get_submodule(n) for n in names]
        for name, part in zip(names, fuser_func(parts, False, extra), strict=True):
            set_module(made, name, part)
    return made


def fuse_conv_shared_modules(model: nn.Module, modules_to_fuse: Sequence[Any], inplace: bool = False) -> nn.Module:
    """Fuse a convolution shared by several batch normalizations: each group gets a copy of the convolution first.

    Args:
        model: the float model.
        modules_to_fuse: lists of names; the convolution may be named in several lists under its different paths.
        inplace: change `model` itself.
    """
    made = model if inplace else copy_model(model)
    seen: set[int] = set()
    for names in modules_to_fuse:
        conv = made.get_submodule(names[0])
        if id(conv) in seen:
            set_module(made, names[0], copy_model(conv))
        seen.add(id(made.get_submodule(names[0])))
    return fuse_modules(made, modules_to_fuse, inplace=True)

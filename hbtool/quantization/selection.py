"""Which module gets which qconfig, and which is forced to the CPU: dictionaries of names and types, checked."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from hbtool.errors import UsageError
from hbtool.quantization.qconfig import is_calibration

_log = logging.getLogger(__name__)

_KEYS = ("", "module_type", "module_name", "module_name_regex", "verbose", "__build_recursive")
_UNSET = object()


def _pairs(value: Any, what: str) -> list[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    pairs = list(value or ())
    if not all(isinstance(p, (tuple, list)) and len(p) == 2 for p in pairs):
        raise UsageError(f"{what} must be a list of (key, qconfig) pairs or a dict.", where="qconfig_dict")
    return [tuple(p) for p in pairs]


def ancestors(path: str) -> Iterable[str]:
    """The path, its parent, ... down to the first component."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def lookup_paths(path: str) -> list[str]:
    """Paths under which a module may be named, nearest first: a generated module belongs to its parent."""
    found = list(ancestors(path))
    match = re.match(r"^(.*?)_generated_[a-z0-9_]+_\d+$", path)
    if match:
        found = [path, *ancestors(match.group(1))]
    return found


def check_names(names: Iterable[Any], known: Iterable[str], where: str) -> None:
    """Refuse names that are no string or that no module has.

    Raises:
        UsageError: names each of them with its nearest known names.
    """
    known = [k for k in known if k]
    problems = []
    for name in names:
        if not isinstance(name, str):
            problems.append(f"{name!r} is not a string (write the module's path, such as 'layer.0')")
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            if not near:
                near = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]][:3]
            problems.append(f"no module is called {name!r}" + (f" (nearest: {', '.join(near)})" if near else ""))
    if problems:
        raise UsageError(
            "; ".join(problems) + ".", where=where, hint="model.named_modules() and a print of the model list them."
        )


class QConfigs:
    """The qconfig of every path: `""` < module_type < module_name < the module's own attribute.

    Args:
        qconfig_dict: as scripts give it; None = only `.qconfig` attributes count.
        modules: path -> module of the float model, with all generated modules.
        types: path -> class of the original module (fusion replaces some by Identity).
    """

    def __init__(
        self, qconfig_dict: Mapping[Any, Any] | None, modules: Mapping[str, nn.Module], types: Mapping[str, type]
    ) -> None:
        given = dict(qconfig_dict or {})
        unknown = [k for k in given if k not in _KEYS]
        if unknown:
            raise UsageError(
                f"unknown key {unknown[0]!r}.", where="qconfig_dict", hint='Keys are "", "module_type", "module_name".'
            )
        self.overall = given.get("")
        self.by_type = _pairs(given.get("module_type"), "module_type")
        self.by_name = _pairs(given.get("module_name"), "module_name")
        self.by_pattern = _pairs(given.get("module_name_regex"), "module_name_regex")
        check_names([n for n, _ in self.by_name], modules, "qconfig_dict['module_name']")
        _check_types([t for t, _ in self.by_type], types)
        self.names = dict(self.by_name)
        self.modules, self.types = modules, types
        every = [self.overall, *(q for _, q in (*self.by_type, *self.by_name, *self.by_pattern))]
        for qconfig in every:
            _check_kind(qconfig)
        quantizing = [q for q in every if q is not None and q.activation is not None]
        if len({is_calibration(q) for q in quantizing}) > 1:
            raise UsageError(
                "calibration and QAT qconfigs are mixed in one call.",
                where="qconfig_dict",
                hint="Prepare once with calibration qconfigs, then prepare the result with QAT qconfigs.",
            )

    def of(self, path: str) -> Any:
        """The qconfig of the module (or generated module) at `path`, None = not quantized."""
        paths = lookup_paths(path)
        for candidate in paths:
            own = getattr(self.modules.get(candidate), "qconfig", _UNSET)
            if own is not _UNSET:
                _check_kind(own)
                return own
        for candidate in paths:
            if candidate in self.names:
                return self.names[candidate]
        for pattern, qconfig in self.by_pattern:
            if re.match(pattern, path):
                return qconfig
        for candidate in paths:
            for kind, qconfig in self.by_type:
                if self.types.get(candidate) is kind:
                    return qconfig
        # The model's own attribute is the weakest: scripts set it for eager mode and pass a dict as well.
        return self.overall if self.overall is not None else getattr(self.modules.get(""), "qconfig", None)


def _check_types(asked: Iterable[Any], types: Mapping[str, type]) -> None:
    """Warn of classes that no module is of; dictionaries are shared between models, so it is no error."""
    known = sorted({t.__name__ for t in types.values()})
    for kind in asked:
        if not isinstance(kind, type):
            raise UsageError(
                f"{kind!r} is not a class.", where="qconfig_dict['module_type']", hint="Give module classes."
            )
        if kind not in types.values():
            near = difflib.get_close_matches(kind.__name__, known, n=3, cutoff=0.5)
            _log.warning(
                "qconfig_dict['module_type']: no module is a %s%s",
                kind.__name__,
                f" (nearest: {', '.join(near)})" if near else "",
            )


def _check_kind(qconfig: Any) -> None:
    if qconfig is None or (hasattr(qconfig, "activation") and hasattr(qconfig, "weight")):
        return
    raise UsageError(
        f"{qconfig!r} is not a qconfig.",
        where="qconfig_dict",
        hint="Use get_default_qat_qconfig() or another function of hbtool.quantization.qconfig.",
    )


class ForcedToCpu:
    """What `hybrid_dict` forces to the CPU: a name or a type, each covering the modules below it."""

    def __init__(
        self, hybrid_dict: Mapping[str, Any] | None, modules: Mapping[str, nn.Module], types: Mapping[str, type]
    ) -> None:
        given = dict(hybrid_dict or {})
        unknown = [k for k in given if k not in ("module_name", "module_type")]
        if unknown:
            raise UsageError(
                f"unknown key {unknown[0]!r}.", where="hybrid_dict", hint='Keys are "module_name" and "module_type".'
            )
        self.names = list(given.get("module_name") or ())
        self.types = tuple(given.get("module_type") or ())
        check_names(self.names, modules, "hybrid_dict['module_name']")
        missing = [t.__name__ for t in self.types if t not in types.values()]
        if missing:
            raise UsageError(
                f"no module is a {', '.join(missing)}.",
                where="hybrid_dict['module_type']",
                hint="Give existing classes.",
            )
        self.type_of = types

    def reason(self, path: str) -> str | None:
        """Why the module at `path` is on the CPU, None if nothing says so."""
        for candidate in lookup_paths(path):
            if candidate in self.names:
                return f"hybrid_dict names {candidate}"
            if self.type_of.get(candidate) in self.types:
                return f"hybrid_dict names the type {self.type_of[candidate].__name__}"
        return None

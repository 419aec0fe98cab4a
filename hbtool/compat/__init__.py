"""Lets scripts that import `horizon_plugin_pytorch` run on hbtool, unchanged.

`install()` makes that name (and everything below it) mean hbtool's modules of the same path. An installed package of
that name always wins: then nothing is done.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

PLUGIN = "horizon_plugin_pytorch"

_TOP_LEVEL = {
    "March": "hbtool.march",
    "set_march": "hbtool.march",
    "get_march": "hbtool.march",
    "QTensor": "hbtool.qtensor",
    "qconfig": "hbtool.quantization.qconfig",
}


class _PluginModule(ModuleType):
    """The package itself: its attributes are hbtool's modules and the names that scripts reach through it."""

    def __getattr__(self, name: str) -> Any:
        if name in _TOP_LEVEL:
            module = importlib.import_module(_TOP_LEVEL[name])
            return module if name == "qconfig" else getattr(module, name)
        if name == "__version__":
            return importlib.import_module("hbtool").__version__
        if not name.startswith("_") and importlib.util.find_spec(f"hbtool.{name}") is not None:
            return importlib.import_module(f"hbtool.{name}")
        functional = importlib.import_module("hbtool.functional")
        if not name.startswith("_") and hasattr(functional, name):
            return getattr(functional, name)
        raise AttributeError(f"module {PLUGIN!r} has no attribute {name!r}")


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return _PluginModule(spec.name) if spec.name == PLUGIN else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name == PLUGIN:
            module.__path__ = []
            return
        # The alias and the real module must be one object: classes are compared by identity.
        sys.modules[name] = importlib.import_module(f"hbtool{name.removeprefix(PLUGIN)}")


_COMPILER = "hbdk4"
"""The newer generation's compiler package: its `compiler` module has save, convert and compile."""


class _CompilerLoader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        real = importlib.import_module("hbtool.quantization.hbdk4")
        if module.__name__ == _COMPILER:
            module.__path__ = []
            module.__dict__["compiler"] = real
        else:
            sys.modules[module.__name__] = real


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in (_COMPILER, f"{_COMPILER}.compiler") and not _is_installed(_COMPILER):
            return importlib.machinery.ModuleSpec(fullname, _CompilerLoader(), is_package=fullname == _COMPILER)
        if fullname != PLUGIN and not fullname.startswith(f"{PLUGIN}."):
            return None
        if fullname == PLUGIN:
            return importlib.machinery.ModuleSpec(fullname, _Loader(), is_package=True)
        try:
            real = importlib.util.find_spec(f"hbtool{fullname.removeprefix(PLUGIN)}")
        except ModuleNotFoundError:
            real = None
        if real is None:
            return None
        is_package = real.submodule_search_locations is not None
        return importlib.machinery.ModuleSpec(fullname, _Loader(), is_package=is_package)


def _is_installed(name: str) -> bool:
    """Whether another finder knows the package."""
    finders = [f for f in sys.meta_path if not isinstance(f, _Finder)]
    return any(getattr(f, "find_spec", lambda *_: None)(name, None) is not None for f in finders)


def install() -> bool:
    """Let `horizon_plugin_pytorch` mean hbtool; False where a real installation of that name exists."""
    if any(isinstance(f, _Finder) for f in sys.meta_path):
        return True
    if importlib.util.find_spec(PLUGIN) is not None:
        return False
    # First: the real packages' own paths would otherwise load every sub-module a second time.
    sys.meta_path.insert(0, _Finder())
    return True


def uninstall() -> None:
    """Take the name away again (the modules already imported under it as well)."""
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _Finder)]
    ours = (PLUGIN, _COMPILER)
    for name in [n for n in sys.modules if n in ours or n.startswith(tuple(f"{o}." for o in ours))]:
        del sys.modules[name]

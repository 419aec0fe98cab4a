"""Runs models and artifacts on a PC: `Session(path).run(None, feeds)`, as onnxruntime's."""

from hbtool.runtime.session import Session

__all__ = ["Session"]

"""Importing this used to register export functions; hbtool's exporter needs none. Kept for scripts that import it."""

from hbtool.quantization.straight_through import fake_quantize_op

__all__ = ["fake_quantize_op"]

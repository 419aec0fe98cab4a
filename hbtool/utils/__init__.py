"""Vendor paths: ONNX export, `wrap`, debug tools."""

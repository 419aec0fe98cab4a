"""The one graph: `onnx_ir.Model` from door to door, and typed access to what hbtool knows about values and nodes."""

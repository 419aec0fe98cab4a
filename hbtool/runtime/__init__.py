"""Runs models and artifacts on a PC: `Session(path).run(None, feeds)`, as onnxruntime's."""

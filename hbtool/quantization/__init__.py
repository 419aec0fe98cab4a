"""The PyTorch side: calibration, quantization-aware training, fixed-point conversion, hybrid models."""

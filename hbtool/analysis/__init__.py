"""Where a quantized model loses its accuracy: which nodes cost it, how errors grow, what the values look like."""

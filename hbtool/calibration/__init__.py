"""From sample data and a float model to the ranges of its values."""

"""QAT forms of modules."""

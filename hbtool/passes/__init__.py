"""Graph passes: one verb per file, and the ordered lists of them."""

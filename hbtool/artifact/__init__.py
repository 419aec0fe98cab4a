"""The artifact: the instruction list of a segment, and the file that holds it."""

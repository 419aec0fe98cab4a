"""What a compiled model costs: timeline, profile, report."""

"""The one arithmetic: integer types, scales, and what every integer primitive computes, bit for bit."""

"""Per-unit gradients, clipped and added up."""

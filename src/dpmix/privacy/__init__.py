"""The guarantee: the plan, sampling, clipping, noise and accounting."""

"""The guarantee: plan, sampling, noise, accounting and private selection."""

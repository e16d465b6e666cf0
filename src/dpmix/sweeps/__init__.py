"""The paper's experiments as recipes and sweeps, and what comes of sweeps."""

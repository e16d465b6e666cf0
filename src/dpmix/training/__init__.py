"""Training: one step, the loop, the moving average, evaluation and files."""

"""Empirical lower bounds on epsilon, and invariants of the running mechanism."""

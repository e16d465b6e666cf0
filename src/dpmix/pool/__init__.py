"""Public images: what may be read without cost to privacy."""

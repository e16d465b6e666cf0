"""The gap check: how far a public pool is from the private images, released with privacy."""

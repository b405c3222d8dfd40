"""Load benchmarks of the running service."""

"""Benchmarks that fit models."""

"""Evaluation: the simulated world, splits, metrics and the judging of recommenders."""

"""Serving: the bundle, the one ``Recommender``, feature readers and the BentoML service.

Runs with the base dependencies only: no training library is imported here.
"""

"""Encoders: how a customer becomes a query vector when the request arrives."""

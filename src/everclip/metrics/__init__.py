"""Metrics: pure functions of tables of results."""

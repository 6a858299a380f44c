"""Data sets and task sequences."""

"""Frozen CLIP-like models with insertion points."""

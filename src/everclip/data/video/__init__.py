"""Clips: several pictures that are one sample."""

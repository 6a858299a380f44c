"""Everclip: continual, parameter-efficient adaptation of CLIP-like models."""

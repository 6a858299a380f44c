"""Mirrors of a run for other tools: CSV, TensorBoard, W&B."""

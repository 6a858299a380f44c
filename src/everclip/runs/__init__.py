"""What a run leaves: its folder, its lock, its provenance."""

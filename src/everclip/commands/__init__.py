"""The commands: one module per entry point, and the parts they share."""

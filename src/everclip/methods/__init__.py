"""Methods: one module each, everything that adapts."""

"""Task sequences: how a data set becomes sessions and tasks."""

"""The session loop and what drives an optimiser through a phase."""

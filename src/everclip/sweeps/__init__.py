"""Many runs: their list, how they are started, what they cost. Needs no torch."""

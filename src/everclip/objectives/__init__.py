"""How samples are learnt by methods that leave that to the sequence: one objective per file."""

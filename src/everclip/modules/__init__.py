"""Building blocks of methods; they know nothing of sessions."""

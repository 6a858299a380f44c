"""How tasks are judged: one evaluator per file."""

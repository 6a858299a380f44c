"""How tasks are judged: one evaluator per file, and the mathematics that they share."""

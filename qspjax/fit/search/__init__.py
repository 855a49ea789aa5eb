"""How an optimum is found: starts, steps, stopping, and how it is resumed."""

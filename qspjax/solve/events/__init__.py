"""Events of a model in a solve: what they watch, when they fire, and where exactly."""

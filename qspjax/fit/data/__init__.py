"""The data of a fit: measurements and experiments, the numbers they refer to, and the simulations they need."""

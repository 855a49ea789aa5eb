"""Training of networks within a model: what counts at a step, what is held out, penalties, starts, ensembles."""

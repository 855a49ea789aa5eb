"""The statistics of a measurement: error models, residual distributions, censoring, and draws of all of them."""

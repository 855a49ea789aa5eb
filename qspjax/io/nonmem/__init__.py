"""Data sets in the format of NONMEM: from lines to records, doses, covariates and experiments, and back."""

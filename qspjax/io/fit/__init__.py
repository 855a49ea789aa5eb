"""Calibrations in TOML, for one problem or for a population, and their results as files."""

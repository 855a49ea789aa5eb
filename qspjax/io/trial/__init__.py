"""Trials in TOML, their results as files, and sensitivity analyses over the differences between their patients."""

"""Trials in TOML, their results as files, and what their patients differ in as a sensitivity analysis."""

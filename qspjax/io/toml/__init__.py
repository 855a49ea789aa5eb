"""The parts that all files in TOML share: tables with units and issues, models and doses in words."""

"""Population files: plausible patients and their prevalence as text, and the results as a directory."""

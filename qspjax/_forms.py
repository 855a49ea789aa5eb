"""Forms and limits of input that files and the command line share; like the parsers that need them, without JAX."""

DOSE = "AMOUNT into TARGET [at TIME] [over TIME | rate RATE] [every TIME times NUMBER]"
"""The form of a dose in words."""

MOST_PATIENTS = 100_000_000
"""The maximum number of patients of a trial."""

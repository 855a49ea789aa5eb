"""Doses as a solver takes them: schedules of boundaries, what changes at each, visits, and steady states."""

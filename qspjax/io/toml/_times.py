"""Times in words: a list of them, or how long and how often."""

import numpy as np

from qspjax.io.toml._table import Table

_MOST_TIMES = 100_000


def read_times(table: Table, unit: str) -> tuple[float, ...]:
    """Read `times`, or `until` and `every`."""
    if "times" in table:
        for key in ("until", "every"):
            if key in table:
                table.issue(key, "must be left out where `times` are given, but both are.")
                table.number(key, unit)
        times = table.numbers("times", unit) or ()
        if any(later < earlier for earlier, later in zip(times, times[1:], strict=False)):
            table.issue("times", "must not decrease, but they do.")
            return ()
        return times
    until, every = table.number("until", unit, above=0), table.number("every", unit, above=0)
    if until is None or every is None:
        return ()
    if until / every > _MOST_TIMES:
        table.issue("every", f"must give at most {_MOST_TIMES} times in all, but gives {until / every:.0f}.")
        return ()
    times = every * np.arange(int(until / every + 1e-9) + 1)
    return (*times.tolist(), until) if until - times[-1] > 1e-9 * until else tuple(times.tolist())

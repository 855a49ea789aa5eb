"""The output of commands on stderr: messages with exit codes, and progress."""

import sys
import time

from qspjax._extras import require

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


def say(message: str, code: int) -> int:
    """Print a message to stderr and return the exit code."""
    print(message, file=sys.stderr)
    return code


class ProgressBar:
    """A progress bar on stderr, or only a plain last line if stderr is not a terminal.

    Args:
        total: The number of items.
        things: The name of the items, in the plural.
        bad: The word for items that went wrong, such as "failed"; empty if none can.
        first: The description until the first item is done.
        includes: What the time includes, for the last line.
    """

    def __init__(self, total: int, *, things: str, bad: str, first: str, includes: str = ""):
        """Prepare the bar."""
        rich, console = require("rich.progress", extra="cli"), require("rich.console", extra="cli")
        self._console = console.Console(stderr=True)
        columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.MofNCompleteColumn())
        ends = (rich.TextColumn(f"{things}  {{task.fields[note]}}", markup=False), rich.TimeElapsedColumn())
        self._bar = rich.Progress(*columns, *ends, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(first, total=total, note="")
        self._words = (things, bad, includes)
        self._done, self._bad, self._start = 0, 0, time.perf_counter()

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if error[0] is None:
            things, _, includes = self._words
            seconds = time.perf_counter() - self._start
            print(f"{self._done} {things} in {seconds:.1f} s{includes}, {self._note()}", file=sys.stderr)

    @property
    def done(self) -> int:
        """The number of items that are done."""
        return self._done

    def update(self, done: int, *, bad: int, description: str) -> None:
        """Set the number of items that are done, add the number of those that went wrong, and describe the last."""
        self._done, self._bad = done, self._bad + bad
        self._bar.update(self._task, completed=done, description=description, note=self._note())

    def _note(self) -> str:
        rate = self._done / (time.perf_counter() - self._start)
        failed = f", {self._bad} {self._words[1]}" if self._words[1] else ""
        return f"{rate:{'.0f' if rate >= 10 else '.1f'}} a second{failed}"

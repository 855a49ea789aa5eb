"""Run many cases of the suite in processes of their own: one that takes too long, or dies, costs only itself."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from qspjax.sbml_suite._suite import REFUSED, CaseResult, tags_of

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
_CASES_OF_A_PROCESS = 300
"""After this number of cases a process is replaced, to free its memory."""
_COMMAND = (sys.executable, "-m", "qspjax.sbml_suite._worker")
_START = 120.0
"""Seconds a process may take to start."""


def run_suite(folders: Sequence[Path], *, workers: int = 2, limit: float = 60.0) -> Iterator[CaseResult]:
    """Run cases and yield the result of each as it is done.

    Args:
        folders: The folders of the cases.
        workers: Number of processes.
        limit: Seconds that a case may take; one that takes longer is refused.

    Example:
        >>> from qspjax.sbml_suite import case_folders
        >>> for result in run_suite(case_folders("sbml-test-suite"), workers=4):  # doctest: +SKIP
        ...     print(result.case, result.outcome)
        >>> list(run_suite([]))
        []
    """
    waiting = deque((folder, tags_of(folder)) for folder in folders)
    pool = [_Worker(limit) for _ in range(min(workers, len(waiting)))]
    try:
        with selectors.DefaultSelector() as selector:
            for worker in pool:
                worker.start(selector)
            while waiting or any(worker.case for worker in pool):
                for worker in pool:
                    if worker.idle and waiting:
                        worker.give(*waiting.popleft())
                until = min((worker.deadline for worker in pool if worker.busy), default=time.monotonic() + 1.0)
                ready = {key.data for key, _ in selector.select(max(0.0, until - time.monotonic()))}
                for worker in pool:
                    result = worker.answer(selector) if worker in ready else worker.late(selector)
                    if result is not None:
                        yield result
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """A process and the case that it runs."""

    def __init__(self, limit: float):
        self.limit = limit
        self.case: tuple[Path, tuple[str, ...]] | None = None
        self.process: subprocess.Popen[str] | None = None
        self.deadline = 0.0
        self._ready, self._left, self._start_of_case = False, 0, 0.0

    @property
    def idle(self) -> bool:
        """Whether it waits for a case."""
        return self._ready and self.case is None

    @property
    def busy(self) -> bool:
        """Whether an answer is due: that it has started, or the result of its case."""
        return not self._ready or self.case is not None

    def start(self, selector: selectors.BaseSelector) -> None:
        """Start a process."""
        flags = f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip()
        self.process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            start_new_session=True,  # an interrupt is for the parent, which stops its processes
        )
        self._ready, self._left, self.deadline = False, _CASES_OF_A_PROCESS, time.monotonic() + _START
        selector.register(self._stdout, selectors.EVENT_READ, self)

    def give(self, folder: Path, tags: tuple[str, ...]) -> None:
        """Hand over a case."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.case, self._start_of_case = (folder, tags), time.monotonic()
        self.deadline, self._left = self._start_of_case + self.limit, self._left - 1
        try:
            self.process.stdin.write(json.dumps([str(folder), tags]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it died, which its stdout shows
            return

    def answer(self, selector: selectors.BaseSelector) -> CaseResult | None:
        """Read what the process says: that it is ready, a result, or nothing more."""
        line = self._stdout.readline()
        if not line:
            code = self.process.wait() if self.process else 0
            if not self._ready:
                raise RuntimeError(f"A process for the suite did not start (exit status {code}).")
            died = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            return self._given_up(selector, f"not solved: the process ended with {died}")
        if not self._ready:
            self._ready = True
            return None
        case, outcome, reason, tags, seconds, ratio = json.loads(line)
        self.case = None
        if self._left <= 0:
            self._restart(selector)
        return CaseResult(case, outcome, reason, tuple(tags), seconds, ratio)

    def late(self, selector: selectors.BaseSelector) -> CaseResult | None:
        """Give the case up if its time is over."""
        if not self.busy or time.monotonic() < self.deadline:
            return None
        if not self._ready:
            raise RuntimeError(f"A process for the suite did not start within {_START:g} s.")
        return self._given_up(selector, f"takes longer than {self.limit:g} s")

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    _closed(stream)
            self.process = None

    @property
    def _stdout(self) -> IO[str]:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout

    def _given_up(self, selector: selectors.BaseSelector, reason: str) -> CaseResult | None:
        case, self.case = self.case, None
        self._restart(selector)
        if case is None:
            return None
        folder, tags = case
        return CaseResult(folder.name, REFUSED, reason, tags, time.monotonic() - self._start_of_case, float("nan"))

    def _restart(self, selector: selectors.BaseSelector) -> None:
        selector.unregister(self._stdout)
        self.stop()
        self.start(selector)


def _closed(stream: IO[str]) -> None:
    try:
        stream.close()
    except BrokenPipeError:  # what was left to write has no reader
        return

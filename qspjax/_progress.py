"""The progress of long calculations."""

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

PATIENCE = 2.0
"""The seconds that a program may take to compile before that is said."""


class Progress(NamedTuple):
    """The progress of an estimation, a bootstrap, a sampler, a search for plausible patients, or a stored cohort.

    Attributes:
        done: The number done: starts of `estimate`, iterations of `nlme` and `sample`, replicates of `bootstrap`,
            patients of `plausible` and of `Stored`, simulations of `surrogate.fit`.
        total: The greatest number to do, 0 if it is not known beforehand.
        figures: Figures so far, by name: the `best` log density of `estimate`, its `steps` (evaluations of all starts)
            and their `rate` a second; the `objective` of `nlme` and the `gain` that the next iteration should bring,
            NaN where they are not known; the number of replicates that `converged`; of samplers the `divergences` after
            warm-up and the `temperature`, the power of the likelihood that has been reached; the `simulations` of
            `plausible`, and what share of the patients tried was `accepted`; of `surrogate.fit` the greatest `error`,
            what `remaining` is compared with the error at which learning stops, and how many `failed`; of `Stored` the
            patients `found` in the folder, the `rate` of others a second, and how many seconds are `left`.
        doing: What goes on meanwhile, if it is something else: `compiling (1 of 2)`.

    Example:
        >>> str(Progress(12, 200, {"objective": 116.8, "gain": 1e-3}))
        '12 of 200: objective 116.8, gain 0.001'
        >>> str(Progress(0, 200, doing="compiling (1 of 2)"))
        '0 of 200: compiling (1 of 2)'
    """

    done: int
    total: int
    figures: Mapping[str, float] = MappingProxyType({})
    doing: str = ""

    def __str__(self) -> str:
        counted = f"{self.done} of {self.total}" if self.total else f"{self.done}"
        figures = ", ".join(f"{name} {value:.6g}" for name, value in self.figures.items())
        said = self.doing or figures
        return f"{counted}: {said}" if said else counted


class Compilations:
    """Says which of some programs is being compiled, where that takes more than two seconds.

    Args:
        progress: Is told so, from another thread; None if nobody is.
        programs: The number of programs.
    """

    def __init__(self, progress: Callable[[Progress], None] | None, programs: int) -> None:
        self._progress, self._programs = progress, programs
        self._begun, self._timer = 0, None

    def __enter__(self) -> "Compilations":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, standing: Progress) -> None:
        """Note that the next program is made, if there is another one.

        Args:
            standing: The progress so far.
        """
        self.end()
        progress = self._progress
        if progress is not None and self._begun < self._programs:
            self._begun += 1
            doing = f"compiling ({self._begun} of {self._programs})"
            self._timer = threading.Timer(PATIENCE, progress, [standing._replace(doing=doing)])
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Note that it is made."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

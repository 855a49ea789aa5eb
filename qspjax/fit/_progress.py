"""The progress of long calculations."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Progress(NamedTuple):
    """The progress of an estimation, a bootstrap or a sampler.

    Attributes:
        done: The number done: starts of `estimate`, iterations of `nlme` and `sample`, replicates of `bootstrap`.
        total: The greatest number to do, 0 if it is not known beforehand.
        figures: Figures so far, by name: the `best` log density of `estimate`, its `steps` (evaluations of
            all starts) and their `rate` a second; the `objective` of
            `nlme` and the `gain` that the next iteration should bring, NaN where they are not known; the number of
            replicates that `converged`; of samplers the `divergences` after warm-up and the `temperature`, the power of
            the likelihood that has been reached.

    Example:
        >>> str(Progress(12, 200, {"objective": 116.8, "gain": 1e-3}))
        '12 of 200: objective 116.8, gain 0.001'
    """

    done: int
    total: int
    figures: Mapping[str, float] = MappingProxyType({})

    def __str__(self) -> str:
        counted = f"{self.done} of {self.total}" if self.total else f"{self.done}"
        figures = ", ".join(f"{name} {value:.6g}" for name, value in self.figures.items())
        return f"{counted}: {figures}" if figures else counted

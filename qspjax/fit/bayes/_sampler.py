"""What all samplers share: a run that proceeds step by step, and whose state can be saved between steps."""

import abc
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import numpy as np
from numpy.typing import ArrayLike

from qspjax._progress import Progress
from qspjax._types import Key
from qspjax.fit.bayes._density import Density, Start


class Draws(NamedTuple):
    """The draws of a sampler.

    Attributes:
        z: Points of the whole line, shape (chains, draws, size).
        stats: Statistics of each draw by their names in ArviZ, shape (chains, draws).
        log_evidence: log p(y) of each chain, None if the sampler does not estimate it.
    """

    z: np.ndarray
    stats: dict[str, np.ndarray]
    log_evidence: np.ndarray | None


class AbstractRun(abc.ABC):
    """Sampling under way."""

    @property
    @abc.abstractmethod
    def standing(self) -> Progress:
        """Its progress."""

    @property
    @abc.abstractmethod
    def going(self) -> bool:
        """Whether it has not ended."""

    @abc.abstractmethod
    def advance(self) -> None:
        """Make some iterations."""

    @abc.abstractmethod
    def draws(self) -> Draws:
        """Return the draws."""

    @abc.abstractmethod
    def state(self) -> dict[str, ArrayLike | str]:
        """Return the state from which to continue later."""

    @abc.abstractmethod
    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state."""


class AbstractSampler(eqx.Module):
    """How a posterior is sampled.

    Example:
        >>> import jax
        >>> from qspjax.fit import NUTS
        >>> isinstance(NUTS(key=jax.random.key(0)), AbstractSampler)
        True
    """

    key: eqx.AbstractVar[Key]

    @abc.abstractmethod
    def begin(self, density: Density, start: Start | None) -> AbstractRun:
        """Return a run at its beginning.

        Args:
            density: The posterior.
            start: Where it begins, as in `sample`.
        """

"""What all samplers share: a run that goes on step by step, and can be kept in a file between two of them."""

import abc
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import numpy as np
from numpy.typing import ArrayLike

from qspjax._types import Key
from qspjax.fit._progress import Progress
from qspjax.fit.bayes._density import Density, Start


class Draws(NamedTuple):
    """What a sampler returns.

    Attributes:
        z: Points of the line, shape (chains, draws, size).
        stats: Statistics of each draw by their names in ArviZ, shape (chains, draws).
        log_evidence: log p(y) of each chain, None where a sampler does not give it.
    """

    z: np.ndarray
    stats: dict[str, np.ndarray]
    log_evidence: np.ndarray | None


class AbstractRun(abc.ABC):
    """Sampling under way."""

    @property
    @abc.abstractmethod
    def standing(self) -> Progress:
        """How it stands."""

    @property
    @abc.abstractmethod
    def going(self) -> bool:
        """Whether it has not ended."""

    @abc.abstractmethod
    def advance(self) -> None:
        """Make some iterations."""

    @abc.abstractmethod
    def draws(self) -> Draws:
        """Return what was drawn."""

    @abc.abstractmethod
    def state(self) -> dict[str, ArrayLike | str]:
        """Return what has to be kept to go on later."""

    @abc.abstractmethod
    def restore(self, held: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""


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
            start: Where, as in `sample`.
        """

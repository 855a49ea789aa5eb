"""The settings of SAEM, whose algorithm is in `_saem`."""

import equinox as eqx

from qspjax._checks import check_whole
from qspjax._random import check_key
from qspjax._types import Key


class SAEM(eqx.Module):
    """Stochastic approximation EM, which assumes neither a linear model nor normal random effects given the data.

    Args:
        exploration: The number of iterations with full steps, in which the search may go far.
        smoothing: The number of iterations in which steps become smaller; the estimate is the mean of the second half.
        chains: The number of Markov chains of each subject; by default enough for at least 100 in all.
        sweeps: How many times the chains move in an iteration.
        samples: The number of points of the importance sampling that gives the final objective; 0 leaves it out.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If a number is not positive.

    Reference: Kuhn and Lavielle, Comput Stat Data Anal 2005;49:1020, doi:10.1016/j.csda.2004.07.002.

    Example:
        >>> import jax
        >>> from qspjax.fit import SAEM
        >>> SAEM(exploration=300, key=jax.random.key(0)).smoothing
        200
    """

    exploration: int = eqx.field(default=200, static=True)
    smoothing: int = eqx.field(default=200, static=True)
    chains: int | None = eqx.field(default=None, static=True)
    sweeps: int = eqx.field(default=2, static=True)
    samples: int = eqx.field(default=1024, static=True)
    key: Key = eqx.field(kw_only=True)

    def __check_init__(self) -> None:
        for name in ("exploration", "samples"):
            check_whole(name, getattr(self, name), 0)
        for name in ("smoothing", "sweeps"):
            check_whole(name, getattr(self, name), 1)
        if self.chains is not None:
            check_whole("chains", self.chains, 1)
        check_key(self.key)

    @property
    def iterations(self) -> int:
        return self.exploration + self.smoothing

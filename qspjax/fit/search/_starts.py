"""Where searches begin: points that fill the bounds evenly."""

import abc

import equinox as eqx
import numpy as np

from qspjax._checks import check_whole, refuse
from qspjax._parameters import AbstractChecked
from qspjax._random import check_key, generator
from qspjax._types import Key
from qspjax.fit._problem import Problem


class AbstractStarts(AbstractChecked):
    """Where searches begin.

    Example:
        >>> import jax
        >>> from qspjax.fit import AbstractStarts, MultiStart
        >>> isinstance(MultiStart(4, key=jax.random.key(0)), AbstractStarts)
        True
    """

    @abc.abstractmethod
    def points(self, problem: Problem) -> np.ndarray:
        """Return the starts, shape (starts, parameters), on the scale of the search."""


class MultiStart(AbstractStarts):
    """Starts drawn within the bounds, on the scale of the search, by a Latin hypercube or a Sobol sequence.

    Parameters with their own `quantile` are drawn by it. The weights of a network are those that it has, each array in
    an order of its own: they have the spread of its initialisation. A start at which there is no log density
    moves halfway towards the middle of the bounds, up to seven times.

    Args:
        starts: The number of starts, among which the start of the problem itself is not.
        key: `jax.random.key(seed)`.
        sobol: Whether to draw a scrambled Sobol sequence instead of a Latin hypercube.

    Raises:
        ValueError: If `starts` is not positive; from `estimate`, if a parameter has no bounds.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> MultiStart(4, key=jax.random.key(0)).points(problem).shape
        (4, 1)
    """

    starts: int = eqx.field(static=True)
    key: Key = eqx.field(kw_only=True)
    sobol: bool = eqx.field(default=False, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("starts", self.starts, 1)
        check_key(self.key)

    def points(self, problem: Problem) -> np.ndarray:
        from scipy.stats import qmc

        free = [*problem.free.values()]
        for name, parameter, low, high in zip(problem.names, free, *problem.bounds, strict=False):
            if parameter.quantile is None and not (np.isfinite(low) and np.isfinite(high)):
                refuse("starts", f"have bounds to be drawn within for `{name}`", f"between {low:g} and {high:g}")
        kind = qmc.Sobol if self.sobol else qmc.LatinHypercube
        unit = kind(len(free), rng=generator(self.key)).random(self.starts) if free else np.zeros((self.starts, 0))
        numbers = [parameter.drawn(u)[:, None] for parameter, u in zip(free, unit.T, strict=True)]
        weights = [problem.weights.drawn(self.key, start) for start in range(self.starts)]
        return np.concatenate([*numbers, np.stack(weights)], axis=1)

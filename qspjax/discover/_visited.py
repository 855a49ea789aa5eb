"""Where the data of a fit were: the values that observed quantities take along its simulations."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qspjax._checks import ArgumentError, check_instance, check_names, check_one_of, check_whole
from qspjax._model import as_state, observe
from qspjax._names import state_names
from qspjax.fit import Problem
from qspjax.fit._types import Point

TIMES = 50
"""The number of times of each experiment."""


def visited(
    problem: Problem, x: Point, names: Sequence[str], *, points: int | None = None
) -> dict[str, Float[np.ndarray, " points"]]:
    """Return where the data were: observed values at closely spaced times of all experiments, in the range measured.

    Args:
        problem: The fitted problem.
        x: The point, on the scale of the search.
        names: States or observed values of the model.
        points: How many points, evenly taken of all; by default as many as there are measurements.

    Returns:
        By name, arrays of one length, such as `distil` takes.

    Raises:
        ValueError: If a name is nothing that the model has, or a simulation fails.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(3.0)},
        ... )
        >>> qsp.discover.visited(problem, problem.start, ["concentration"], points=3)["concentration"].round(1)
        array([10. ,  6.8,  4.5])
    """
    check_instance("problem", problem, Problem, "a Problem")
    names = check_names("names", names)
    start = as_state(problem.model, None)
    known = dict.fromkeys((*state_names(start), *observe(problem.model, 0.0, start)))
    for name in names:
        check_one_of("names", name, known, "a state or an observed value of the model")
    measured = sum(rows.value.size for rows in problem.rows)
    count = measured if points is None else points
    check_whole("points", count, 1)
    dense = problem.densely(TIMES)
    stages = dataclasses.replace(dense.layout.stages, save=names)
    observed = eqx.filter_jit(lambda x: stages.simulate(dense.pooled(x)[0]).observed)(jnp.asarray(x, float))
    times = np.concatenate([stage.ts for stage in stages.stages], axis=1)
    values = np.stack([np.asarray(observed[name])[:, : times.shape[1]] for name in names])
    kept = np.isfinite(times) & np.isfinite(values).all(axis=0)
    if not kept.any():
        raise ArgumentError("x", "must be a point at which simulations succeed, but none does.")
    chosen = values[:, kept]
    places = np.unique(np.linspace(0, chosen.shape[1] - 1, count).round().astype(int))
    return {name: column[places] for name, column in zip(names, chosen, strict=True)}

"""Bayesian inference: draws from the posterior of a problem, resumable."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qspjax._checks import check_instance
from qspjax._fingerprint import fingerprint
from qspjax._progress import Compilations, Progress
from qspjax.fit._problem import Problem
from qspjax.fit.bayes._density import Density, Start, placed
from qspjax.fit.bayes._posterior import Posterior, posterior_of
from qspjax.fit.bayes._sampler import AbstractSampler
from qspjax.fit.mixed._mixed import AbstractMixed, MixedModel
from qspjax.fit.search import _checkpoint

SAVED_EVERY = 10.0
"""Seconds between two checkpoints."""


def sample(
    problem: Problem | MixedModel,
    method: AbstractSampler,
    *,
    start: Start | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Posterior:
    """Draw from the posterior of the parameters of a problem.

    $$ p(\\theta | y) \\propto p(y | \\theta) p(\\theta) $$

    or, for a mixed-effects model, of the parameters, Omega and the random effects of all subjects together:

    $$ p(\\theta, \\Omega, \\eta | y) \\propto
       \\prod_i p(y_i | \\theta, \\eta_i) N(\\eta_i; 0, \\Omega) p(\\theta) p(\\Omega) $$

    The prior of a parameter is that of its `Free`, truncated to its bounds; without one it is uniform between the
    bounds on the scale of the search (and improper without bounds: then the posterior may be improper too). Standard
    deviations and correlations of random effects have the priors of their `RandomEffects`. All chains are simulated
    side by side, and slopes are exact, by forward sensitivities. Where a simulation fails, the density is zero.

    Args:
        problem: The model and the data: a `Problem` or a `MixedModel`.
        method: The sampler: `NUTS(key=...)` or `SMC(key=...)`.
        start: The point where chains begin: a `Fit`, a `MixedFit`, or a point on the scale of the search, shape
            (names,); by default the start of the problem.
        checkpoint: A file in which the state is saved every few seconds; if it exists already, sampling continues from
            it, with the same draws as without the interruption.
        progress: Called every few iterations; and, from another thread, where a program takes more than two seconds to
            compile.

    Returns:
        A `Posterior`.

    Raises:
        ValueError: If the start has a wrong shape, the checkpoint is that of another run, or there are priors that
            `SMC` cannot draw from.
        RuntimeError: If the density is zero at the start; the message says which simulation fails, where and why.
        ImportError: If numpyro (for `NUTS`) or blackjax (for `SMC`) is missing.

    References: Carpenter et al., J Stat Softw 2017;76:1, doi:10.18637/jss.v076.i01; Gelman et al., Bayesian workflow,
    arXiv:2011.01808.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.fit import NUTS, Additive, Experiment, Free, Measurements, Output, Problem, sample
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="concentration")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"concentration": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(3.0, prior=qsp.LogNormal(3.0, cv=0.5)), "V": Free(30.0, prior=qsp.LogNormal(30.0, cv=0.5))},
        ... )
        >>> posterior = sample(problem, NUTS(200, 200, chains=2, key=jax.random.key(0)))  # doctest: +SKIP
        >>> posterior.summary().loc["CL", ["mean", "sd"]].round(2).tolist()  # doctest: +SKIP
        [2.98, 0.08]
    """
    check_instance("problem", problem, (Problem, AbstractMixed), "a Problem or a MixedModel")
    check_instance("method", method, AbstractSampler, "a method such as NUTS(key=...)")
    began = time.perf_counter()
    density = Density(problem)
    file = None if checkpoint is None else Path(checkpoint)
    mark = "" if file is None else _mark(density, method, start)
    state = _checkpoint.loaded(file, mark, "sampling") if file is not None and file.exists() else None
    with Compilations(progress, 2) as compiling:
        compiling.begin(Progress(0, 0))
        run = method.begin(density, start)
        if state is not None:
            run.restore(state)
        saved = time.perf_counter()
        while run.going:
            compiling.begin(run.standing)
            run.advance()
            compiling.end()
            if progress is not None:
                progress(run.standing)
            if file is not None and (time.perf_counter() - saved > SAVED_EVERY or not run.going):
                _checkpoint.save(file, mark, run.state())
                saved = time.perf_counter()
    return posterior_of(density, method, run.draws(), time.perf_counter() - began)


def _mark(density: Density, method: AbstractSampler, start: Start | None) -> str:
    """Return the fingerprint of a run, of the problem, the method and the start."""
    begin = None if start is None else np.asarray(placed(density, start))
    return fingerprint(density.problem.content(), method, begin)

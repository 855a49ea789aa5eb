"""Diagnostics of a mixed-effects fit, by their usual names.

    PRED = f(0)              RES = DV - PRED
    IPRED = f(eta)           IRES = DV - IPRED          IWRES = IRES / sd
    CWRES = C^(-1/2) (DV - (f(eta) - A eta)),           C = A Omega A^T + R
    NPDE = Phi^-1 of the share of simulated measurements below the observed one, both decorrelated

Censored measurements have no residuals. For NPDE they are replaced by draws from the simulated measurements within
their bounds.

References: Hooker, Staatz and Karlsson, Pharm Res 2007;24:2187, doi:10.1007/s11095-007-9361-x; Brendel, Comets,
Laffont, Laveille and Mentre, Pharm Res 2006;23:2036, doi:10.1007/s11095-006-9067-5; with censored measurements, Nguyen,
Comets and Mentre, J Pharmacokinet Pharmacodyn 2012;39:499, doi:10.1007/s10928-012-9264-2.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtri

from qspjax._checks import refuse, warn
from qspjax._dosing._regimen import Action
from qspjax._random import check_key, generator
from qspjax._types import Key
from qspjax.fit._types import Point
from qspjax.fit.data._dependence import blocks, draws, given_earlier, residual_correlations
from qspjax.fit.data._measurements import together
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.errors._location_scale import AbstractLocationScale
from qspjax.fit.mixed._conditional import predictors_of
from qspjax.fit.mixed._mixed import AbstractMixed, MixedModel
from qspjax.fit.mixed._mixture import Mixture
from qspjax.fit.search._search import quickly_compiled

LANES = 16_384
"""Simulations that run side by side."""


class _Linearised(NamedTuple):
    """The measurements of an output, linear in the random effects about those of each subject.

    Attributes:
        distance: Their distances from what is expected, on the scale of the errors.
        slope: The slopes of their locations in the random effects.
        sd: Their standard deviations.
        correlations: The correlation of their residuals, laid out as in its block; none if they are independent.
    """

    distance: Float[Array | np.ndarray, " rows"]
    slope: Float[Array | np.ndarray, "rows effects"]
    sd: Float[Array | np.ndarray, " rows"]
    correlations: Sequence[Float[Array | np.ndarray, "experiments cells cells"]]


class _Terms(NamedTuple):
    """The predictions of an output.

    Attributes:
        pred: Those of the typical subject.
        ipred: Those of each subject.
        iwres: The individual weighted residuals.
        linearised: What CWRES are made of, None for an error model without a standard deviation.
    """

    pred: Float[Array | np.ndarray, " rows"]
    ipred: Float[Array | np.ndarray, " rows"]
    iwres: Float[Array | np.ndarray, " rows"]
    linearised: _Linearised | None


@runtime_checkable
class Fitted(Protocol):
    """What diagnostics use of a fit: a `MixedFit`."""

    @property
    def mixed(self) -> AbstractMixed: ...

    @property
    def placed(self) -> MixedModel: ...

    @property
    def x(self) -> np.ndarray: ...

    @property
    def u(self) -> np.ndarray: ...

    @property
    def kept(self) -> np.ndarray: ...

    @property
    def etas(self) -> np.ndarray: ...


def diagnostics(fit: Fitted, *, replicates: int = 0, key: Key | None = None) -> dict[str, np.ndarray]:
    """Return every measurement with its predictions and residuals, as columns.

    Args:
        fit: The fit.
        replicates: How many data sets are simulated for NPDE; without any there is no such column.
        key: `jax.random.key(seed)`, which replicates need.

    Returns:
        ID, OUTPUT, TIME, TAD (time after dose), DV, CENSORED, PRED, IPRED, RES, IRES, IWRES, CWRES, NPDE, and ETA of
        every random effect. Residuals of censored measurements are NaN, except NPDE; so are all those of subjects
        that were left out.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import FO, Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects, nlme
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="c")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"c": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(2.8)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> table = diagnostics(nlme(mixed, method=FO(), iterations=0))
        >>> table["IPRED"].shape, table["ID"][0]
        ((12,), '0')
    """
    mixed = fit.placed
    program = mixed.program("diagnostics", lambda: quickly_compiled(partial(_terms, mixed), short=True))
    terms_of_outputs: list[_Terms] = jax.tree.map(np.asarray, program(jnp.asarray(fit.x), jnp.asarray(fit.u)))
    samples = simulated(fit.mixed, fit.x, key=check_key(key), replicates=replicates) if replicates else None
    parts = []
    for k, (rows, terms) in enumerate(zip(mixed.rows, terms_of_outputs, strict=True)):
        part = {
            "ID": np.array(mixed.subject_names, dtype=object)[rows.experiment],
            "OUTPUT": np.full(rows.value.size, rows.name, dtype=object),
            "TIME": rows.time,
            "TAD": _after_dose(mixed, rows),
            "DV": rows.value,
            "CENSORED": rows.censored,
            "PRED": terms.pred,
            "IPRED": terms.ipred,
            "RES": rows.value - terms.pred,
            "IRES": rows.value - terms.ipred,
            "IWRES": terms.iwres,
            "CWRES": _conditional_residuals(rows, terms.linearised),
        }
        if samples is not None:
            part["NPDE"] = np.where(fit.kept[rows.experiment], _npde(rows, samples[k], check_key(key)), np.nan)
            _warn_of_failures(fit, rows, samples[k])
        without_residual = rows.censored | ~fit.kept[rows.experiment]
        for name in ("RES", "IRES", "IWRES", "CWRES"):
            part[name] = np.where(without_residual, np.nan, part[name])
        etas = fit.etas[rows.experiment]
        parts.append(part | {f"ETA_{name}": etas[:, i] for i, name in enumerate(mixed.effects)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def simulated(mixed: AbstractMixed, x: Point, *, key: Key, replicates: int) -> list[np.ndarray]:
    """Return measurements of new subjects with the doses, times and covariates of those in the data.

    Args:
        mixed: The model and the design.
        x: The point, on the scale of the search.
        key: `jax.random.key(seed)`.
        replicates: The number of data sets.

    Returns:
        Output by output, shape (replicates, measurements).

    Example:
        >>> import jax, numpy as np, qspjax as qsp
        >>> from qspjax.fit import FO, Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects
        >>> times = np.array([1.0, 4.0, 8.0])
        >>> def subject(CL):
        ...     data = Measurements(times, 10.0 * np.exp(-CL / 30.0 * times), output="c")
        ...     return Experiment(data, qsp.bolus(300.0, to="central"))
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {f"{i}": subject(CL) for i, CL in enumerate([2.0, 2.5, 3.1, 3.9])},
        ...     {"c": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(2.8)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> (samples,) = simulated(mixed, mixed.start, key=jax.random.key(0), replicates=5)
        >>> samples.shape
        (5, 12)
    """
    check_key(key)
    copies = mixed.copies

    def replicate(x: Array, key: Array) -> list[Array]:
        for_effects, for_noise = jax.random.split(key)
        u = jax.random.normal(for_effects, (copies.count, len(copies.effects)))
        predictors = predictors_of(copies, x, u, copies.expanded(x, u, 0), None)
        return draws(copies.rows, for_noise, predictors)

    program = copies.program("simulated", lambda: quickly_compiled(jax.vmap(replicate, in_axes=(None, 0))))
    chunk = min(max(1, LANES // copies.count), replicates)
    keys = jax.random.split(key, replicates + -replicates % chunk)
    parts = [program(jnp.asarray(x, float), keys[k : k + chunk]) for k in range(0, replicates, chunk)]
    samples = [np.concatenate([np.asarray(part[k]) for part in parts])[:replicates] for k in range(len(copies.rows))]
    return mixed.drawn(x, samples, key) if isinstance(mixed, Mixture) else samples


def curves(fit: Fitted, *, points: int = 100) -> dict[str, np.ndarray]:
    """Return population and individual predictions at closely spaced times, as columns: the lines of individual fits.

    Args:
        fit: The fit, not that of a mixture.
        points: The number of times for each subject and output.

    Returns:
        ID, OUTPUT, TIME, PRED and IPRED.

    Raises:
        ValueError: If the fit is that of a mixture.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import FO, Additive, Experiment, Free, Measurements, MixedModel, Output, RandomEffects, nlme
        >>> data = Measurements([1.0, 4.0], [9.1, 6.6], output="c")
        >>> mixed = MixedModel(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     {name: Experiment(data, qsp.bolus(300.0, to="central")) for name in ("1", "2")},
        ...     {"c": Output("concentration", Additive(0.2))},
        ...     parameters={"tCL": Free(2.8)},
        ...     individual={"CL": "tCL * exp(eta_CL)"},
        ...     random=[RandomEffects({"eta_CL": 0.1})],
        ... )
        >>> table = curves(nlme(mixed, method=FO(), iterations=0), points=3)
        >>> table["TIME"].tolist(), table["PRED"][:3].round(2)
        ([0.0, 2.0, 4.0, 0.0, 2.0, 4.0], array([10.  ,  8.3 ,  6.88]))
    """
    if isinstance(fit.mixed, Mixture):
        refuse("fit", "be that of a mixed-effects model without subpopulations", "that of a Mixture")
    dense = fit.placed.closely(points)

    def predicted(x: Array, u: Array) -> list[Array]:
        return [prediction for prediction, _ in dense.predicted(x, u, dense.expanded(x, u, 0))]

    program = quickly_compiled(predicted, short=True)
    u = jnp.asarray(fit.u)
    typical, individual = program(jnp.asarray(fit.x), jnp.zeros_like(u)), program(jnp.asarray(fit.x), u)
    parts = [
        {
            "ID": np.array(dense.subject_names, dtype=object)[rows.experiment],
            "OUTPUT": np.full(rows.value.size, rows.name, dtype=object),
            "TIME": rows.time,
            "PRED": np.asarray(pred),
            "IPRED": np.asarray(ipred),
        }
        for rows, pred, ipred in zip(dense.rows, typical, individual, strict=True)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _terms(mixed: MixedModel, x: Array, u: Array) -> list[_Terms]:
    """Return, output by output, predictions and the terms of the conditional residuals."""
    zero = jnp.zeros_like(u)
    typical = mixed.predicted(x, zero, mixed.expanded(x, zero, 0))
    expansion = mixed.expanded(x, u, 1)

    def along(direction: Array) -> tuple:
        tangent = jnp.broadcast_to(direction, u.shape)
        return jax.jvp(lambda u: mixed.predicted(x, u, expansion), (u,), (tangent,))

    individual, derivatives = jax.vmap(along, out_axes=(None, 0))(jnp.eye(u.shape[1]))
    terms = []
    conditional = given_earlier(mixed.rows, [predictors for _, predictors in individual])
    parts = zip(mixed.rows, typical, individual, conditional, derivatives, strict=True)
    for rows, (pred, _), (ipred, predictors), conditioned, (_, slopes) in parts:
        error, linearised = rows.output.error, None
        if isinstance(error, AbstractLocationScale):
            # about the location, on the scale of the errors
            expected = predictors[0] - jnp.einsum("er,re->r", slopes[0], u[rows.experiment])
            distance = error.transformed(rows.value, predictors[2:]) - expected
            correlations = residual_correlations(rows, predictors)
            linearised = _Linearised(distance, slopes[0].T, jnp.exp(predictors[1]), correlations)
        terms.append(_Terms(pred, ipred, rows.residual(conditioned), linearised))
    return terms


def _conditional_residuals(rows: OutputData, terms: _Linearised | None) -> np.ndarray:
    """Return CWRES, NaN for an error model without a standard deviation."""
    residuals = np.full(rows.value.size, np.nan)
    if terms is None:
        return residuals
    for subject in np.unique(rows.experiment):
        indices = np.flatnonzero((rows.experiment == subject) & ~rows.censored)
        R = np.eye(indices.size)
        for block, correlation in zip(blocks([rows]), terms.correlations, strict=True):
            block_index = np.searchsorted(block.experiments, subject)
            indices = block.row[block_index][block.filled[block_index]]
            R = correlation[block_index][: indices.size, : indices.size]
        A, sd = terms.slope[indices], terms.sd[indices]
        C = A @ A.T + R * np.outer(sd, sd)
        if np.isfinite(C).all():
            values, vectors = np.linalg.eigh(C)
            root = vectors / np.sqrt(values) @ vectors.T
            residuals[indices] = root @ terms.distance[indices]
    return residuals


def _npde(rows: OutputData, samples: np.ndarray, key: Key) -> np.ndarray:
    """Return normalised prediction distribution errors of one output."""
    errors, rng = np.full(rows.value.size, np.nan), generator(key)
    for subject in np.unique(rows.experiment):
        indices = np.flatnonzero(rows.experiment == subject)
        replicates = samples[:, indices]
        replicates = replicates[np.isfinite(replicates).all(axis=1)]
        if len(replicates) <= indices.size:
            continue
        mean = replicates.mean(axis=0)
        factor = np.linalg.cholesky(np.cov(replicates, rowvar=False).reshape(indices.size, indices.size))
        value = rows.value[indices]
        for j in np.flatnonzero(rows.censored[indices]):
            shares = [(replicates[:, j] < bound[indices[j]]).mean() for bound in (rows.lower, rows.upper)]
            value[j] = np.quantile(replicates[:, j], rng.uniform(*shares))
        residual = np.linalg.solve(factor, value - mean)
        residuals = np.linalg.solve(factor, (replicates - mean).T)
        share = (residuals < residual[:, None]).mean(axis=1)
        errors[indices] = ndtri(np.clip(share, 0.5 / len(replicates), 1.0 - 0.5 / len(replicates)))
    return errors


def _warn_of_failures(fit: Fitted, rows: OutputData, samples: np.ndarray) -> None:
    """Warn of subjects whose simulations failed, or which have too few for NPDE."""
    lines = []
    for subject in np.unique(rows.experiment[fit.kept[rows.experiment]]):
        of_subject = rows.experiment == subject
        failed = int((~np.isfinite(samples[:, of_subject])).any(axis=1).sum())
        if failed or len(samples) <= of_subject.sum():
            lines.append(f"`{fit.mixed.subject_names[subject]}` ({failed} of {len(samples)} failed)")
    if lines:
        message = f"NPDE of `{rows.name}` leave out simulations that failed, and are NaN where too few are left"
        warn(f"{message}: {', '.join(lines)}.")


def _after_dose(mixed: MixedModel, rows: OutputData) -> np.ndarray:
    """Return the time after the last dose, NaN before the first and after a reset."""
    elapsed = np.full(rows.time.size, np.nan)
    for number, experiment in enumerate(mixed.experiments.values()):
        kind, action_time, order = (
            np.asarray(column)
            for column in (experiment.regimen.kind, experiment.regimen.time, experiment.regimen.order)
        )
        indices = np.flatnonzero(rows.experiment == number)
        time, row_order = rows.time[indices, None], rows.order[indices, None]
        before = np.where(together(action_time, time), order <= row_order, action_time < time)
        last, reset = (
            np.max(np.where(before & which, action_time, -np.inf), axis=1, initial=-np.inf)
            for which in (kind < Action.RESET, kind == Action.RESET)
        )
        dosed = np.isfinite(last) & (last >= reset)
        elapsed[indices[dosed]] = np.maximum(rows.time[indices] - last, 0.0)[dosed]
    return elapsed

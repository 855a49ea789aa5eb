"""How an endpoint depends on one parameter while everything else of each patient stays as it is."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qspjax._checks import ArgumentError, check_instance, check_whole, described, refuse
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._extras import require
from qspjax._names import at
from qspjax._simulate import simulate_cohort
from qspjax._types import ArrayInput
from qspjax.execute import AbstractExecutor
from qspjax.population._do import do
from qspjax.population._endpoints import AbstractEndpoint
from qspjax.population._survival import weights_of
from qspjax.population._trial import Endpoints
from qspjax.solve import AbstractMethod

if TYPE_CHECKING:
    import pandas

_WITHIN = (0.05, 0.95)
"""Values go by default between these quantiles of the patients' own."""


class PartialDependence(eqx.Module):
    """An endpoint over the values of one parameter, of each patient and on average.

    Attributes:
        name: The parameter.
        values: The values that it was set to, shape (values,).
        individual: The endpoint of each patient there, shape (values, patients); NaN for those who failed anywhere.
        mean: The mean over patients, shape (values,).
        own: The patients' own values of the parameter, shape (patients,).

    Example:
        >>> import qspjax as qsp
        >>> cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [20.0, 25.0, 40.0]})
        >>> dose, peak = qsp.bolus(100.0, to="central"), qsp.endpoints.Value("concentration", at=0.0)
        >>> qsp.population.partial_dependence(cohort, dose, [0.0], name="V", endpoint=peak, values=[20.0, 50.0]).mean
        array([5., 2.])
    """

    name: str = eqx.field(static=True)
    values: Float[np.ndarray, " values"]
    individual: Float[np.ndarray, "values patients"]
    mean: Float[np.ndarray, " values"]
    own: Float[np.ndarray, " patients"]

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per value: the mean, and the 5 and 95 % quantiles of the patients."""
        low, high = np.nanquantile(self.individual, _WITHIN, axis=1)
        columns = {self.name: self.values, "mean": self.mean, "low": low, "high": high}
        return require("pandas", extra="data").DataFrame(columns)


def partial_dependence(
    cohort: Cohort,
    regimen: Regimen,
    ts: ArrayInput,
    *,
    name: str,
    endpoint: AbstractEndpoint,
    values: ArrayInput | None = None,
    points: int = 9,
    weights: ArrayInput | None = None,
    method: AbstractMethod | None = None,
    executor: AbstractExecutor | None = None,
) -> PartialDependence:
    """Return an endpoint over the values of a parameter, to which it is set in every patient.

    With f the endpoint of a patient whose other parameters are x_i, the mean is

    $$ PD(v) = \\sum_i w_i f(do(x_k = v), x_i) / \\sum_i w_i $$

    It is an intervention in the model, not a regression on simulated data, so that correlated parameters do not
    confound it; where the curves of patients are not parallel, others of their parameters matter for the effect.

    Args:
        cohort: The patients.
        regimen: The doses, the same for all or with a row for each patient.
        ts: Times at which the endpoint sees the trajectory, shape (times,).
        name: The parameter.
        endpoint: The endpoint.
        values: What the parameter is set to, shape (values,); by default between the 5 and 95 % quantiles of the
            patients' own.
        points: How many values there are by default.
        weights: Weights of the patients; only their ratios matter.
        method: How to solve.
        executor: Where to compute.

    Raises:
        ValueError: If there is no such parameter, or all patients have the same value and none are given.

    References: Friedman, Ann Stat 2001;29:1189, doi:10.1214/aos/1013203451; Goldstein et al., J Comput Graph Stat
    2015;24:44, doi:10.1080/10618600.2014.907095 (individual curves).

    Example:
        >>> import jax, qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0), between={"CL": qsp.LogNormal(cv=0.3)}
        ... )
        >>> cohort = population.sample(key=jax.random.key(0), size=50)
        >>> trough = qsp.endpoints.Value("concentration", at=24.0)
        >>> found = partial_dependence(cohort, qsp.bolus(100.0, to="central"), [24.0], name="CL", endpoint=trough)
        >>> found.values.shape, bool((np.diff(found.mean) < 0.0).all())
        ((9,), True)
    """
    check_instance("cohort", cohort, Cohort, "a cohort")
    check_instance("endpoint", endpoint, AbstractEndpoint, "an endpoint")
    own = np.broadcast_to(np.asarray(at(cohort.model, name).get(), float), (cohort.size,))
    heavy = weights_of(weights, cohort.size)
    if values is None:
        check_whole("points", points, 2)
        low, high = np.quantile(own, _WITHIN)
        if low == high:
            raise ArgumentError("values", f"must be given, since all patients have the same `{name}`.")
        places = np.linspace(low, high, points)
    else:
        places = np.asarray(values, float)
        if places.ndim != 1 or not places.size or not np.isfinite(places).all():
            refuse("values", "be finite numbers of shape (values,)", described(values))
    varying = do(cohort, **{name: jnp.asarray(own)})  # one program for all values
    rows = []
    for place in places:
        solution = simulate_cohort(
            do(varying, **{name: place}),
            regimen,
            ts,
            save=(),
            reduce=Endpoints(("endpoint",), (endpoint,)),
            method=method,
            executor=executor,
        )
        rows.append(np.asarray(solution.reduced["endpoint"], float))
    individual = np.stack(rows)
    known = ~np.isnan(individual).any(axis=0)
    individual = np.where(known, individual, np.nan)
    total = heavy[known].sum()
    mean = individual[:, known] @ heavy[known] / total if total else np.full(places.shape, np.nan)
    return PartialDependence(name, places, individual, mean, own)

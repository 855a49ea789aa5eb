"""The baseline of a chronic disease: the steady state that a patient reaches without doses."""

from qspjax._baseline import AbstractBaseline, Baselines, or_nothing
from qspjax._model import AbstractModel
from qspjax._solution import RESULTS
from qspjax.equilibrium._steady_state import steady_state
from qspjax.solve import AbstractMethod


class SteadyState(AbstractBaseline):
    """The steady state that a patient reaches from the initial state of the model without doses.

    $$ f(y; p) = 0 $$

    It is differentiated implicitly, and conserved totals stay those of the initial state (see `steady_state`). It must
    be stable: a patient fails if an eigenvalue of the Jacobian, those of conserved totals left out, has a positive real
    part, as at a saddle, or in health where the smallest tumour would grow.

    Example:
        >>> import qspjax as qsp
        >>> response = qsp.io.read_antimony("-> R; kin; R ->; kout*R; R = 1; kin = 6; kout = 2")
        >>> cohort = qsp.Cohort.of(response, {"kin": [6.0, 8.0]})
        >>> qsp.population.baselines(cohort, qsp.equilibrium.SteadyState()).state["R"].round(6)
        Array([3., 4.], dtype=float64)
    """

    def of(self, model: AbstractModel, *, method: AbstractMethod | None = None) -> Baselines:
        found = steady_state(model, method=method, throw=False)
        result = RESULTS.where(found.rightmost > 0.0, RESULTS.unstable, found.result)
        stats = {"last_time": found.time, "culprit": found.culprit}
        return or_nothing(Baselines(found.state, found.time, found.rightmost, result, stats), model)

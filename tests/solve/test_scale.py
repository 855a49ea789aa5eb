"""States that are multiplied by a number at a time, against a closed form with its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from tests.systems.marks import slow_for

TS = np.array([1.0, 2.5, 3.0, 5.0, 7.5, 12.0])
X = jnp.asarray([3.0, 100.0, 0.3, 2.5, 4.0, 0.6])  # CL, amount, by, at, interval, of the depot
TLAG, F, V, KA = 0.5, 0.8, 20.0, 1.1
METHODS = {
    "MatrixExponential": qsp.solve.MatrixExponential(),
    "Rosenbrock": qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-11),
    "Explicit": qsp.solve.Explicit(rtol=1e-9, atol=1e-11),
    "Diffrax": qsp.solve.Diffrax(rtol=1e-9, atol=1e-11),
}


def patient(CL):
    return qsp.models.OneCompartmentOral(CL=CL, V=V, ka=KA, tlag=TLAG, F=F)


def regimen(x):
    exchanges = qsp.scale("central", by=x[2], at=x[3]).every(x[4], doses=2)
    return qsp.bolus(x[1], to="depot") + exchanges + qsp.scale("depot", by=x[5], at=x[3])


def concentration(x):
    """From change to change, each state a sum of exponentials; what is scaled is neither late nor lost."""
    CL, amount, by, at, interval, depot = x
    k = CL / V
    time, y, rows = TLAG, (F * amount, 0.0), []
    changes = [(TLAG, 1.0, 1.0), (at, by, depot), (at + interval, by, 1.0), (jnp.inf, 1.0, 1.0)]

    def after(h, d, c):
        return d * jnp.exp(-KA * h), c * jnp.exp(-k * h) + d * KA / (KA - k) * (jnp.exp(-k * h) - jnp.exp(-KA * h))

    for (begin, of_central, of_depot), (end, *_) in zip(changes[:-1], changes[1:], strict=True):
        d, c = after(begin - time, *y)
        time, y = begin, (d * of_depot, c * of_central)
        inside = (begin <= TS) & (end > TS)
        rows.append(jnp.where(inside, after(jnp.where(inside, TS - begin, 0.0), *y)[1] / V, 0.0))
    return sum(rows)


@pytest.mark.parametrize("method", slow_for(METHODS, "MatrixExponential", "Explicit", "Diffrax"))
def test_values_and_derivatives_are_those_of_the_closed_form(method):
    def simulated(x):
        solution = qsp.simulate(patient(x[0]), regimen(x), TS, method=METHODS[method])
        return solution.observed["concentration"]

    value, push = jax.linearize(simulated, X)
    np.testing.assert_allclose(value, concentration(X), rtol=1e-7)
    slopes = jax.jacfwd(concentration)(X)
    assert np.abs(slopes[2:, 2:]).max(axis=0).min() > 1e-3  # all of them matter
    np.testing.assert_allclose(jax.vmap(push)(jnp.eye(X.size)).T, slopes, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(simulated)(X), slopes, rtol=1e-6, atol=1e-8)


def test_every_patient_of_a_cohort_has_a_factor_and_a_time():
    x = jnp.stack([X, X * jnp.asarray([1.3, 1.0, 0.5, 1.1, 1.2, 0.0]), X.at[2].set(0.0)])
    cohort = qsp.Cohort.of(patient(3.0), {"CL": x[:, 0]})
    for method in (None, qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-11)):
        observed = qsp.simulate_cohort(cohort, regimen(x.T), TS, method=method).observed["concentration"]
        np.testing.assert_allclose(observed, jax.vmap(concentration)(x), rtol=1e-7, atol=1e-12)


def test_the_derivative_with_respect_to_a_factor_of_zero_is_what_was_there():
    zero = X.at[2].set(0.0)

    def simulated(by):
        x = zero.at[2].set(by)
        return qsp.simulate(patient(x[0]), regimen(x), TS).observed["concentration"]

    slopes = jax.jacfwd(concentration)(zero)[:, 2]
    np.testing.assert_allclose(jax.jacfwd(simulated)(0.0), slopes, rtol=1e-9, atol=1e-12)


def test_rows_of_one_time_act_in_their_order():
    model, half, dose = patient(3.0), qsp.scale(2, by=0.5, at=1.0), qsp.bolus(40.0, to="central", at=1.0)

    def amount(doses):
        return float(qsp.simulate(model, doses, [1.0]).states.central[0])

    assert amount(dose + half) == pytest.approx(20.0)
    assert amount(half + dose) == pytest.approx(40.0)
    assert amount(dose + half + qsp.reset(at=1.0)) == 0.0
    assert str(dose + half).splitlines() == ["at 1: 40 to central", "at 1: 2 *= 0.5"]


def test_infusions_go_on():
    doses = qsp.infusion(60.0, to="central", over=10.0) + qsp.scale("central", by=0.0, at=5.0)
    found = qsp.simulate(patient(0.0001), doses, [5.0, 7.0]).states.central
    np.testing.assert_allclose(found, [0.0, 12.0], rtol=1e-4)


class Fast(qsp.AbstractAlgebraic):
    def initial(self):
        return {"x": 1.0, "z": 1.0}

    def vector_field(self, t, y):
        return {"x": -y["z"], "z": y["z"] - y["x"]}

    def observe(self, t, y):
        return dict(y)

    def algebraic(self):
        return ("z",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: qsp.scale("central", by=-0.1, at=0.0), r"Argument `by` must be at least 0, but is -0\.1\."),
        (lambda: qsp.scale("central", by=0.5, at=jnp.inf), r"Argument `at` must be finite, but is inf\."),
        (lambda: qsp.scale("central", by="half", at=0.0), "Argument `by` must be a number"),
        (lambda: qsp.scale(1.5, by=0.5, at=0.0), r"Argument `state` must be the name of a state or its number"),
        (
            lambda: qsp.simulate(patient(3.0), qsp.scale("gut", by=0.5, at=0.0), [1.0]),
            r"Argument `state` must name a state of the model \(depot, central\), but is `gut`\.",
        ),
        (
            lambda: qsp.simulate(Fast(), qsp.scale("z", by=0.5, at=0.0), [1.0]),
            "must scale states that are not algebraic, but is one that scales `z`",
        ),
        (
            lambda: qsp.simulate(Fast(), qsp.scale(1, by=0.5, at=0.0), [1.0]),
            "Argument `state` must be a name for a model whose state is a dict, which has no order, but is 1",
        ),
        (
            lambda: qsp.scale("central", by=0.5, at=0.0).every(2.0, doses=3).at_steady_state(),
            "Only doses, repeated with `every`, can be at steady state",
        ),
        (
            lambda: qsp.io.NonmemData.of(qsp.bolus(1.0, to="depot") + qsp.scale("central", by=0.5, at=1.0), [2.0]),
            r"Argument `regimen` must have doses and resets only, .* but is one with a scaling of `central`\.",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_with_delays_is_refused():
    network = qsp.models.Network(initial={"x": 1.0}, rates={"x": "-x"}, rules={"y": "delay(x, 0.7)"})
    with pytest.raises(ValueError, match="must scale no state of a model with delays, but is one that scales `x`"):
        qsp.simulate(network, qsp.scale("x", by=0.5, at=1.0), [2.0])

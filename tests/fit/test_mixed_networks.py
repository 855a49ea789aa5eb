"""Networks in mixed-effects models: their weights in points, the gradient, fits, and what a fit does with them."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    FOCEI,
    SAEM,
    Experiment,
    Free,
    ImportanceSampling,
    Measurements,
    MixedModel,
    Output,
    Proportional,
    Quadrature,
    RandomEffects,
    Weights,
    load,
    marginal,
    nlme,
    save,
    visual_predictive_check,
)
from qspjax.fit.mixed._integrated import sloped
from qspjax.fit.search._search import quickly_compiled

TIMES = np.array([0.5, 2.0, 6.0, 12.0])


class Learned(qsp.AbstractModel):
    """One compartment whose clearance is a network of the concentration."""

    V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
    scale: jax.Array = qsp.parameter(unit="1", doc="relative clearance")
    clearance: eqx.nn.MLP

    def initial(self):
        return {"central": 0.0}

    def vector_field(self, t, y):
        concentration = y["central"] / self.V
        return {"central": -self.scale * 4.0 * jax.nn.softplus(self.clearance(concentration / 10.0)) * concentration}

    def observe(self, t, y):
        return {"concentration": y["central"] / self.V}


class Power(qsp.models.AbstractTerm):
    """(x / 70)^exponent."""

    exponent: jax.Array
    inputs: int = eqx.field(static=True, default=1)

    def __call__(self, x):
        return (x / 70.0) ** self.exponent


def subjects(count=6, weight=False):
    """Simulated subjects of a linear model with a clearance of 3 L/h and a volume of 20 L."""
    random = np.random.default_rng(3)
    made = {}
    for i in range(count):
        size = 70.0 * np.exp(0.3 * random.normal())
        eta_cl, eta_v = 0.3 * random.normal(), 0.2 * random.normal()
        rate = 3.0 / 20.0 * np.exp(eta_cl - eta_v) * (size / 70.0) ** (0.75 * weight)
        dose = (60.0, 200.0)[i % 2]
        values = dose / (20.0 * np.exp(eta_v)) * np.exp(-rate * TIMES) * (1.0 + 0.1 * random.normal(size=TIMES.size))
        data = Measurements(TIMES, values, output="concentration")
        made[f"{i}"] = Experiment(data, qsp.bolus(dose, to="central"), **({"set": {"WT": size}} if weight else {}))
    return made


def deep(width=3, *, prior=1.0, method=None, **changes):
    network = eqx.nn.MLP("scalar", "scalar", width, 1, activation=jax.nn.tanh, key=jax.random.key(0))
    settings = {
        "parameters": {
            "clearance": Weights(prior=qsp.Normal(0.0, sd=prior)),
            "tV": Free(25.0),
            "b": Free(0.15),
        },
        "individual": {"V": "tV * exp(eta_V)", "scale": "exp(eta_CL)"},
        "random": [RandomEffects({"eta_V": 0.1}), RandomEffects({"eta_CL": 0.1})],
        "method": method,
    }
    outputs = {"concentration": Output("concentration", Proportional("b"))}
    return MixedModel(Learned(V=20.0, scale=1.0, clearance=network), subjects(), outputs, **(settings | changes))


def allometric(**changes):
    settings = {
        "parameters": {"tCL": Free(2.0), "tV": Free(25.0), "b": Free(0.15)},
        "individual": {"CL": "tCL * f(WT) * exp(eta_CL)", "V": "tV * exp(eta_V)"},
        "random": [RandomEffects({"eta_CL": 0.1}), RandomEffects({"eta_V": 0.1})],
    }
    model, outputs = qsp.models.OneCompartment(CL=3.0, V=20.0), {"c": Output("concentration", Proportional("b"))}
    people = {name: person for name, person in subjects(12, weight=True).items()}
    outputs = {"concentration": outputs["c"]}
    return MixedModel(model, people, outputs, **(settings | changes))


@pytest.fixture(scope="module")
def fitted():
    return nlme(deep(), method=Quadrature(3), iterations=25, tolerance=1e-2)


def test_a_point_is_numbers_then_omega_then_weights():
    mixed = deep()
    assert mixed.names[:5] == ("tV", "b", "var(eta_V)", "var(eta_CL)", "clearance.layers[0].weight[0]")
    size = 4 + 10
    assert (
        len(mixed.names) == mixed.start.size == mixed.natural(mixed.start).size == len(mixed.scales(mixed.start)) == 14
    )
    assert all(edge.size == size for edge in mixed.bounds)
    np.testing.assert_allclose(mixed.natural(mixed.start)[:4], [25.0, 0.15, 0.1, 0.1], rtol=1e-12)
    weights = mixed.start[4:]
    np.testing.assert_array_equal(mixed.networks(mixed.start)["clearance"].layers[0].bias, weights[3:6])
    log_prior, slope, bend = mixed.prior(mixed.start)
    np.testing.assert_allclose(log_prior, np.sum(-0.5 * weights**2 - 0.5 * np.log(2.0 * np.pi)))
    np.testing.assert_allclose(slope, [0.0] * 4 + [*-weights], atol=1e-12)
    np.testing.assert_allclose(bend, np.diag([0.0] * 4 + [-1.0] * 10), atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    mixed = deep(2, method=qsp.solve.Rosenbrock(rtol=1e-9, atol=1e-11))
    z, logs = Quadrature(3).points(2)
    u, kept = np.zeros((mixed.count, 2)), np.ones(mixed.count, bool)
    spread = np.broadcast_to(0.3 * np.eye(2), (mixed.count, 2, 2))
    program = quickly_compiled(partial(sloped, mixed), short=True)

    def at(x):
        return program(x, u, spread, kept, z, logs)

    here, random = at(mixed.start), np.random.default_rng(0)
    for direction in (np.eye(mixed.start.size)[4], random.normal(size=mixed.start.size) / 5.0):
        ahead, behind = (float(at(mixed.start + h * direction).values.sum()) for h in (1e-4, -1e-4))
        size = float(np.linalg.norm(here.slope) * np.linalg.norm(direction))
        assert abs((ahead - behind) / 2e-4 - float(here.slope @ direction)) < 1e-5 * size


def test_a_fit_learns_a_clearance_and_says_so(fitted):
    assert fitted.objective < fitted.history[0] - 20.0
    assert list(fitted.parameters) == ["tV", "b", "var(eta_V)", "var(eta_CL)"]
    assert "clearance: 10 weights" in str(fitted)
    learned = 4.0 * jax.nn.softplus(fitted.networks["clearance"](jnp.asarray(0.4)))
    assert 2.0 < float(learned) < 4.5  # 3 L/h with effects of six subjects
    # the same integral by the function that evaluates others
    prior = float(fitted.mixed.log_prior(fitted.x))
    evaluated = marginal(fitted.mixed, fitted.x, Quadrature(7)).objective
    assert abs(fitted.objective + 2.0 * prior - evaluated) < 1.0


def test_a_fit_is_saved_and_used(fitted, tmp_path):
    save(tmp_path / "fit", fitted)
    again = load(tmp_path / "fit", deep())
    np.testing.assert_array_equal(again.x, fitted.x)
    assert repr(again.method) == "Quadrature(size=3)"
    population = fitted.population()
    network = population.model.clearance
    np.testing.assert_array_equal(network.layers[0].weight, fitted.networks["clearance"].layers[0].weight)
    check = visual_predictive_check(fitted, key=jax.random.key(0), replicates=20)
    assert (check["LOWER"] <= check["UPPER"]).all()
    table = fitted.individuals()
    np.testing.assert_allclose(table["scale"], np.exp(table["ETA_eta_CL"]))


@pytest.mark.slow
def test_an_estimation_is_resumed(tmp_path):
    mixed, file = deep(2), tmp_path / "state"
    whole = nlme(mixed, method=Quadrature(3), iterations=4)
    nlme(mixed, method=Quadrature(3), iterations=2, checkpoint=file)
    resumed = nlme(mixed, method=Quadrature(3), iterations=4, checkpoint=file)
    np.testing.assert_allclose(resumed.x, whole.x, rtol=1e-6)


@pytest.mark.slow
def test_a_function_in_a_formula_is_fitted_as_its_parameter_is():
    term = Power(jnp.asarray(0.3))
    learned = allometric(
        functions={"f": term},
        parameters={"tCL": Free(2.0), "tV": Free(25.0), "b": Free(0.15), "f": Weights()},
    )
    plain = allometric(
        parameters={"tCL": Free(2.0), "tV": Free(25.0), "b": Free(0.15), "k": Free(0.3, bounds=(-3.0, 3.0))},
        individual={"CL": "tCL * (WT / 70)^k * exp(eta_CL)", "V": "tV * exp(eta_V)"},
    )
    first = nlme(learned, method=Quadrature(3), tolerance=1e-4)
    second = nlme(plain, method=Quadrature(3), tolerance=1e-4)
    np.testing.assert_allclose(first.objective, second.objective, atol=1e-2)
    np.testing.assert_allclose(first.networks["f"].exponent, second.parameters["k"], atol=2e-2)
    cohort = first.population().sample(key=jax.random.key(0), size=4)
    exact = first.parameters["tCL"] * (cohort.covariates["WT"] / 70.0) ** first.networks["f"].exponent
    assert np.isfinite(np.log(cohort.model.CL / exact)).all()
    np.testing.assert_allclose(first.individuals()["CL"], second.individuals()["CL"], rtol=1e-2)


def test_a_function_may_be_fixed():
    mixed = allometric(functions={"f": Power(jnp.asarray(0.75))})
    plain = allometric(individual={"CL": "tCL * (WT / 70)^0.75 * exp(eta_CL)", "V": "tV * exp(eta_V)"})
    u = np.zeros((12, 2))
    np.testing.assert_allclose(mixed.pooled(mixed.start, u)[0][3:], plain.pooled(plain.start, u)[0][3:])


@pytest.mark.parametrize("method", [FOCEI(), SAEM(key=jax.random.key(0))])
def test_methods_for_numbers_say_which_take_weights(method):
    must = r"must be Quadrature\(5\) or ImportanceSampling\(256, key=...\) for the weights of `clearance`, but is "
    with pytest.raises(ValueError, match=must + type(method).__name__):
        nlme(deep(), method=method)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 3 points for each effect"):
        nlme(deep(), method=Quadrature(1))
    with pytest.raises(ValueError, match="but `clearence` is none. Did you mean `clearance`?"):
        deep(parameters={"clearence": Weights(), "tV": Free(25.0), "b": 0.1})
    with pytest.raises(ValueError, match="must be called by formulas of `individual`, but none calls `f`"):
        deep(functions={"f": Power(jnp.asarray(1.0))})
    with pytest.raises(ValueError, match=r"`CL` must call `f` with 1 inputs, but calls `f\(WT, eta_CL\)`"):
        allometric(functions={"f": Power(jnp.asarray(1.0))}, individual={"CL": "tCL * f(WT, eta_CL)", "V": "tV"})
    with pytest.raises(ValueError, match='functions\\["f"\\]` must be a term'):
        allometric(functions={"f": lambda x: x})
    with pytest.raises(ValueError, match="`f`"):
        allometric()


@pytest.mark.slow
def test_importance_sampling_learns_the_same():
    sampled = nlme(deep(), method=ImportanceSampling(64, key=jax.random.key(0)), iterations=40, tolerance=1e-2)
    quadrature = nlme(deep(), method=Quadrature(5), iterations=40, tolerance=1e-2)
    assert abs(sampled.objective - quadrature.objective) < 3.0

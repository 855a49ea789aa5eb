"""Weights of a network as parameters of a fit: their gradients, priors, starts, and what a fit does with them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    LBFGS,
    Adam,
    Additive,
    Adjoint,
    Experiment,
    ForwardSensitivities,
    Free,
    Measurements,
    MultiStart,
    Output,
    Problem,
    Weights,
)

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 12.0])


class Saturable(qsp.AbstractModel):
    V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
    rate: eqx.nn.MLP

    def initial(self):
        return {"central": 0.0}

    def vector_field(self, t, y):
        return {"central": -jax.nn.softplus(self.rate(y["central"] / self.V)) * y["central"]}

    def observe(self, t, y):
        return {"concentration": y["central"] / self.V}


def network(width=4, seed=0):
    return eqx.nn.MLP("scalar", "scalar", width_size=width, depth=1, activation=jax.nn.tanh, key=jax.random.key(seed))


def experiments(doses=(50.0, 100.0, 400.0)):
    """Michaelis-Menten elimination with vmax 30 mg/h, km 3 mg/L and a volume of 20 L, at 1e-10."""

    class Truth(qsp.AbstractModel):
        def initial(self):
            return {"central": 0.0}

        def vector_field(self, t, y):
            return {"central": -30.0 * y["central"] / (60.0 + y["central"])}

        def observe(self, t, y):
            return {"concentration": y["central"] / 20.0}

    method = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
    made = {}
    for dose in doses:
        regimen = qsp.bolus(dose, to="central")
        values = qsp.simulate(Truth(), regimen, TIMES, method=method).observed["concentration"]
        made[f"{dose:g} mg"] = Experiment(Measurements(TIMES, np.asarray(values), output="c"), regimen)
    return made


def learned(prior=None, gradient=None, width=4, **parameters):
    return Problem(
        Saturable(V=20.0, rate=network(width)),
        experiments(),
        {"c": Output("concentration", Additive(0.1))},
        {"V": Free(20.0, bounds=(5.0, 80.0)), "rate": Weights(prior), **parameters},
        gradient=gradient,
    )


def test_a_point_is_numbers_and_then_weights():
    problem = learned()
    assert problem.names[0] == "V"
    assert problem.names[1] == "rate.layers[0].weight[0]"
    assert len(problem.names) == problem.start.size == 1 + 13
    moved = problem.start.at[3].add(0.5)
    part = problem.networks(moved)["rate"]
    assert float(part.layers[0].weight[2, 0]) == pytest.approx(float(network().layers[0].weight[2, 0]) + 0.5)
    np.testing.assert_array_equal(problem.point({"V": 20.0, "rate": part}), moved)
    assert problem.fitted_model(moved).rate.layers[0].weight[2, 0] == part.layers[0].weight[2, 0]
    assert "Weights of rate:" in str(problem)
    assert [*problem.values(moved)] == ["V"]


@pytest.mark.parametrize("gradient", [Adjoint(), ForwardSensitivities()])
def test_gradients_agree_with_finite_differences(gradient):
    problem = learned(prior=qsp.Normal(0.0, sd=0.7), gradient=gradient)
    problem = Problem(
        problem.model,
        problem.experiments,
        problem.outputs,
        problem.parameters,
        method=qsp.solve.Rosenbrock(rtol=1e-11, atol=1e-13),
        gradient=gradient,
    )
    x = problem.start.at[1:].add(0.1)
    value, slope = jax.jit(problem.value_and_gradient)(x)
    density = jax.jit(problem.log_density)
    for k in (0, 1, 6, 10, 13):
        step = jnp.zeros(x.size).at[k].set(1e-4)
        difference = (density(x + step) - density(x - step)) / 2e-4
        assert float(slope[k]) == pytest.approx(float(difference), rel=1e-5, abs=1e-5 * float(jnp.abs(slope).max()))
    assert float(value) == pytest.approx(float(density(x)), rel=1e-12)


def test_a_prior_of_weights_is_that_of_each():
    plain, with_prior = learned(), learned(prior=qsp.Normal(0.0, sd=0.5))
    weights = np.asarray(plain.start[1:])
    expected = np.sum(-0.5 * (weights / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi)))
    assert float(with_prior.log_prior(plain.start) - plain.log_prior(plain.start)) == pytest.approx(expected)


def test_a_network_learns_the_elimination():
    fit = qsp.fit.estimate(learned(), method=LBFGS(max_steps=300))
    rate = fit.networks["rate"]
    for concentration in (1.0, 5.0, 15.0):
        truth = 30.0 / (60.0 + 20.0 * concentration)
        assert float(jax.nn.softplus(rate(jnp.asarray(concentration)))) == pytest.approx(truth, rel=0.1)
    assert fit.parameters["V"] == pytest.approx(20.0, rel=0.05)
    assert "rate" in str(fit)
    assert "13 weights" in str(fit)
    between = qsp.bolus(200.0, to="central")
    predicted = qsp.simulate(fit.fitted_model, between, TIMES).observed["concentration"]
    truth = experiments((200.0,))["200 mg"].measurements.value
    np.testing.assert_allclose(predicted, truth, rtol=0.1, atol=0.1)
    population = fit.population()
    assert population.model.rate.layers[0].weight.shape == (4, 1)


def test_curvature_serves_a_small_network():
    fit = qsp.fit.estimate(learned(prior=qsp.Normal(0.0, sd=2.0)))
    assert fit.status_text(0) == "converged"
    information = qsp.fit.fisher_information(fit.problem, fit.x)
    assert information.shape == (14, 14)
    table = qsp.fit.Uncertainty(fit.problem, fit.x, information).to_dataframe()
    assert len(table) == 14


def test_starts_have_networks_of_their_own():
    problem = learned()
    points = MultiStart(3, key=jax.random.key(1)).points(problem)
    assert points.shape == (3, 14)
    assert not np.array_equal(points[0, 1:], points[1, 1:])
    np.testing.assert_array_equal(np.sort(points[0, 1:5]), np.sort(problem.start[1:5]))
    fit = qsp.fit.estimate(problem, method=Adam(max_steps=5), starts=MultiStart(3, key=jax.random.key(1)))
    assert fit.points.shape == (3, 14)
    assert qsp.plot.parameter_agreement(fit).get_yticklabels()[0].get_text() == "V"


def test_a_fit_goes_on_where_it_stopped_and_is_read_again(tmp_path, monkeypatch):
    problem, method = learned(), Adam(max_steps=8)

    def stop(progress):
        if progress.figures.get("steps", 0) >= 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("qspjax.fit.search._estimate.SAVED_EVERY", 0.0)
    whole = qsp.fit.estimate(problem, method=method)
    with pytest.raises(KeyboardInterrupt):
        qsp.fit.estimate(problem, method=method, checkpoint=tmp_path / "half", progress=stop)
    resumed = qsp.fit.estimate(problem, method=method, checkpoint=tmp_path / "half")
    np.testing.assert_array_equal(resumed.x, whole.x)
    qsp.fit.save(tmp_path / "kept.fit", whole)
    again = qsp.fit.load(tmp_path / "kept.fit", problem)
    np.testing.assert_array_equal(again.networks["rate"].layers[1].weight, whole.networks["rate"].layers[1].weight)


def test_all_parameters_may_be_weights_of_a_part():
    problem = Problem(
        Saturable(V=20.0, rate=network()),
        experiments((100.0,)),
        {"c": Output("concentration", Additive(0.1))},
        {"rate.layers[1]": Weights()},
    )
    assert problem.names == tuple(f"rate.layers[1].{leaf}" for leaf in [*(f"weight[{i}]" for i in range(4)), "bias[0]"])
    value, slope = problem.value_and_gradient(problem.start)
    assert np.isfinite(value)
    assert (np.abs(slope) > 0).all()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rat": Weights()}, "Did you mean `rate`?"),
        ({"rate": Weights(), "rate.layers[0]": Weights()}, "name the weights of `rate` once"),
        ({"rate": Weights(), "rate.width": Free(1.0)}, "name what `rate` holds once"),
        ({"rate.layers[7]": Weights()}, "is none"),
        ({"rate.activation": Weights()}, "holds none"),
    ],
)
def test_names_that_are_no_weights(parameters, words):
    with pytest.raises(ValueError, match="parameters") as error:
        Problem(
            Saturable(V=20.0, rate=network()),
            experiments((100.0,)),
            {"c": Output("concentration", Additive(0.1))},
            parameters,
        )
    assert words in str(error.value)


def test_posteriors_of_weights_are_refused():
    with pytest.raises(ValueError, match="have numbers only to sample, but is one with the weights of `rate`"):
        qsp.fit.sample(learned(), qsp.fit.NUTS(key=jax.random.key(0)))
    with pytest.raises(ValueError, match="prior"):
        Weights(prior=3.0)


class Effect(qsp.models.AbstractTerm):
    """The part of clearance that a covariate explains."""

    network: eqx.nn.MLP
    inputs: int = eqx.field(static=True, default=2)

    def __call__(self, weight, age):
        return jnp.exp(self.network(jnp.stack([jnp.log(weight / 70.0), age / 50.0 - 1.0])))


def by_covariates(function, outputs=None, **parameters):
    """Return a problem of three patients whose clearance is a function of weight and age."""
    rows, times = {}, [1.0, 6.0, 12.0]
    for weight, age in ((50.0, 30.0), (70.0, 50.0), (100.0, 80.0)):
        cl = 3.0 * (weight / 70.0) ** 0.75 * (age / 50.0) ** -0.3
        values = 10.0 * np.exp(-cl / 30.0 * np.array(times))
        data = Measurements(times, values, output="c")
        clearance = {"CL": f"tCL * effect({weight}, {age})"}
        rows[f"{weight:g} kg"] = Experiment(data, qsp.bolus(300.0, to="central"), set=clearance)
    outputs = outputs or {"c": Output("concentration", Additive(0.1))}
    free = {"tCL": 3.0, "effect": Weights(), **parameters}
    return Problem(qsp.models.OneCompartment(CL=3.0, V=30.0), rows, outputs, free, functions={"effect": function})


def effect():
    return Effect(eqx.nn.MLP(2, "scalar", width_size=4, depth=1, activation=jnp.tanh, key=jax.random.key(3)))


@pytest.mark.parametrize("gradient", [Adjoint(), ForwardSensitivities()])
def test_a_function_of_covariates_is_learned_in_formulas(gradient):
    problem = by_covariates(effect())
    problem = Problem(
        problem.model,
        problem.experiments,
        problem.outputs,
        problem.parameters,
        functions=problem.functions,
        gradient=gradient,
    )
    value, slope = problem.value_and_gradient(problem.start)
    for k in (0, 5, 12, 16):
        step = jnp.zeros(problem.start.size).at[k].set(1e-5)
        difference = (problem.log_density(problem.start + step) - problem.log_density(problem.start - step)) / 2e-5
        assert float(slope[k]) == pytest.approx(float(difference), rel=1e-5, abs=1e-5 * float(jnp.abs(slope).max()))
    curved = problem.quadratic(problem.start)
    np.testing.assert_allclose(curved.gradient, slope, rtol=1e-8, atol=1e-8 * float(jnp.abs(slope).max()))


def test_a_learned_covariate_effect_is_fitted():
    fit = qsp.fit.estimate(by_covariates(effect()), method=LBFGS(max_steps=200))
    assert fit.log_density > -5.0
    learned = fit.networks["effect"]
    for weight, age in ((50.0, 30.0), (100.0, 80.0)):
        truth = (weight / 70.0) ** 0.75 * (age / 50.0) ** -0.3
        assert float(learned(weight, age)) == pytest.approx(truth, rel=0.02)


def test_a_function_in_an_observable_is_learned():
    scale = Effect(eqx.nn.MLP(2, "scalar", width_size=2, depth=1, key=jax.random.key(1)))
    outputs = {"c": Output("concentration * scale(time, concentration)", Additive(0.1))}
    data = Measurements([1.0, 4.0, 8.0], [12.0, 7.0, 4.0], output="c")
    problem = Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        Experiment(data, qsp.bolus(300.0, to="central")),
        outputs,
        {"scale": Weights()},
        functions={"scale": scale},
    )
    assert problem.layout.directions == 0
    slope = problem.value_and_gradient(problem.start)[1]
    step = jnp.zeros(problem.start.size).at[2].set(1e-6)
    difference = (problem.log_density(problem.start + step) - problem.log_density(problem.start - step)) / 2e-6
    assert float(slope[2]) == pytest.approx(float(difference), rel=1e-5)
    assert "experiment" in problem.table(problem.start)


def test_calls_that_mean_nothing_are_refused():
    data, model = Measurements([1.0], [1.0], output="c"), qsp.models.OneCompartment(CL=3.0, V=30.0)
    experiment = Experiment(data, qsp.bolus(300.0, to="central"))

    def posed(formula, **functions):
        outputs = {"c": Output(formula, Additive(0.1))}
        return Problem(model, experiment, outputs, {"CL": Free(3.0)}, functions=functions)

    with pytest.raises(ValueError, match=r"calls `squrt`.*Did you mean `sqrt`"):
        posed("concentration * squrt(2)")
    with pytest.raises(ValueError, match=r"with 2 inputs, but calls `effect\(time\)`"):
        posed("concentration * effect(time)", effect=effect())
    with pytest.raises(ValueError, match="`effect`, which none calls"):
        posed("concentration", effect=effect())
    with pytest.raises(ValueError, match="name functions by names that nothing else has"):
        posed("concentration", V=effect())
    with pytest.raises(ValueError, match=r"functions"):
        posed("effect(time, 1)", effect=jnp.tanh)

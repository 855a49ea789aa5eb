"""Trained terms become formulas: the true one where the library has it, with its constants."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qspjax as qsp
from qspjax.discover import Form, Library, distil
from qspjax.discover._criterion import effective_count

TRUTHS = {
    "Vmax * c / (Km + c)": (lambda c: 2.0 * c / (5.0 + c), {"c": (0.1, 40.0)}),
    "Emax * c^n / (EC50^n + c^n)": (lambda c: 3.0 * c**3 / (8.0**3 + c**3), {"c": (0.5, 30.0)}),
    "k * IC50 / (IC50 + c)": (lambda c: 3.0 * 4.0 / (4.0 + c), {"c": (0.1, 40.0)}),
    "k / c^p": (lambda c: 1.5 * c**-0.4, {"c": (0.3, 10.0)}),
    "k * c * ln(K / c)": (lambda c: 0.2 * c * np.log(40.0 / c), {"c": (1.0, 35.0)}),
    "Vmax * c / (Km + c) + base": (lambda c: 1.0 + 4.0 * c / (6.0 + c), {"c": (0.1, 40.0)}),
    "Vmax * c * r / (Km + c)": (lambda c, r: 2.0 * c * r / (5.0 + c), {"c": (0.1, 30.0), "r": (0.5, 5.0)}),
    "k * c * r": (lambda c, r: 0.3 * c * r, {"c": (0.1, 10.0), "r": (0.5, 5.0)}),
}


def noisy(formula, seed, points=40):
    """Return inputs, rates with 5 % noise at them, and the standard deviation of this."""
    truth, ranges = TRUTHS[formula]
    draw = np.random.default_rng(seed)
    inputs = {name: np.exp(draw.uniform(np.log(low), np.log(high), points)) for name, (low, high) in ranges.items()}
    rate = truth(*inputs.values())
    sd = 0.05 * np.maximum(np.abs(rate), 0.1 * np.abs(rate).max())
    return inputs, rate + sd * draw.normal(size=points), sd


def trained(inputs, rate, sd, seed, steps=2000):
    """Return a network of the logarithms of the inputs, trained on rates."""
    X = np.stack([*inputs.values()], axis=1)
    shift = 0.02 * X.max(axis=0)
    low, high = np.log(X.min(axis=0) + shift), np.log(X.max(axis=0) + shift)
    network = eqx.nn.MLP(len(inputs), "scalar", 8, 2, jnp.tanh, key=jax.random.key(seed))
    weights, rest = eqx.partition(network, eqx.is_inexact_array)
    optimiser, size = optax.adamw(5e-3), rate.std()

    def value(weights, x):
        return size * eqx.combine(weights, rest)((jnp.log(x + shift) - low) / (high - low))

    def loss(weights):
        return jnp.mean(((jax.vmap(lambda x: value(weights, x))(jnp.asarray(X)) - rate) / sd) ** 2)

    def step(carry, _):
        weights, state = carry
        updates, state = optimiser.update(jax.grad(loss)(weights), state, weights)
        return (eqx.apply_updates(weights, updates), state), None

    run = jax.jit(lambda start: jax.lax.scan(step, (start, optimiser.init(start)), None, length=steps)[0][0])
    weights = run(weights)
    return lambda *x: value(weights, jnp.stack(x))


@pytest.mark.parametrize("formula", ["Vmax * c / (Km + c)", "k * c * r"])
def test_noisy_rates_give_the_true_form(formula):
    inputs, rate, sd = noisy(formula, 3)
    table = dict(zip(zip(*inputs.values(), strict=True), rate, strict=True))
    found = distil(lambda *x: table[tuple(map(float, x))], inputs, deviation=sd, library=Library(terms=2))
    assert str(found.best.expression) == formula


def test_a_network_trained_on_noisy_rates_gives_the_true_form():
    inputs, rate, sd = noisy("Vmax * c / (Km + c)", 1)
    found = distil(trained(inputs, rate, sd, 1), inputs, deviation=sd)
    assert str(found.best.expression) == "Vmax * c / (Km + c)"
    assert found.best.parameters["Vmax"] == pytest.approx(2.0, rel=0.15)
    assert found.best.parameters["Km"] == pytest.approx(5.0, rel=0.3)


MISSED = {
    "Vmax * c / (Km + c) + base": "without doses near 0 a power or a logarithm fits a trained network as well",
    "Vmax * c * r / (Km + c)": "3 of 5 seeds from the network alone",
}


def marked(formula):
    return pytest.param(formula, marks=pytest.mark.xfail(reason=MISSED[formula])) if formula in MISSED else formula


@pytest.mark.slow
@pytest.mark.parametrize("formula", [marked(formula) for formula in TRUTHS])
def test_the_true_form_is_found_in_four_of_five_seeds(formula):
    hits = 0
    for seed in range(5):
        inputs, rate, sd = noisy(formula, seed)
        found = distil(trained(inputs, rate, sd, seed), inputs, deviation=sd)
        hits += str(found.best.expression) == formula
    assert hits >= 4


def test_exact_functions_give_their_constants():
    found = distil(
        lambda c: 1.0 + 3.0 * c**2.5 / (5.0**2.5 + c**2.5), {"c": np.linspace(0.0, 20.0, 60)}, deviation=1e-3
    )
    assert str(found.best.expression) == "Emax * c^n / (EC50^n + c^n) + base"
    assert found.best.parameters == pytest.approx({"Emax": 3.0, "EC50": 5.0, "n": 2.5, "base": 1.0}, rel=1e-3)
    assert found.best.pareto
    assert found.best.error < 1e-4
    np.testing.assert_allclose(found.curves()["formula"], found.values, rtol=1e-3)
    assert {*found.table()} == {"formula", "constants", "error", "bic", "evidence", "pareto"}
    assert found.to_dataframe().shape[0] == len(found.candidates)
    assert "evidence ratio" in str(found)
    assert float(found.best(c=5.0)) == pytest.approx(2.5, rel=1e-3)


def test_of_an_ensemble_points_on_which_it_agrees_count_more():
    draws = np.random.default_rng(0).normal(size=6)

    def member(shift):  # they agree below 10, where the truth is a straight line
        return lambda c: 0.5 * c + jnp.where(c > 10.0, shift * (c - 10.0) ** 2, 0.0)

    found = distil([member(float(0.05 * (1.0 + draw))) for draw in draws], {"c": np.linspace(0.5, 20.0, 40)})
    assert found.deviations[-1] > 10 * found.deviations[0]
    assert found.best(c=8.0) == pytest.approx(4.0, rel=0.02)


def test_effective_count():
    draw = np.random.default_rng(0)
    assert effective_count(draw.normal(size=(40, 1)) * np.ones(30)) == pytest.approx(1.0, rel=0.1)
    assert effective_count(draw.normal(size=(200, 5))) == pytest.approx(5.0, rel=0.1)


def test_own_forms_and_weights():
    library = Library(forms=(Form("tanh(x / C)", {"C": 1}, name="tanh"), Form("x", name="linear")), terms=1)
    weights = np.r_[np.ones(30), np.zeros(10)]
    found = distil(
        lambda c: jnp.where(c < 7.5, 2.0 * jnp.tanh(c / 3.0), 50.0),
        {"c": (np.linspace(0.0, 10.0, 40))},
        library=library,
        weights=weights,
    )
    assert repr(found.best) == "2 * tanh(c / 3)"
    assert len(distil(lambda c, r: c * r, {"c": (0.0, 1.0), "r": (1.0, 2.0)}, library=Library(terms=1)).values) == 128


def test_messages():
    line = {"c": np.linspace(0.0, 1.0, 10)}
    for arguments, message in (
        ((lambda c: c, {}), "Argument `inputs` must have at least one input, but has none"),
        ((lambda c: c, {"c": np.ones(10)}), r"Argument `inputs\['c'\]` must vary, but is 1 at all points"),
        ((lambda c: c, {"c": [1.0, 2.0]}), r"Argument `inputs\['c'\]` must have shape \(points,\), at least 8"),
        ((lambda c: c, {"c": (2.0, 1.0)}), "must be a range"),
        ((lambda c: jnp.log(c), line), r"Argument `term` must be finite at all points, but is -inf at \(0\)"),
        ((lambda c: jnp.stack([c, c]), line), r"Argument `term` must return one number at each point"),
        ((3.0, line), "Argument `term` must be a function of scalars"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            distil(*arguments)
    with pytest.raises(ValueError, match="Argument `weights` must be 10 numbers that are at least 0"):
        distil(lambda c: c, line, weights=[1.0])
    with pytest.raises(ValueError, match="Argument `deviation` must be positive"):
        distil(lambda c: c, line, deviation=0.0)
    with pytest.raises(ValueError, match="Argument `constants` must have an entry for each constant"):
        Form("x / (Km + x)")
    with pytest.raises(ValueError, match="Argument `formula` must be a function of `x`"):
        Form("2 * k", {"k": 1})
    with pytest.raises(ValueError, match="two are called `linear`"):
        Library(forms=(Form("x", name="linear"), Form("2 * x", name="linear")))
    assert qsp.discover.distil is distil

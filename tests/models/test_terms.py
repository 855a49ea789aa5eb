"""Terms that are learned: values by hand, what is asked of them for any weights, gradients through solves, errors."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.interpolate import BSpline

import qspjax as qsp
from qspjax._fingerprint import fingerprint
from qspjax.models import (
    Bounded,
    GaussianProcessRate,
    Input,
    Network,
    NeuralRate,
    Positive,
    Reaction,
    SplineRate,
    Unbounded,
    learned_curve,
)

METHOD = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
TS = jnp.array([0.5, 2.0, 5.0, 9.0])
DOSES = qsp.bolus(10.0, to="drug") + qsp.bolus(4.0, to="drug", at=3.0)
KEY = jax.random.key(3)


def relu(x):
    return jnp.maximum(x, 0.0)


def random(term, seed, size=2.0):
    """Return a term with large random weights."""
    weights, rest = eqx.partition(term, eqx.is_inexact_array)
    flat, back = ravel_pytree(weights)
    return eqx.combine(back(size * jax.random.normal(jax.random.key(seed), flat.shape)), rest)


def grid(term, count=60, seed=0, low=0.0, high=40.0):
    """Return random inputs, shape (count, inputs)."""
    return jax.random.uniform(jax.random.key(seed), (count, term.inputs), minval=low, maxval=high)


# --- values ---------------------------------------------------------------------------------------------------------


def test_a_network_by_hand():
    inputs = {"drug": Input(10.0, logarithmic=True, zero=True), "target": 5.0}
    rate = random(NeuralRate.mlp(inputs, width=3, depth=1, output=Bounded(0.0, 2.0), key=KEY), 1)
    first, last = rate.network.layers
    x = np.array([7.0, 2.0])
    u = x[0] / 10.0
    z = np.array([np.log((u + np.sqrt(u**2 + 4e-6)) / 2.0), x[1] / 5.0])
    raw = last.weight @ np.tanh(first.weight @ z + first.bias) + last.bias
    expected = 2.0 / (1.0 + np.exp(-raw[0])) * 7.0 / 17.0
    np.testing.assert_allclose(rate(*x), expected, rtol=1e-12)


@pytest.mark.parametrize(("outputs", "shape"), [(None, ()), (1, ()), (3, (3,))])
def test_shapes(outputs, shape):
    rate = NeuralRate.mlp(["a", "b"], outputs=outputs, output=Positive(0.2), key=KEY)
    assert rate(1.0, 2.0).shape == shape
    assert rate.outputs == (3 if outputs == 3 else None)


def test_sizes_of_several_outputs():
    flat = jax.tree.map(lambda x: 0.0 * x if eqx.is_inexact_array(x) else x, NeuralRate.mlp(["a"], outputs=2, key=KEY))
    np.testing.assert_allclose(NeuralRate(flat.network, ["a"], output=Positive([0.1, 5.0]))(1.0), [0.1, 5.0])
    np.testing.assert_allclose(NeuralRate(flat.network, ["a"], output=Bounded([0.0, -1.0], 2.0))(1.0), [1.0, 0.5])


def test_any_module_and_a_network_of_a_number():
    class Own(eqx.Module):
        k: jax.Array

        def __call__(self, x):
            return self.k * x[0] - x[1]

    assert NeuralRate(Own(jnp.array(3.0)), ["a", "b"])(2.0, 1.0) == 5.0
    mlp = eqx.nn.MLP("scalar", "scalar", 4, 1, key=KEY)
    assert NeuralRate(mlp, ["a"])(0.3) == mlp(jnp.array(0.3))


def test_a_logarithmic_input_is_smooth_through_zero():
    scale = Input(2.0, logarithmic=True, small=1e-3)
    values = jax.vmap(scale.scaled)(jnp.array([-1e-2, 0.0, 1e-3, 2.0, 2e6]))
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0.0).all()
    np.testing.assert_allclose(values[3:], [1e-6, np.log(1e6)], atol=2e-6)
    slopes = jax.vmap(jax.grad(scale.scaled))(jnp.array([-1e-9, 0.0, 1e-9]))
    np.testing.assert_allclose(slopes, 250.0, rtol=1e-5)


def test_a_spline_is_that_of_scipy():
    c = np.random.default_rng(0).normal(size=9)
    rate = SplineRate({"x": 2.0}, between=(1.0, 7.0), coefficients=c)
    reference = BSpline(np.arange(-3.0, 10.0) + 1.0, c, 3)
    x = np.linspace(1.0, 7.0, 40)
    np.testing.assert_allclose(jax.vmap(rate)(x), reference(x), rtol=1e-10, atol=1e-12)
    outside = np.array([-2.0, 0.5, 7.5, 11.0])
    ends = np.where(outside < 1.0, 1.0, 7.0)
    line = reference(ends) + reference.derivative()(ends) * (outside - ends)
    np.testing.assert_allclose(jax.vmap(rate)(outside), line, rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(jax.grad(rate))(x), reference.derivative()(x), rtol=1e-8, atol=1e-9)


def test_a_gaussian_process_has_its_kernel():
    rate = GaussianProcessRate({"x": 2.0, "y": 1.0}, lengthscale=0.8, deviation=1.5, features=4000, key=KEY)
    points = jax.random.uniform(jax.random.key(1), (6, 2), maxval=2.0)
    features = jax.vmap(jax.grad(lambda w, x: eqx.tree_at(lambda r: r.weights, rate, w)(*x)), (None, 0))
    phi = features(rate.weights, points)
    z = points / jnp.array([2.0, 1.0])
    kernel = 1.5**2 * jnp.exp(-((z[:, None] - z[None]) ** 2).sum(-1) / (2.0 * 0.8**2))
    np.testing.assert_allclose(phi @ phi.T, kernel, atol=0.12)
    assert rate(1.0, 2.0) == 0.0


# --- what is asked of a term, for any weights -----------------------------------------------------------------------

TERMS = {
    "tanh": lambda inputs, output: NeuralRate.mlp(inputs, output=output, width=7, key=KEY),
    "relu": lambda inputs, output: NeuralRate.mlp(inputs, output=output, width=6, depth=3, activation=relu, key=KEY),
    "spline": lambda inputs, output: SplineRate(inputs, between=(0.0, 30.0), output=output),
    "process": lambda inputs, output: GaussianProcessRate(inputs, output=output, key=KEY),
}


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("seed", range(2))
def test_ranges_and_zeros(kind, seed):
    make = TERMS[kind]
    positive = random(make({"x": Input(5.0)}, Positive(0.1)), seed)
    bounded = random(make({"x": Input(5.0, zero=True)}, Bounded(-1.0, 2.0)), seed)
    x = grid(positive, low=-1.0)[:, 0]
    assert (jax.vmap(positive)(x) >= 0.0).all()
    values = jax.vmap(bounded)(jnp.abs(x))
    assert ((values >= -1.0) & (values <= 2.0)).all()
    assert bounded(0.0) == 0.0
    assert np.isfinite(jax.grad(bounded)(0.0))


@pytest.mark.parametrize("logarithmic", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["tanh", "relu"])
@pytest.mark.parametrize("seed", range(2))
def test_monotone_networks(kind, seed, logarithmic):
    inputs = {
        "a": Input(5.0, increasing=True, logarithmic=logarithmic),
        "b": Input(3.0, decreasing=True),
        "c": Input(2.0, zero=True),
    }
    rate = random(TERMS[kind](inputs, Positive(1.0)), seed, 0.7)
    slopes = jax.vmap(jax.grad(lambda x: rate(*x)))(grid(rate, seed=seed))
    assert (slopes[:, 0] >= 0.0).all()
    assert (slopes[:, 0] > 0.0).any()
    assert (slopes[:, 1] <= 0.0).all()
    raw = random(TERMS[kind]({"a": Input(5.0, increasing=True), "c": 2.0}, Unbounded()), seed, 0.7)
    slopes = jax.vmap(jax.grad(lambda x: raw(*x)))(grid(raw, seed=seed))
    assert (slopes[:, 0] >= 0.0).all()


@pytest.mark.slow
def test_a_monotone_network_bends_both_ways():
    """A saturable curve and a convex one are learned by a monotone network with a convex activation."""
    x, adam = jnp.linspace(0.0, 10.0, 60), optax.adam(1e-2)
    for truth in (2.0 * x / (1.0 + x), 0.05 * x**2):
        rate = NeuralRate.mlp({"x": Input(3.0, increasing=True)}, activation=jax.nn.softplus, width=12, key=KEY)
        weights, rest = eqx.partition(rate, eqx.is_inexact_array)

        def loss(weights, truth=truth, rest=rest):
            return ((jax.vmap(eqx.combine(weights, rest))(x) - truth) ** 2).mean()

        def step(carry, _, loss=loss):
            weights, state = carry
            value, gradient = jax.value_and_grad(loss)(weights)
            updates, state = adam.update(gradient, state)
            return (eqx.apply_updates(weights, updates), state), value

        _, losses = jax.jit(lambda start, step=step: jax.lax.scan(step, start, length=2000))(
            (weights, adam.init(weights))
        )
        assert jnp.sqrt(losses[-1]) < 0.04


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(2))
def test_monotone_splines(seed, sign):
    scale = Input(5.0, increasing=sign > 0, decreasing=sign < 0)
    rate = random(SplineRate({"x": scale}, between=(0.0, 20.0), coefficients=10), seed, 4.0)
    assert (sign * jnp.diff(jax.vmap(rate)(jnp.linspace(-5.0, 30.0, 200))) >= 0.0).all()


# --- gradients through solves ---------------------------------------------------------------------------------------


class Hybrid(qsp.AbstractModel):
    """A drug that is taken up by a learned rate, mass kept, and an output that a network computes."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="loss")
    uptake: NeuralRate
    scale: SplineRate

    def initial(self):
        return {"drug": 0.0, "inside": 0.0}

    def vector_field(self, t, y):
        moved = self.uptake(y["drug"], y["inside"]) * y["drug"]
        return {"drug": -moved, "inside": moved - self.k * y["inside"]}

    def observe(self, t, y):
        return {"drug": y["drug"], "signal": self.scale(y["inside"])}


def parts():
    inputs = {"drug": Input(10.0, logarithmic=True, increasing=True), "inside": Input(5.0, decreasing=True)}
    uptake = NeuralRate.mlp(inputs, width=4, depth=1, output=Positive(0.3), unit="1/h", key=KEY)
    spline = random(SplineRate({"inside": 5.0}, between=(0.0, 12.0), coefficients=5), 5, 1.0)
    return random(uptake, 4, 0.5), spline


def hybrid():
    uptake, scale = parts()
    return Hybrid(k=0.2, uptake=uptake, scale=scale)


def hybrid_network():
    uptake, scale = parts()
    return Network(
        species={"drug": 0.0, "inside": 0.0},
        parameters={"k": 0.2},
        reactions={
            "entry": Reaction("drug -> inside", "uptake(drug, inside) * drug"),
            "loss": Reaction("inside ->", "k * inside"),
        },
        rules={"signal": "scale(inside)"},
        functions={"uptake": uptake, "scale": scale},
    )


@pytest.mark.parametrize("make", [hybrid, hybrid_network])
def test_gradients_of_every_weight(make):
    model = make()
    weights, rest = eqx.partition(model, eqx.is_inexact_array)
    flat, back = ravel_pytree(weights)

    @jax.jit
    def value(flat):
        observed = qsp.simulate(eqx.combine(back(flat), rest), DOSES, TS, method=METHOD).observed
        return (observed["signal"] * jnp.array([1.0, 2.0, -1.0, 1.0])).sum() + observed["drug"][-1]

    reverse = jax.jit(jax.grad(value))(flat)
    forward = jax.jit(jax.jacfwd(value))(flat)
    step = 1e-4
    differences = []
    for i in range(len(flat)):
        up, down = (float(value(flat.at[i].add(sign * step))) for sign in (1.0, -1.0))
        more, less = (float(value(flat.at[i].add(sign * 2.0 * step))) for sign in (1.0, -1.0))
        differences.append((8.0 * (up - down) - (more - less)) / (12.0 * step))
    scale = np.abs(differences).max()
    np.testing.assert_allclose(reverse, differences, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(forward, differences, rtol=1e-5, atol=1e-6 * scale)


def test_networks_and_classes_agree_and_mass_is_kept():
    by_class, by_name = hybrid(), hybrid_network()
    a, b = (qsp.simulate(model, DOSES, TS, method=METHOD).observed for model in (by_class, by_name))
    for name in ("drug", "signal"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-8)
    closed = by_name.replace("loss", rate="0 * inside")
    observed = qsp.simulate(closed, DOSES, TS, method=METHOD).observed
    np.testing.assert_allclose(observed["drug"] + observed["inside"], [10.0, 10.0, 14.0, 14.0], rtol=1e-10)


def test_covariates_and_several_outputs_make_parameters():
    sizes = NeuralRate.mlp({"WT": 70.0}, outputs=2, output=Positive([3.0, 30.0]), width=3, depth=1, key=KEY)
    model = Network(
        species={"drug": 100.0},
        parameters={"WT": 82.0},
        rules={"CL": "individual[0](WT)", "V": "individual[1](WT)", "C": "drug / V"},
        reactions={"loss": Reaction("drug ->", "CL * C")},
        functions={"individual": sizes},
    )
    CL, V = sizes(82.0)
    observed = qsp.simulate(model, qsp.no_doses(), [5.0], method=METHOD).observed
    np.testing.assert_allclose(observed["C"], 100.0 / V * jnp.exp(-CL / V * 5.0), rtol=1e-8)


def test_algebraic_states_of_models_with_networks():
    rate = NeuralRate.mlp({"A": 5.0}, width=4, depth=1, output=Positive(0.5), key=KEY)
    model = Network(
        species={"A": 10.0},
        parameters={"z": qsp.models.Parameter(1.0, constant=False)},
        reactions={"loss": Reaction("A ->", "z * A")},
        algebraic=["z + z^3 - f(A)"],
        functions={"f": rate},
    )
    observed = qsp.simulate(model, qsp.no_doses(), [0.0, 1.0]).observed
    expected = [rate(x) for x in observed["A"]]
    np.testing.assert_allclose(observed["z"] + observed["z"] ** 3, expected, rtol=1e-5)


@pytest.mark.parametrize("make", [*TERMS.values(), hybrid_network])
def test_what_is_pickled_is_the_same(make):
    before = make() if make is hybrid_network else make({"x": Input(5.0)}, Positive(2.0))
    after = pickle.loads(pickle.dumps(before))
    assert eqx.tree_equal(before, after)
    assert fingerprint(before) == fingerprint(after)
    assert fingerprint(before) != fingerprint(random(before, 9))


# --- curves and pictures --------------------------------------------------------------------------------------------


def test_curves_of_one_term_and_of_many():
    draws = [NeuralRate.mlp({"a": 2.0, "b": 7.0}, output=Positive(), key=jax.random.key(i)) for i in range(9)]
    a = np.linspace(0.0, 4.0, 5)
    alone = learned_curve(draws[0], {"a": a})
    np.testing.assert_allclose(alone["rate"], [draws[0](x, 7.0) for x in a])
    table = learned_curve(draws, {"a": a, "b": 1.0}, level=0.5)
    curves = np.array([[draw(x, 1.0) for x in a] for draw in draws])
    np.testing.assert_allclose([table["low"], table["rate"], table["high"]], np.quantile(curves, [0.25, 0.5, 0.75], 0))
    stacked = eqx.filter_vmap(lambda key: NeuralRate.mlp({"a": 2.0, "b": 7.0}, output=Positive(), key=key))(
        jnp.stack([jax.random.key(i) for i in range(9)])
    )
    for name, column in learned_curve(stacked, {"a": a, "b": 1.0}, stacked=True, level=0.5).items():
        np.testing.assert_allclose(column, table[name], rtol=1e-10)


def test_picture():
    draws = [NeuralRate.mlp({"drug": 2.0}, output=Positive(), key=jax.random.key(i)) for i in range(4)]
    drug = np.geomspace(0.1, 50.0, 30)
    table = learned_curve(draws, {"drug": drug})
    axes = qsp.plot.learned_rate(
        table, support=[0.4, 3.0, 9.0], truth=drug / (1.0 + drug), label="uptake (1/h)", unit="mg/L", logarithmic=True
    )
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("drug (mg/L)", "uptake (1/h)", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["data", "learned", "truth"]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_array_equal(lines["learned"], table["rate"])
    with pytest.raises(ValueError, match="Argument `truth` must have 30 values, one for each of `drug`"):
        qsp.plot.learned_rate(table, truth=[1.0])
    with pytest.raises(ValueError, match="must have an input and `rate`"):
        qsp.plot.learned_rate({"drug": drug})


# --- what cannot be -------------------------------------------------------------------------------------------------

NET = eqx.nn.MLP(2, 1, 3, 1, key=KEY)


def with_nan():
    return eqx.tree_at(lambda net: net.layers[0].weight, NET, jnp.full((3, 2), jnp.nan))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: NeuralRate(NET, ["a"]), r"Argument `network` must take an array of shape \(1,\), its inputs"),
        (lambda: NeuralRate(jnp.tanh, ["a"]), "`network` must be an equinox module"),
        (lambda: NeuralRate(NET, "ab"), "`inputs` must be names of inputs"),
        (lambda: NeuralRate(NET, []), "`inputs` must be at least one name, each once"),
        (lambda: NeuralRate(NET, ["a", "a"]), "`inputs` must be at least one name, each once"),
        (lambda: NeuralRate(NET, {"a": "big", "b": 1.0}), "`a` must be an Input or its nominal size, but is `big`"),
        (
            lambda: NeuralRate(with_nan(), ["a", "b"]),
            r"must have finite weights, but is NaN or infinite in `layers\[0\]",
        ),
        (lambda: NeuralRate(NET, ["a", "b"], output=3.0), "`output` must be Unbounded, Positive or Bounded"),
        (lambda: NeuralRate(NET, ["a", "b"])(1.0), r"`inputs` must be 2 \(a, b\), but is 1"),
        (lambda: Bounded(2.0, 1.0), r"`high` must be above `low` \(2.0\), but is 1"),
        (lambda: Positive(0.0), "`size` must be"),
        (lambda: Input(-1.0), "`size` must be"),
        (lambda: Input(increasing=True, decreasing=True), "`decreasing` must be False for a term that is increasing"),
        (
            lambda: NeuralRate(NET, {"a": Input(zero=True), "b": 1.0}, output=Bounded(1.0, 2.0)),
            "`output` must allow 0 for a term that is 0 where `a` is",
        ),
        (
            lambda: NeuralRate(NET, {"a": Input(zero=True), "b": Input(increasing=True)}),
            "`output` must be Positive, or Bounded by 0, for a monotone term that is 0 somewhere",
        ),
        (
            lambda: NeuralRate(NET, {"a": Input(zero=True, decreasing=True), "b": 1.0}, output=Positive()),
            "`a` must not be where a decreasing term is 0",
        ),
        (
            lambda: NeuralRate.mlp({"a": Input(increasing=True)}, activation=jax.nn.gelu, key=KEY),
            "must have an activation that never decreases, such as jnp.tanh",
        ),
        (
            lambda: NeuralRate(eqx.nn.Linear(1, 1, key=KEY), {"a": Input(increasing=True)}),
            "`network` must be an eqx.nn.MLP to be monotone in an input, so that its weights can be constrained",
        ),
        (lambda: NeuralRate.mlp(["a"], width=0, key=KEY), "`width` must be a whole number of at least 1"),
        (lambda: SplineRate(["a", "b"], between=(0.0, 1.0)), "`inputs` must be one for a spline, but is 2"),
        (lambda: SplineRate(["a"], between=(1.0, 0.0)), "`between` must be the two ends of the spline, in order"),
        (lambda: SplineRate(["a"], between=(0.0, 1.0), coefficients=3), "`coefficients` must be at least 4, but is 3"),
        (
            lambda: GaussianProcessRate({"a": Input(increasing=True)}, key=KEY),
            "`a` must not be monotone for a Gaussian process: take a NeuralRate or a SplineRate",
        ),
        (lambda: learned_curve(NeuralRate(NET, ["a", "b"]), {"a": 1.0}), "must have an array for one input"),
        (
            lambda: learned_curve(NeuralRate(NET, ["a", "b"]), {"c": [1.0]}),
            "must name an input of the term",
        ),
        (lambda: learned_curve([], {"c": [1.0]}), "`term` must be a term, such as models.NeuralRate, or a sequence"),
    ],
)
def test_terms_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()

"""Rodas5P and the loop around diffrax's solvers, against exact and independent solutions."""

from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import qspjax as qsp
from qspjax.solve._dense import factorise
from tests.systems.marks import slow_for


class Plane(NamedTuple):
    x: jax.Array
    y: jax.Array


class Prothero(qsp.AbstractModel):
    """Prothero and Robinson's stiff problem: x follows cos t at a rate k; y' = x t, neither linear nor autonomous."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="rate")

    def initial(self):
        return Plane(1.0, 0.0)

    def vector_field(self, t, y):
        return Plane(-self.k * (y.x - jnp.cos(t)) - jnp.sin(t), y.x * t)

    def observe(self, t, y):
        return {"x": y.x, "y": y.y}


class Robertson(qsp.AbstractModel):
    """Robertson's autocatalytic reaction. Hairer and Wanner, Solving Ordinary Differential Equations II, IV.1."""

    def initial(self):
        return (1.0, 0.0, 0.0)

    def vector_field(self, t, y):
        a, b, c = y
        first, second, third = 0.04 * a, 1e4 * b * c, 3e7 * b * b
        return (second - first, first - second - third, third)

    def observe(self, t, y):
        return {"a": y[0]}


def test_published_abscissae():
    """c and d follow from the coefficients; their published values are those of Steinebach 2023, table 4."""
    np.testing.assert_allclose(
        qsp.solve.Rodas5P().times[:6],
        [0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0],
        atol=1e-13,
    )
    np.testing.assert_allclose(
        qsp.solve.Rodas5P().slopes[:5],
        [0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069],
        atol=1e-13,
    )
    np.testing.assert_allclose(qsp.solve.Rodas5P().slopes[5:], 0.0, atol=1e-13)


@pytest.mark.parametrize("unrolled", [True, False])
def test_order_of_convergence(unrolled):
    """Halving a fixed step divides the error by 2^5, on a problem that is neither linear nor autonomous."""

    def logistic(t, y, args):
        return y * (1.0 - y) * jnp.cos(t)

    def solve(steps):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(logistic),
            qsp.solve.RosenbrockSolver(qsp.solve.Rodas5P(), unrolled=unrolled),
            0.0,
            2.0,
            2.0 / steps,
            jnp.array([0.3]),
            stepsize_controller=diffrax.ConstantStepSize(),
        ).ys[0, 0]

    odds = 0.3 / 0.7 * np.exp(np.sin(2.0))
    errors = [abs(float(solve(n)) - odds / (1 + odds)) for n in (8, 16, 32)]
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(orders > 4.7), (errors, orders)


@pytest.mark.parametrize("n", [1, 3, 10, 14])
def test_factorise(n):
    rng = np.random.default_rng(n)
    matrix = rng.normal(size=(n, n)) + 2 * n * np.eye(n)
    right = rng.normal(size=n)
    got = factorise([jnp.asarray(matrix[:, j]) for j in range(n)])(jnp.asarray(right))
    np.testing.assert_allclose(got, np.linalg.solve(matrix, right), rtol=1e-12)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("argument", [0, 1])
def test_derivatives_of_a_large_dense_solve(derivative, argument):
    rng = np.random.default_rng(0)
    matrix, right = rng.normal(size=(15, 15)) + 30.0 * np.eye(15), rng.normal(size=15)

    def of(solved):
        return derivative(lambda matrix, right: jnp.sin(solved(matrix, right)).sum(), argument)(matrix, right)

    got = of(lambda matrix, right: factorise(matrix.T)(right))
    np.testing.assert_allclose(got, of(jnp.linalg.solve), rtol=1e-10, atol=1e-13)


SOLVERS = [
    qsp.solve.Rodas5P(),
    qsp.solve.RosenbrockSolver(qsp.solve.Rodas5P(), unrolled=False),
    diffrax.Tsit5(),
    diffrax.Dopri8(),
    diffrax.Kvaerno5(),
]


@pytest.mark.parametrize("solver", slow_for(SOLVERS, *SOLVERS[1::2], SOLVERS[4]), ids=lambda s: type(s).__name__)
def test_values_and_derivatives_of_each_solver(solver):
    """Smooth problem, all solvers: value and both modes of derivative, to the tolerance."""
    ts = np.linspace(0.0, 3.0, 7)
    method = qsp.solve.Diffrax(solver, rtol=1e-8, atol=1e-10)

    def simulate(k):
        return qsp.simulate(Prothero(k), qsp.no_doses(), ts, method=method, throw=False).observed["y"]

    np.testing.assert_allclose(simulate(2.0), ts * np.sin(ts) + np.cos(ts) - 1, atol=1e-7)
    # off the slow solution x = cos t + d exp(-k t), y gains d (1 - (1 + k t) exp(-k t)) / k^2
    offset = 0.5

    def shifted(k):
        start = Plane(1.0 + offset, 0.0)
        return qsp.simulate(Prothero(k), qsp.no_doses(), ts, method=method, initial=start, throw=False).observed["y"]

    gain = jax.vmap(jax.grad(lambda k, t: offset * (1 - (1 + k * t) * jnp.exp(-k * t)) / k**2), (None, 0))
    reference = gain(jnp.asarray(2.0), ts)
    np.testing.assert_allclose(jax.jacfwd(shifted)(2.0), reference, atol=3e-6)
    np.testing.assert_allclose(jax.jacrev(shifted)(2.0), reference, atol=3e-6)


@pytest.mark.parametrize("k", [1e2, 1e6])
def test_stiff_problem_needs_few_steps(k):
    ts = np.linspace(0.0, 3.0, 7)
    solution = qsp.simulate(Prothero(k), qsp.no_doses(), ts)
    np.testing.assert_allclose(solution.observed["x"], np.cos(ts), atol=1e-6)
    assert int(solution.stats["steps"]) < 200


def test_robertson():
    """Against the reference of the Bari test set for initial value problems (t = 1e11)."""
    method = qsp.solve.Diffrax(rtol=1e-8, atol=1e-14)
    solution = qsp.simulate(Robertson(), qsp.no_doses(), [0.0, 1e11], method=method)
    end = [float(leaf[-1]) for leaf in solution.states]
    reference = [0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050]
    np.testing.assert_allclose(end, reference, rtol=1e-6)


@pytest.mark.slow
def test_stiff_binding_against_an_independent_solver():
    """Full TMDD with a fast target, four doses, against scipy's Radau."""
    model = qsp.models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=10.0, koff=1.0, kdeg=10.0, kint=5.0, R0=1.0)
    ts = np.arange(0.0, 85.0, 7.0)
    solution = qsp.simulate(
        model,
        qsp.bolus(70.0, to="central").every(21.0, doses=4),
        ts,
        method=qsp.solve.Diffrax(rtol=1e-10, atol=1e-14),
    )

    @jax.jit
    def slope(t, y):
        return jnp.stack(jax.tree.leaves(model.vector_field(t, type(model.initial())(*y))))

    def field(t, y):
        return np.asarray(slope(t, y))

    y = np.asarray(jax.tree.leaves(model.initial()), dtype=float)
    for i, start in enumerate((0.0, 21.0, 42.0, 63.0)):
        y = y + np.eye(4)[0] * 70.0 * 1e6 / 150e3 / 3.0
        inside = (ts >= start) & (ts < start + 21.0)
        piece = solve_ivp(field, (start, start + 21.0), y, "Radau", dense_output=True, rtol=1e-10, atol=1e-13)
        reference = piece.sol(ts[inside])
        for state, expected in zip(jax.tree.leaves(solution.states), reference, strict=True):
            np.testing.assert_allclose(np.asarray(state)[inside], expected, rtol=1e-6, atol=1e-9, err_msg=f"dose {i}")
        y = piece.y[:, -1]


def test_large_system_uses_the_library_factorisation():
    """A chain of 30 transit compartments is the Erlang density."""
    model = qsp.models.TransitAbsorption(CL=1e-6, V=1.0, ka=50.0, mtt=5.0, transits=30)
    ts = np.linspace(0.0, 10.0, 11)
    solution = qsp.simulate(model, qsp.bolus(1.0, to="oral"), ts, method=qsp.solve.Diffrax(rtol=1e-9, atol=1e-12))
    rate = 31 / 5.0
    from scipy.stats import gamma

    np.testing.assert_allclose(solution.states.transit.sum(1), gamma(31, scale=1 / rate).sf(ts), atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rtol": 0.0}, "Argument `rtol` must be positive, but is 0."),
        ({"atol": -1.0}, "Argument `atol` must be positive, but is -1."),
        ({"max_steps": 0}, "Argument `max_steps` must be positive, but is 0."),
        (
            {"solver": diffrax.Euler()},
            "Argument `solver` must be a diffrax solver for one ordinary differential equation, "
            "with an error estimate, but is `Euler`.",
        ),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError) as error:
        qsp.solve.Diffrax(**arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("method", [qsp.solve.Diffrax, qsp.solve.Rosenbrock, qsp.solve.Explicit, qsp.solve.Automatic])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rtol": -1.0}, "`rtol` must be positive, but is -1."),
        ({"rtol": "tight"}, "`rtol` must be a number, but is `tight`."),
        ({"atol": float("nan")}, "`atol` must be positive, but is nan."),
        ({"max_steps": 0}, "`max_steps` must be positive, but is 0."),
    ],
)
def test_settings_in_words(method, settings, words):
    with pytest.raises(ValueError) as caught:
        method(**settings)
    assert str(caught.value) == f"Argument {words}"

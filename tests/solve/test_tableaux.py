"""Every Rosenbrock tableau that `qspjax.solve` exports: order conditions, stability, and its two paths.

Conditions by rooted trees: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.7,
doi:10.1007/978-3-642-05221-7.
"""

import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._model import as_state
from qspjax.solve.kernel._layout import system_of
from qspjax.solve.kernel._rosenbrock import Lanes, rosenbrock_step, slope_of
from tests.solve.test_reference_problems import Logistic, Plane

TABLEAUX = [
    value()
    for value in vars(qsp.solve).values()
    if isinstance(value, type)
    and issubclass(value, qsp.solve.AbstractRosenbrockTableau)
    and value is not qsp.solve.AbstractRosenbrockTableau
]
every_tableau = pytest.mark.parametrize("tableau", TABLEAUX, ids=lambda tableau: tableau.name)


def partitions(number, largest):
    if number == 0:
        yield ()
    for part in range(min(number, largest), 0, -1):
        yield from ((part, *parts) for parts in partitions(number - part, part))


def trees(order):
    """Return the rooted trees of so many nodes, each the tuple of the subtrees at its root."""
    subtrees = (itertools.product(*map(trees, sizes)) for sizes in partitions(order - 1, order - 1))
    return sorted({tuple(sorted(tree)) for tree in itertools.chain.from_iterable(subtrees)})


def density(tree):
    """Return (the number of nodes of the tree, gamma(t))."""
    sizes, densities = np.array([density(subtree) for subtree in tree]).reshape(-1, 2).T
    nodes = 1 + sizes.sum()
    return nodes, nodes * densities.prod()


def elementary(tree, alpha, beta):
    """Return the weights of a tree in every stage: an only subtree has beta, several have alpha."""
    weights = beta if len(tree) == 1 else alpha
    return np.prod([weights @ elementary(subtree, alpha, beta) for subtree in tree], axis=0) * np.ones(len(alpha))


def classical(tableau):
    """Return alpha, beta = alpha + Gamma, the weights b of the solution and those of the embedded solution."""
    Gamma = tableau.Gamma
    alpha = tableau.A @ Gamma
    b = np.append(tableau.A[-1, :-1], 1.0) @ Gamma
    return alpha, alpha + Gamma, b, b - np.array(tableau.error) @ Gamma


def residuals(weights, alpha, beta, order):
    return [weights @ elementary(tree, alpha, beta) - 1.0 / density(tree)[1] for tree in trees(order)]


@every_tableau
def test_order_conditions(tableau):
    """The solution has its order and no more, the embedded one an order less."""
    alpha, beta, b, embedded = classical(tableau)
    for weights, order in ((b, tableau.order), (embedded, tableau.order - 1)):
        for q in range(1, order + 1):
            np.testing.assert_allclose(residuals(weights, alpha, beta, q), 0.0, atol=1e-13)
        assert np.abs(residuals(weights, alpha, beta, order + 1)).max() > 1e-3


@every_tableau
def test_stability(tableau):
    """Stiffly accurate, A-stable on the imaginary axis, R(inf) = 0, and every stage within the step."""
    _, beta, b, _ = classical(tableau)
    np.testing.assert_allclose(b, beta[-1], atol=1e-13)
    ones = np.ones(tableau.stages)

    def R(z):
        return 1.0 + z * b @ np.linalg.solve(np.eye(tableau.stages) - z * beta, ones)

    assert abs(1.0 - b @ np.linalg.solve(beta, ones)) < 1e-12
    assert max(abs(R(1j * y)) for y in np.geomspace(1e-2, 1e4, 200)) < 1.0 + 1e-9
    assert tableau.times.min() >= 0.0
    assert tableau.times.max() <= 1.0 + 1e-12


@every_tableau
@pytest.mark.parametrize("unrolled", [True, False])
def test_diffrax_makes_the_same_step(tableau, unrolled):
    model, y, t, h = Logistic(), Plane(jnp.array(0.3), jnp.array(1.0)), jnp.array(0.5), 0.25
    system, leaves = system_of(model, as_state(model, None))
    lanes = Lanes(system.prepare(leaves), ())
    lane = jax.tree.map(lambda x: jnp.reshape(x, 1), (t, jnp.array(h), tuple(y)))
    slope = slope_of(system, lanes, None)(lane[0], lane[2])
    expected = rosenbrock_step(tableau, system, lanes, *lane, None, slope)[:2]
    solver = qsp.solve.RosenbrockSolver(tableau, unrolled=unrolled)
    term = diffrax.ODETerm(lambda t, y, _: model.vector_field(t, y))
    y1, error, *_ = solver.step(term, t, t + h, y, None, None, False)
    np.testing.assert_allclose(y1, np.ravel(expected[0]), rtol=1e-13)
    np.testing.assert_allclose(error, np.ravel(expected[1]), rtol=1e-8, atol=1e-15)


def test_both_paths_take_the_same_object():
    tableau, patient = qsp.solve.Rodas4P2(), qsp.models.OneCompartment(CL=3.0, V=30.0)
    rosenbrock, twin = qsp.solve.Rosenbrock(tableau, rtol=1e-8), qsp.solve.Diffrax(tableau, rtol=1e-8)
    assert rosenbrock.describe() == twin.describe() == "Rodas4P2 at rtol 1e-08, atol 1e-09"
    solution = qsp.simulate(patient, qsp.bolus(30.0, to="central"), [10.0], method=twin)
    np.testing.assert_allclose(solution.observed["concentration"], np.exp(-1.0), rtol=1e-6)


def test_a_tableau_is_checked():
    with pytest.raises(ValueError, match=r"`tableau` must be a tableau such as Rodas5P\(\), but is of type int"):
        qsp.solve.Rosenbrock(4)

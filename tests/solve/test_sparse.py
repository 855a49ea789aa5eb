"""Sparsity patterns, colourings, sparse Jacobians and sparse factorisations of the kernel, against dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._jaxpr._sparsity import jacobian_pattern
from qspjax.solve.kernel._jacobian import coloured_jacobian, colouring, columns_jacobian
from qspjax.solve.kernel._layout import system_of
from qspjax.solve.kernel._sparse_lu import Elimination

N = 6
INDICES = jnp.array([1, 2, -1])
MATRIX = np.array([[0, 1, 0, 2, 0, 0], [1, 0, 0, 0, 0, 0.0]])


@jax.custom_jvp
def rounded(x):
    """Round, with the derivative of the identity."""
    return jnp.round(x)


rounded.defjvp(lambda x, t: (jnp.round(x[0]), t[0]))


def shifted_while(y):
    return jax.lax.while_loop(lambda c: c[0] < y[5], lambda c: (c[0] + 1, jnp.roll(c[1], 1).at[0].set(0.0)), (0, y))[1]


EXACT = {
    "elementwise": lambda y: y[:2] * jnp.exp(y[2:4]) / (1.0 + y[4] ** 2) + jnp.sqrt(y[5] * y[5]) ** 1.5,
    "broadcast": lambda y: y.reshape(2, 3) * y[:2][:, None],
    "element": lambda y: [y[3], y[-1] * y[0]],
    "unpacked": lambda y: [a * b for a, b in zip(y, y[1:], strict=False)],
    "constant outputs": lambda y: [1.0, y[0], 2],
    "slices": lambda y: y[1:5:2] + y[::3],
    "gather": lambda y: y[INDICES] * y[np.array([0, 0, 3])],
    "vmapped index": lambda y: jax.vmap(lambda i: y[i] * 2)(jnp.arange(3)),
    "dynamic slice": lambda y: jax.lax.dynamic_slice(y, (jnp.array(2) + 1,), (2,)),
    "dynamic update": lambda y: jax.lax.dynamic_update_slice(y, y[:2] * 2, (3,)),
    "concatenate, reverse, transpose": lambda y: jnp.concatenate([y[::-1], y.reshape(2, 3).T.ravel(), jnp.ones(2)]),
    "pad": lambda y: jax.lax.pad(y, y[0], [(1, -1, 1)]),
    "split": lambda y: jnp.split(y, 3),
    "known where": lambda y: jnp.where(jnp.arange(N) < 3, y, y[::-1] ** 2),
    "mask": lambda y: y * np.array([1, 0, 1, 0, 0, 1.0]),
    "no derivative": lambda y: [
        jnp.floor(y), jnp.sign(y), (y > 0).astype(float), jax.lax.stop_gradient(y), jnp.argmax(y), jnp.round(y)
    ],
    "sums": lambda y: [y.reshape(2, 3).sum(0), y.reshape(2, 3).mean(1), y.reshape(2, 3).prod(0)],
    "cumulative": lambda y: [jnp.cumsum(y), jax.lax.cumsum(y, reverse=True), jnp.cumprod(y)],
    "known matrix": lambda y: [MATRIX @ y, y @ jnp.asarray(MATRIX).T * y[0]],
    "matrix of states": lambda y: jnp.einsum("ij,jk->ik", y.reshape(2, 3), y.reshape(3, 2)),
    "known batched matrix": lambda y: jnp.einsum("bij,bj->bi", MATRIX.reshape(2, 2, 3), y.reshape(2, 3)),
    "segment sum": lambda y: jax.ops.segment_sum(y * y[0], np.array([0, 1, 1, 2, 2, 9]), 3),
    "scatter": lambda y: y.at[2].set(0.0).at[INDICES].add(y[3]).at[0].set(y[5]),
    "scatter twice": lambda y: jnp.zeros(N).at[jnp.array([2, 3])].set(y[jnp.array([1, 0])]),
    "jit": jax.jit(lambda y: y[1:] * 2),
    "checkpoint": jax.checkpoint(lambda y: jnp.sin(y)),
    "custom_jvp": lambda y: [rounded(y), jax.nn.relu(y)],
    "scan": lambda y: jax.lax.scan(lambda c, x: (c + x, c * x), y[0], y[1:]),
    "reversed scan": lambda y: jax.lax.scan(lambda c, x: (c * x, c), 1.0, y, reverse=True)[1],
    "counted loop": lambda y: jax.lax.fori_loop(0, N, lambda i, s: s.at[i].add(y[i] * y[(i + 1) % N]), jnp.zeros(N)),
    "known branch": lambda y: jax.lax.switch(jnp.array(1), [lambda y: y, lambda y: y[::-1]], y),
}  # fmt: skip
LOOSE = {
    "where": lambda y: jnp.where(y[0] > 1, y[1:3], y[3:5] * 2),
    "maximum": lambda y: y.reshape(2, 3).max(1),
    "sort": lambda y: jnp.sort(y),
    "branches": lambda y: jax.lax.cond(y[0] > 0, lambda y: y, lambda y: y[::-1], y),
    "while": shifted_while,
    "long scan": lambda y: jax.lax.scan(lambda c, _: (jnp.roll(c, 1) * 0.9, c[0]), y[:3], length=1001),
    "unknown index": lambda y: jax.lax.dynamic_slice(y, (y[0].astype(int),), (2,)),
    "unknown scatter": lambda y: jnp.zeros(N).at[y[0].astype(int)].set(y[1]),
    "linear solve": lambda y: jnp.linalg.solve(jnp.eye(2) * y[0] + 1, y[1:3]),
    "interpolation": lambda y: jnp.interp(y[:2], jnp.arange(4.0), jnp.arange(4.0) ** 2),
}


def found(function):
    """Return where the Jacobian is other than zero at a few points."""

    def flat(y):
        return jnp.concatenate([jnp.ravel(jnp.asarray(x, float)) for x in jax.tree.leaves(function(y))])

    jacobian = jax.jit(jax.jacfwd(flat))
    points = np.random.default_rng(0).normal(1.0, 1.5, (4, N))
    return np.any([np.asarray(jacobian(y)) != 0 for y in points], axis=0)


@pytest.mark.parametrize("function", EXACT.values(), ids=EXACT)
def test_pattern_is_exact(function):
    pattern = jacobian_pattern(function, jax.ShapeDtypeStruct((N,), float))
    np.testing.assert_array_equal(pattern, found(function))


@pytest.mark.parametrize("function", LOOSE.values(), ids=LOOSE)
def test_pattern_is_never_too_small(function):
    pattern = jacobian_pattern(function, jax.ShapeDtypeStruct((N,), float))
    assert not (found(function) & ~pattern).any()


def test_pattern_of_cases():
    """Of an unknown choice both cases count, and the predicate does not."""
    pattern = jacobian_pattern(LOOSE["where"], jax.ShapeDtypeStruct((N,), float))
    np.testing.assert_array_equal(pattern, [[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0]])


def test_pattern_of_an_unknown_primitive_is_dense():
    pattern = jacobian_pattern(lambda y: jnp.fft.ifft(jnp.fft.fft(y[:3])).real, jax.ShapeDtypeStruct((N,), float))
    np.testing.assert_array_equal(pattern, [[1, 1, 1, 0, 0, 0]] * 3)


def test_pattern_of_a_tuple_with_unknown_constants():
    """Constants that are handed over have no value: a coefficient that is zero today may not be tomorrow."""

    def field(y, k, matrix):
        a, b, c = y
        return (k * a * b, c, (matrix @ jnp.stack([a, c])).sum())

    scalar = jax.ShapeDtypeStruct((), float)
    pattern = jacobian_pattern(field, (scalar,) * 3, 0.0, np.zeros((2, 2)))
    np.testing.assert_array_equal(pattern, [[1, 1, 0], [0, 0, 1], [1, 0, 1]])


def test_pattern_inside_a_trace():
    """What is closed over may itself be traced; indices are still known."""
    seen = []

    @jax.jit
    def outer(k):
        seen.append(jacobian_pattern(lambda y: k * y[jnp.array([2, 0])], jax.ShapeDtypeStruct((3,), float)))
        return k

    outer(1.0)
    np.testing.assert_array_equal(seen[0], [[0, 0, 1], [1, 0, 0]])


def network(n, seed=0):
    """Return the field of a random reaction network, (n, lanes) -> (n, lanes)."""
    rng = np.random.default_rng(seed)
    reactions = 2 * n
    a, b, c = rng.integers(0, n, (3, reactions))
    k = jnp.asarray(rng.uniform(0.1, 2.0, (reactions, 1)))

    def field(y):
        rate = k * y[a] * y[jnp.asarray(b)] / (1.0 + y[b])
        return jax.ops.segment_sum(rate, c, n) - jax.ops.segment_sum(rate, a, n)

    return field


def network_pattern(field, n):
    return jacobian_pattern(lambda y: field(y[:, None])[:, 0], jax.ShapeDtypeStruct((n,), float))


def lane_jacobians(field, y):
    """Return the dense Jacobians of all lanes, shape (lanes, n, n)."""
    return jax.jit(jax.vmap(jax.jacfwd(lambda y: field(y[:, None])[:, 0])))(y.T)


def test_pattern_of_a_network():
    n = 40
    field = network(n)
    pattern = network_pattern(field, n)
    y = jnp.asarray(np.random.default_rng(1).uniform(0.5, 2.0, (n, 3)))
    nonzero = np.any(np.asarray(lane_jacobians(field, y)) != 0, axis=0)
    assert not (nonzero & ~pattern).any()
    assert pattern.sum() <= nonzero.sum() + 3  # a + b -> a cancels in numbers, not in structure


@pytest.mark.parametrize("n", [1, 60])
def test_colouring(n):
    pattern = network_pattern(network(n), n)
    colours = colouring(pattern)
    assert colours.min() == 0
    assert set(colours) == set(range(colours.max() + 1))
    for colour in range(colours.max() + 1):
        assert pattern[:, colours == colour].sum(1).max() <= 1


def test_jacobians_by_colour_and_by_column():
    n = 8
    field = network(n)
    y = jnp.asarray(np.random.default_rng(1).uniform(0.5, 2.0, (n, 5)))
    pattern = network_pattern(field, n)
    rows, cols = np.nonzero(pattern)
    dense = lane_jacobians(field, y)

    colours = colouring(pattern)
    coloured = jax.jit(lambda y: coloured_jacobian(field, y, rows, cols, colours))(y)
    np.testing.assert_allclose(coloured, dense[:, rows, cols].T, rtol=1e-13, atol=1e-13)

    by_column = jax.jit(lambda y: columns_jacobian(lambda y: tuple(field(jnp.stack(y))), tuple(y), pattern))
    columns = by_column(y)
    assert list(columns) == list(zip(rows, cols, strict=True))
    np.testing.assert_allclose(np.stack(list(columns.values())), coloured, rtol=1e-13, atol=1e-13)


def test_columns_compute_only_what_depends():
    """The derivative of the first term is written down once, not in the column of the second state."""
    pattern = np.array([[True, False], [True, True]])

    def field(y):
        return jnp.sin(y[0]), y[0] * y[1]

    y = (jnp.ones(3), jnp.full(3, 2.0))
    entries = columns_jacobian(field, y, pattern)
    assert set(entries) == {(0, 0), (1, 0), (1, 1)}
    assert str(jax.make_jaxpr(lambda y: list(columns_jacobian(field, y, pattern).values()))(y)).count("cos ") == 1
    np.testing.assert_allclose(entries[1, 1], 1.0)
    np.testing.assert_allclose(entries[1, 0], 2.0)


def test_derivatives_of_the_coloured_jacobian():
    n = 5
    field = network(n)
    pattern = network_pattern(field, n)
    rows, cols = np.nonzero(pattern)
    colours = colouring(pattern)
    rng = np.random.default_rng(1)
    y, direction = (jnp.asarray(rng.uniform(0.5, 2.0, (n, 2))) for _ in range(2))

    @jax.jit
    def total(y):
        return jnp.sum(jnp.sin(coloured_jacobian(field, y, rows, cols, colours)))

    gradient = jax.jit(jax.grad(total))
    reverse = jnp.vdot(gradient(y), direction)
    step = 1e-5
    difference = (total(y + step * direction) - total(y - step * direction)) / (2 * step)
    np.testing.assert_allclose(reverse, difference, rtol=1e-7)
    np.testing.assert_allclose(jax.jvp(total, (y,), (direction,))[1], reverse, rtol=1e-12)
    second = jax.jvp(gradient, (y,), (direction,))[1]
    difference = (gradient(y + step * direction) - gradient(y - step * direction)) / (2 * step)
    np.testing.assert_allclose(second, difference, rtol=1e-6, atol=1e-7)


class Hub(qsp.AbstractModel):
    """Complexes of one ligand with many receptors: dy/dt sums two rates of each over the receptors."""

    kon: jax.Array = qsp.parameter(unit="1/h", doc="association rate constants")
    koff: jax.Array = qsp.parameter(unit="1/h", doc="dissociation rate constants")
    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")

    def initial(self):
        n = self.kon.size
        return {"ligand": jnp.asarray(5.0), "free": jnp.linspace(1.0, 2.0, n), "bound": jnp.zeros(n)}

    def vector_field(self, t, y):
        on, off = self.kon * y["free"] * y["ligand"], self.koff * y["bound"]
        net = jnp.concatenate([on, off]).reshape(2, -1)
        bound = net[0] - net[1] - jnp.pad(0.1 * jnp.sin(y["bound"][1:]), (1, 0))
        free = -bound.at[0].add(2.0 * jnp.exp(-t))
        return {"bound": bound, "free": free, "ligand": -(net[0] - net[1]).sum() - self.k * y["ligand"]}

    def observe(self, t, y):
        return {"ligand": y["ligand"]}


def test_jacobian_by_rates():
    n, lanes = 30, 3
    rng = np.random.default_rng(0)
    model = Hub(*(jnp.asarray(rng.uniform(0.5, 2.0, n)) for _ in range(2)), k=0.3)
    system, leaves = system_of(model, model.initial())
    plan, lu = system.rates_jacobian, system.elimination
    assert plan.colours.max() < 4 < n < system.colours.max()
    assert len(plan.levels) == 5  # the entry of the ligand on the diagonal has 31 terms
    constants = [jnp.stack([leaf] * lanes, -1) for leaf in system.prepare(leaves)]
    batched = (True,) * len(constants)
    t = jnp.asarray(rng.uniform(0.0, 1.0, lanes))
    y, direction = (jnp.asarray(rng.uniform(0.5, 2.0, (system.size, lanes))) for _ in range(2))

    def entries(y):
        return plan(lambda y: system.rates(constants, batched, t, y), y)

    def field(t, y):
        return system.slope([c[..., 0] for c in constants], t, y)

    dense = jax.vmap(jax.jacfwd(field, argnums=1), (0, -1))(t, y)
    rows, cols = lu.rows[: lu.originals], lu.cols[: lu.originals]
    np.testing.assert_allclose(jax.jit(entries)(y), dense[:, rows, cols].T, rtol=1e-13, atol=1e-14)
    _, forward = jax.jvp(entries, (y,), (direction,))
    second = jax.jvp(jax.vmap(jax.jacfwd(field, argnums=1), (0, -1)), (t, y), (jnp.zeros_like(t), direction))[1]
    np.testing.assert_allclose(forward, second[:, rows, cols].T, rtol=1e-12, atol=1e-13)
    backward = jax.vjp(entries, y)[1](forward)[0]
    np.testing.assert_allclose(jnp.vdot(backward, direction), jnp.vdot(forward, forward), rtol=1e-12)


def test_a_field_without_rates_keeps_its_colours():
    """A rate constant after the sum, or a nonlinear end, is not a matrix of numbers."""

    class Scaled(Hub):
        def vector_field(self, t, y):
            return jax.tree.map(lambda row: row * self.k, super().vector_field(t, y))

    model = Scaled(jnp.ones(30), jnp.ones(30), k=0.3)
    assert system_of(model, model.initial())[0].rates_jacobian is None


def system(n, lanes=3):
    """Return a pattern, matrices I/gamma - h J of that pattern, and right-hand sides (n, lanes)."""
    rng = np.random.default_rng(n)
    pattern = rng.uniform(size=(n, n)) < min(0.5, 3.0 / n)
    jacobian = rng.normal(size=(lanes, n, n)) * pattern
    return pattern, np.eye(n) / 0.212 - 0.4 * jacobian, rng.normal(size=(n, lanes))


def dense_solutions(a, b):
    solutions = (np.linalg.solve(a, b.T[..., None]), np.linalg.solve(a.transpose(0, 2, 1), b.T[..., None]))
    return [x[..., 0].T for x in solutions]


def entries_of(elimination, a):
    """Return the stored entries as rows of lanes; those of fill hold what must not be read."""
    entries = np.stack([a[:, i, j] for i, j in zip(elimination.rows, elimination.cols, strict=True)])
    return jnp.asarray(np.where(elimination.filled[:, None], np.nan, entries))


def both_forms(elimination, entries, b):
    """Return x and its transposed counterpart, unrolled and looped."""

    @jax.jit
    def unrolled(entries, b):
        factors = elimination.factorise(list(entries))
        return elimination.solve(factors, list(b)), elimination.solve_transposed(factors, list(b))

    @jax.jit
    def by_table(entries, b):
        factors = elimination.factorise_rows(entries)
        return elimination.solve_rows(factors, b), elimination.solve_rows_transposed(factors, b)

    yield map(np.stack, unrolled(entries, b))
    yield by_table(entries, b)


@pytest.mark.parametrize("n", [1, 4, 30])
def test_factorisation(n):
    pattern, a, b = system(n)
    elimination = Elimination.of(pattern)
    expected = dense_solutions(a, b)
    for solutions in both_forms(elimination, entries_of(elimination, a), jnp.asarray(b)):
        for x, y in zip(solutions, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * np.abs(y).max())


def test_factorisation_of_a_large_system_by_table():
    pattern, a, b = system(150)
    elimination = Elimination.of(pattern)
    factors = jax.jit(elimination.factorise_rows)(entries_of(elimination, a)[: elimination.originals])
    solutions = (elimination.solve_rows(factors, jnp.asarray(b)), elimination.solve_rows_transposed(factors, b))
    for x, y in zip(solutions, dense_solutions(a, b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * np.abs(y).max())


def test_plan_of_an_arrow_matrix_has_no_fill():
    """The state that all others meet is the last pivot."""
    pattern = np.eye(5, dtype=bool)
    pattern[0, :] = pattern[:, 0] = True
    elimination = Elimination.of(pattern)
    assert elimination.order[-1] in (0, 4)
    assert not elimination.filled.any()
    assert elimination.operations == 4
    assert [elimination.entry[i, i] for i in range(5)] == elimination.diagonal.tolist()


def test_entries_that_are_numbers():
    """A number stands for the same value in every lane."""
    a = np.array([[4.0, 1.0, 0.0], [2.0, 5.0, 1.0], [0.0, 1.0, 3.0]])
    elimination = Elimination.of(a != 0)
    entries = [float(a[i, j]) for i, j in zip(elimination.rows, elimination.cols, strict=True)]
    lanes = jnp.array([4.0, 6.0])
    entries[elimination.entry[0, 0]] = lanes
    b = [1.0, jnp.array([1.0, 2.0]), -1]
    x = jnp.stack(elimination.solve(elimination.factorise(entries), b))
    for lane in range(2):
        a[0, 0] = lanes[lane]
        np.testing.assert_allclose(x[:, lane], np.linalg.solve(a, [1.0, [1.0, 2.0][lane], -1.0]), rtol=1e-14)


def test_diagonal_that_fills():
    """An algebraic state has no diagonal entry of its own: its pivot waits until it has filled."""
    pattern = np.array([[0, 1, 0], [1, 1, 0], [0, 1, 1]], bool)
    a = np.array([[0.0, 2.0, 0.0], [1.0, 4.0, 0.0], [0.0, 0.5, 3.0]])[None].repeat(2, 0)
    elimination = Elimination.of(pattern, algebraic=[0])
    assert elimination.order.index(0) > elimination.order.index(1)
    b = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]])
    expected = dense_solutions(a, b)
    for solutions in both_forms(elimination, entries_of(elimination, a), jnp.asarray(b)):
        for x, y in zip(solutions, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-13)


def test_pivot_that_never_fills():
    with pytest.raises(ValueError, match=r"the diagonal entries of unknowns \[1\] stay zero"):
        Elimination.of(np.array([[True, False], [True, False]]), algebraic=[1])


def test_a_vanishing_pivot_is_not_finite():
    elimination = Elimination.of(np.ones((2, 2), bool))
    factors = elimination.factorise([0.0, jnp.ones(1), jnp.ones(1), 1.0])
    assert not np.isfinite(jnp.stack(elimination.solve(factors, [jnp.ones(1)] * 2))).all()

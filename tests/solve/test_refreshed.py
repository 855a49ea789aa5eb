"""Matrices of an interval and their derivatives, against those of their series."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax  # noqa: F401
from qspjax.solve._phi import entries
from qspjax.solve._refreshed import refreshed

LANES = 3


def expected(h, a):
    """Return exp(h A) and h phi_1(h A) by their series, for h A of a norm below 10."""
    unit = jnp.eye(len(a))

    def add(sums, k):
        phi, term = sums
        term = h * a @ term / (k + 1.0)
        return (phi + term, term), None

    phi = h * jax.lax.scan(add, (unit, unit), jnp.arange(1.0, 60.0))[0][0]
    return unit + a @ phi, phi


def dense(a, n):
    zero = jnp.zeros(())
    return (
        jnp.array([[a.get((i, j), zero) for j in range(n)] for i in range(n)])
        if isinstance(a, dict)
        else jnp.asarray(a)
    )


def computed(h, a, fresh=True):
    n = len(a)
    pattern = np.tril(np.ones((n, n), bool)) if n <= 8 else np.ones((n, n), bool)
    matrix = entries(list(a.T), pattern)
    zero = jax.tree.map(jnp.zeros_like, matrix)
    return tuple(dense(x, n) for x in refreshed(jnp.asarray(fresh), h, matrix, pattern, (zero, zero)))


def derivatives(function):
    """Return value, gradient and products with the second derivative, in every order of modes."""

    def total(a, h, w):
        power, inputs = function(h, a)
        return jnp.sum(w * power) + jnp.sum(jnp.sin(w * inputs))

    def of(a, h, w, e):
        gradient = jax.grad(total)

        def along(a):
            return jax.jvp(lambda a: total(a, h, w), (a,), (e,))[1]

        twice = jax.grad(lambda a: jnp.sum(e * gradient(a, h, w)))(a)
        moved = jax.jvp(lambda a: gradient(a, h, w), (a,), (e,))[1]
        return gradient(a, h, w), moved, jax.grad(along)(a), twice

    return of


@pytest.mark.parametrize("n", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_derivatives_in_every_order_of_modes(n):
    rng = np.random.default_rng(0)
    a = jnp.asarray(np.tril(rng.normal(size=(LANES, n, n))) - 2.0 * np.eye(n))
    h, w, e = jnp.array([0.1, 0.5, 1.5]), jnp.asarray(np.tril(rng.normal(size=(n, n)))), jnp.tril(jnp.ones((n, n)))
    for axes in ((0, 0, None, None), (None, 0, None, None))[: 1 if n == 3 else 2]:
        arguments = (a if axes[0] == 0 else a[1], h, w, e)
        got, want = (jax.jit(jax.vmap(derivatives(f), in_axes=axes))(*arguments) for f in (computed, expected))
        for g, x in zip(got, want, strict=True):  # entries above the diagonal are no part of the pattern of few states
            np.testing.assert_allclose(jnp.tril(g), jnp.tril(x), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_matrices_that_are_shared_have_a_gradient_that_is_a_sum():
    a, h = jnp.array([[-1.0, 0.0], [0.5, -0.2]]), jnp.array([0.5, 1.0, 4.0])

    def gradient(function):
        return jax.grad(lambda a: sum(jnp.sum(x**2) for x in jax.vmap(function, in_axes=(0, None))(h, a)))

    np.testing.assert_allclose(jax.jit(gradient(computed))(a), jnp.tril(jax.jit(gradient(expected))(a)), rtol=1e-12)


@pytest.mark.slow
def test_directions_of_one_matrix():
    a, basis = jnp.array([[-1.0, 0.0], [0.5, -0.2]]), jnp.eye(4).reshape(4, 2, 2)

    def along(function):
        return jax.vmap(lambda e: jax.jvp(lambda a: function(2.0, a), (a,), (jnp.tril(e),))[1])

    for got, want in zip(jax.jit(along(computed))(basis), jax.jit(along(expected))(basis), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_old_matrices_are_kept():
    def kept(a):
        return computed(2.0, a, fresh=False)

    a = jnp.array([[-1.0, 0.0], [0.5, -0.2]])
    value, tangent = jax.jit(lambda a: jax.jvp(kept, (a,), (a,)))(a)
    assert all(not np.any(x) for x in (*value, *tangent))
    assert not np.any(jax.jit(jax.grad(lambda a: jnp.sum(kept(a)[0])))(a))

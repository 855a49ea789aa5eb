"""Factors of small symmetric matrices against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qspjax.fit.mixed._symmetric import backward, factorised, forward


def drawn(n, subjects=5):
    rng = np.random.default_rng(n)
    root = rng.normal(size=(subjects, n, n))
    return root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(n), rng.normal(size=(subjects, n))


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_factors_are_those_of_numpy(n):
    matrices, b = drawn(n)
    found = factorised(jnp.asarray(matrices))
    assert found.positive.all()
    np.testing.assert_allclose(found.root, np.linalg.cholesky(matrices), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.log_determinant, np.linalg.slogdet(matrices)[1], rtol=1e-9)
    np.testing.assert_allclose(found.solve(jnp.asarray(b)), np.linalg.solve(matrices, b[..., None])[..., 0], rtol=1e-7)
    lower = np.linalg.cholesky(matrices)
    np.testing.assert_allclose(lower @ forward(lower, jnp.eye(n)), np.broadcast_to(np.eye(n), lower.shape), atol=1e-9)
    transposed = np.swapaxes(lower, 1, 2)
    np.testing.assert_allclose(
        transposed @ backward(lower, jnp.eye(n)), np.broadcast_to(np.eye(n), lower.shape), atol=1e-9
    )


def test_a_matrix_that_is_not_positive_still_solves_and_has_no_logarithm():
    matrices, b = drawn(3)
    matrices[2] -= 4.0 * np.eye(3)
    found = factorised(jnp.asarray(matrices))
    np.testing.assert_array_equal(found.positive, np.linalg.eigvalsh(matrices).min(axis=1) > 0)
    assert not found.positive.all()
    np.testing.assert_array_equal(np.isnan(found.log_determinant), ~found.positive)
    np.testing.assert_array_equal(np.isnan(found.root).any(axis=(1, 2)), ~found.positive)
    np.testing.assert_allclose(found.solve(jnp.asarray(b)), np.linalg.solve(matrices, b[..., None])[..., 0], rtol=1e-8)


def test_the_derivative_of_a_log_determinant_is_the_trace_of_the_inverse():
    matrices, _ = drawn(4)
    way = np.eye(4) + 0.3 * np.ones((4, 4))
    _, moved = jax.jvp(
        lambda A: factorised(A).log_determinant, (jnp.asarray(matrices),), (jnp.asarray(way + 0 * matrices),)
    )
    np.testing.assert_allclose(
        moved, np.trace(np.linalg.solve(matrices, way + 0 * matrices), axis1=1, axis2=2), rtol=1e-9
    )

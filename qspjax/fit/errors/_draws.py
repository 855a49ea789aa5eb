"""Measurements at random: one from each density of an error model."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from qspjax.fit.errors._models import (
    AbstractErrorModel,
    AbstractScaled,
    Binary,
    LogNormalError,
    Ordinal,
    Poisson,
    Predictors,
)
from qspjax.fit.errors._tails import AbstractTails, Gaussian, Laplace, StudentT


def drawn(error: AbstractErrorModel, key: Any, predictors: Predictors) -> Array:
    """Return one measurement from each density, shape (rows,).

    Args:
        error: The error model.
        key: `jax.random.key(seed)`.
        predictors: What its densities depend on.

    Raises:
        TypeError: If nothing can be drawn from the error model.
    """
    first = predictors[0]
    if isinstance(error, (AbstractScaled, LogNormalError)):
        value = first + jnp.exp(predictors[1]) * _standard(error.tails, key, first.shape)
        return error.base**value if isinstance(error, LogNormalError) else value
    if isinstance(error, Poisson):
        return jax.random.poisson(key, first).astype(float)
    if isinstance(error, Binary):
        return jax.random.bernoulli(key, first).astype(float)
    if isinstance(error, Ordinal):
        uniform = jax.random.uniform(key, first.shape)
        return jnp.sum(uniform > jax.nn.sigmoid(jnp.stack(predictors)), axis=0).astype(float)
    raise TypeError(f"Nothing can be drawn from {type(error).__name__}.")


def _standard(tails: AbstractTails, key: Any, shape: tuple[int, ...]) -> Array:
    if isinstance(tails, Gaussian):
        return jax.random.normal(key, shape)
    if isinstance(tails, Laplace):
        return jax.random.laplace(key, shape)
    if isinstance(tails, StudentT):
        return jax.random.t(key, tails.df, shape)
    raise TypeError(f"Nothing can be drawn from {type(tails).__name__}.")

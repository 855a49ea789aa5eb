"""Randomness: a key in Python, a seed in files; numpy and scipy draw from the generator of a key."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import refuse
from qspjax._types import Key

_K = TypeVar("_K")


def check_key(key: _K | None) -> _K:
    """Return `key` if it is one PRNG key, new or old style; anything else is refused."""
    kind, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    new = kind is not None and jnp.issubdtype(kind, jax.dtypes.prng_key) and shape == ()
    if key is None or (not new and not (kind == np.uint32 and shape == (2,))):
        actual = f"of shape {shape}" if shape else f"of type {type(key).__name__}"
        refuse("key", "be a PRNG key such as jax.random.key(1)", actual)
    return key


def seed_of(key: Key) -> int:
    """Return the seed that a key was made from, or could have been made from.

    Example:
        >>> import jax
        >>> seed_of(jax.random.key(7))
        7
    """
    check_key(key)
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return sum(word << 32 * power for power, word in enumerate(reversed(words)))


def key_of(seed: int) -> Key:
    """Return the key whose seed this is: the inverse of `seed_of` for keys of JAX's default kind.

    Example:
        >>> import jax
        >>> bool(key_of(7) == jax.random.key(7))
        True
    """
    words = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def generator(key: Key, *numbers: int) -> np.random.Generator:
    """Return numpy's generator of random numbers that belongs to a key, and to further numbers if there are any."""
    return np.random.default_rng([seed_of(key), *numbers])

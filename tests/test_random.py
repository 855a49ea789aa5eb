"""Keys in Python, seeds in files: one number stands for both."""

import inspect

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax._random import generator, key_of, seed_of


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5])
def test_a_key_and_its_seed(seed):
    assert seed_of(jax.random.key(seed)) == seed_of(jax.random.PRNGKey(seed)) == seed
    split = jax.random.split(key_of(seed))[1]
    assert key_of(seed) == jax.random.key(seed)
    assert key_of(seed_of(split)) == split
    np.testing.assert_array_equal(generator(key_of(seed)).random(3), np.random.default_rng(seed).random(3))


def test_what_is_no_key_is_refused():
    with pytest.raises(
        ValueError, match=r"^Argument `key` must be a PRNG key such as jax.random.key\(1\), but is of type"
    ):
        generator(7)


@pytest.mark.parametrize("space", [qsp, qsp.sensitivity, qsp.fit, qsp.population, qsp.solve, qsp.io])
def test_no_seed_in_python(space):
    """Seeds are read from files (`TrialFile`, `PopulationFile`, `MixedFile`); what draws takes a key."""
    public = [value for name, value in vars(space).items() if not name.startswith("_") and callable(value)]
    seeded = {value.__name__ for value in public if "seed" in inspect.signature(value).parameters}
    assert seeded <= {"TrialFile", "PopulationFile", "MixedFile"}

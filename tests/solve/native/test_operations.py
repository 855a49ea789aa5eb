"""Every operation, compiled natively, against JAX: of the same operands, the same to a few units in the last place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from tests.solve.native.compiled import native

ODD = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, -1e-310, 2.0**-1022, 1e308, -1e308, 0.5, 1.5, 2.5, -2.5]
ONE = {
    "exp": jnp.exp, "log": jnp.log, "log1p": jnp.log1p, "expm1": jnp.expm1, "sqrt": jnp.sqrt, "cbrt": jnp.cbrt,
    "sin": jnp.sin, "cos": jnp.cos, "tan": jnp.tan, "asin": jnp.arcsin, "acos": jnp.arccos, "atan": jnp.arctan,
    "sinh": jnp.sinh, "cosh": jnp.cosh, "tanh": jnp.tanh, "asinh": jnp.arcsinh, "acosh": jnp.arccosh,
    "atanh": jnp.arctanh, "erf": jax.lax.erf, "erfc": jax.lax.erfc, "lgamma": jax.lax.lgamma, "exp2": jnp.exp2,
    "logistic": jax.nn.sigmoid, "neg": jnp.negative, "abs": jnp.abs, "sign": jnp.sign, "floor": jnp.floor,
    "ceil": jnp.ceil, "round": jnp.round, "is_finite": jnp.isfinite, "square": jnp.square, "cube": lambda x: x**3,
    "inverse": lambda x: x**-2, "rsqrt": jax.lax.rsqrt, "whole": lambda x: x.astype(int), "not": lambda x: ~(x > 0),
    "slope of asin": jax.grad(jnp.arcsin), "log2": jnp.log2,
    "bits": lambda x: jax.lax.bitcast_convert_type(x, jnp.int64), "exponent": lambda x: jnp.frexp(x)[1],
    "bits of singles": lambda x: jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32),
    "mantissa": lambda x: jnp.frexp(x)[0], "of singles": lambda x: jnp.frexp(x.astype(jnp.float32))[0],
    "single": lambda x: x.astype(jnp.float32) * 3, "narrow": lambda x: x.astype(jnp.int32),
}  # fmt: skip
TWO = {
    "add": jnp.add, "sub": jnp.subtract, "mul": jnp.multiply, "div": jnp.divide, "pow": jnp.power,
    "max": jnp.maximum, "min": jnp.minimum, "atan2": jnp.arctan2, "rem": jax.lax.rem, "mod": jnp.mod,
    "lt": jnp.less, "le": jnp.less_equal, "gt": jnp.greater, "ge": jnp.greater_equal, "eq": jnp.equal,
    "ne": jnp.not_equal, "where": lambda x, y: jnp.where(x > y, x, y), "hypot": jnp.hypot,
    "nextafter": jnp.nextafter, "logaddexp": jnp.logaddexp,
}  # fmt: skip
WHOLE = {
    "add": jnp.add, "sub": jnp.subtract, "mul": jnp.multiply, "quotient": jax.lax.div, "rem": jax.lax.rem,
    "max": jnp.maximum, "min": jnp.minimum, "and": jnp.bitwise_and, "or": jnp.bitwise_or, "xor": jnp.bitwise_xor,
    "lt": jnp.less, "eq": jnp.equal, "float": lambda x, y: x / 3.0, "sign": lambda x, y: jnp.sign(x) * y,
    "abs": lambda x, y: jnp.abs(x) - y, "not": lambda x, y: ~x + y, "left": lambda x, y: (x << 3) + y,
    "right": lambda x, y: (x >> 2) + y,
}  # fmt: skip


def units(x, y):
    """Return the distance in units in the last place; infinite where one is NaN, or they are far apart at infinity."""
    x, y = np.asarray(x), np.asarray(y)
    if not np.issubdtype(x.dtype, np.floating):
        return np.where(x == y, 0.0, np.inf)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(all="ignore"):
        distance = np.abs(x - y) / np.spacing(np.maximum(np.abs(y), np.finfo(y.dtype).tiny))
    return np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))


def numbers(rng, size):
    wide = rng.normal(size=size) * 10.0 ** rng.uniform(-8, 8, size)
    return np.concatenate([rng.uniform(-3.0, 3.0, size), wide, ODD])


EXACT = {
    **{name: getattr(np, name) for name in ("log1p", "expm1", "sinh", "cosh", "tanh", "exp2")},
    **{name: getattr(np, f"arc{name[1:]}") for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    "erfc": scipy.special.erfc,
    "lgamma": scipy.special.gammaln,
}
"""Where XLA is some units off: a second opinion."""


def check(function, *operands, most, exact=None):
    found, expected = native(function, *operands)[0], np.asarray(jax.jit(jax.vmap(function))(*operands))
    distance = units(found, expected)
    if exact is not None:
        with np.errstate(all="ignore"):
            distance = np.minimum(distance, units(found, exact(*operands)))
    worst = int(np.argmax(distance))
    assert distance[worst] <= most, ([x[worst] for x in operands], found[worst], expected[worst], distance[worst])


@pytest.mark.parametrize("name", ONE)
def test_of_one_number(name):
    x = numbers(np.random.default_rng(1), 200)
    if name == "narrow":
        x = x[np.isfinite(x) & (np.abs(x) < 2e9)]
    loose = {"lgamma": 1024, "logistic": 6, "erfc": 512}  # lgamma near its zeros
    flushed = np.abs(x) >= 2.0**-1021  # XLA takes subnormal numbers for zero
    check(ONE[name], x[flushed | (x == 0) | np.isnan(x)], most=loose.get(name, 4), exact=EXACT.get(name))


@pytest.mark.parametrize("name", TWO)
def test_of_two_numbers(name):
    rng = np.random.default_rng(2)
    x, y = rng.permutation(numbers(rng, 200)), rng.permutation(numbers(rng, 200))
    usual = (np.abs(x) >= 2.0**-1000) & (np.abs(y) >= 2.0**-1000) & (np.abs(x) < 1e300) & (np.abs(y) < 1e300)
    keep = usual | (x == 0) | (y == 0) | ~np.isfinite(x + y)
    keep &= ~((np.abs(x) < 2.0**-1000) & (x != 0)) & ~((np.abs(y) < 2.0**-1000) & (y != 0))
    check(TWO[name], x[keep], y[keep], most={"mod": 1e6, "rem": 0, "logaddexp": 8, "hypot": 8}.get(name, 4))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("name", WHOLE)
def test_of_whole_numbers(name, dtype):
    rng = np.random.default_rng(3)
    info = np.iinfo(dtype)
    x, y = (
        np.concatenate([rng.integers(-9, 9, 60), rng.integers(info.min, info.max, 60), [0, -1, info.min, info.max]])
        for _ in range(2)
    )
    check(
        WHOLE[name],
        rng.permutation(x).astype(dtype),
        rng.permutation(y).astype(dtype),
        most=1 if name == "float" else 0,
    )


def test_exponentials_and_logarithms_are_accurate():
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(4)
    x, y = 10.0 ** rng.uniform(-300, 300, 400), rng.uniform(-700, 700, 400)
    base, exponent = 10.0 ** rng.uniform(-5, 5, 400), rng.uniform(-50, 50, 400)
    log, exp, power = native(lambda x, y, b, e: (jnp.log(x), jnp.exp(y), jnp.power(b, e)), x, y, base, exponent)
    with mpmath.workdps(40):
        exact = [
            [float(mpmath.log(a)), float(mpmath.exp(b)), float(mpmath.power(c, d))]
            for a, b, c, d in zip(*(v.tolist() for v in (x, y, base, exponent)), strict=True)
        ]
    for found, right in zip((log, exp, power), np.transpose(exact), strict=True):
        assert units(found, right).max() <= 2


@pytest.mark.parametrize("name", ["tanh", "expm1", "log1p"])
def test_functions_that_are_small_near_zero_are_accurate(name):
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(5)
    x = np.concatenate(
        [rng.uniform(-0.9, 3.0, 400), 10.0 ** rng.uniform(-20, 1.3, 400), -(10.0 ** rng.uniform(-20, -0.1, 99))]
    )
    (found,) = native(getattr(jnp, name), x)
    with mpmath.workdps(40):
        exact = [float(getattr(mpmath, name)(mpmath.mpf(a))) for a in x.tolist()]
    assert units(found, exact).max() <= 3

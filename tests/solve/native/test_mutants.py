"""Models with formulas changed at random: natively and by XLA the same numbers or the same failure, and no crash."""

import ast
import os
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from tests.solve.native.compiled import native

FORMULAS = {
    "binding": (
        "k[0] - k[1] * a - k[2] * a * b + k[3] * c",
        "k[4] - k[5] * b - k[2] * a * b + k[3] * c",
        "k[2] * a * b - (k[3] + k[6]) * c",
    ),
    "feedback": (
        "k[0] / (1.0 + (c / k[1]) ** 4) - k[2] * a",
        "k[3] * a ** 1.5 / (k[4] + sqrt(a)) - k[5] * b",
        "k[6] * b - 2.0 * c / (0.5 + c)",
    ),
    "pulse": (
        "where(t > 1.0, k[0] * exp(-k[1] * t), 0.0) - k[2] * a",
        "maximum(a - b, 0.0) * k[3] - k[4] * b * tanh(c)",
        "log(1.0 + abs(a)) * k[5] - minimum(c, 3.0) * k[6]",
    ),
    "cycle": (
        "a * (k[0] - k[1] * b) + 0.01 * sin(t)",
        "b * (k[2] * a - k[3]) - 1e-3 * b ** 2",
        "k[4] * (a - c) + k[5] * where((a > b) & (c < 2.0), 1.0, -c)",
    ),
}
NUMBERS = [0.0, -1.0, 1e300, 1e-300, np.inf, np.nan, 400.0, -0.5, 1e-3, 3.0]
"""None whose reciprocal is subnormal: XLA takes those for zero."""
OPERATORS = [ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow]
FUNCTIONS = ["exp", "log", "sqrt", "abs", "tanh", "sin", "expm1", "log1p", "floor"]
METHOD = qsp.solve.Rosenbrock(rtol=1e-8, atol=1e-10, max_steps=2000)
TS = [0.0, 0.5, 1.0, 2.0]


class Mutation(ast.NodeTransformer):
    """Changes one node in ten."""

    def __init__(self, rng):
        self.rng = rng

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if self.rng.random() < 0.12:
            node.op = self.rng.choice(OPERATORS)()
        if self.rng.random() < 0.05:
            name = ast.Name(str(self.rng.choice(FUNCTIONS)), ast.Load())
            return ast.Call(name, [node], [])
        return node

    def visit_Constant(self, node):
        if isinstance(node.value, float) and self.rng.random() < 0.25:
            return ast.Name(f"numbers[{self.rng.integers(len(NUMBERS))}]", ast.Load())
        return node


def mutant(seed):
    """Return a model whose formulas are changed, and its formulas."""
    rng = np.random.default_rng(seed)
    name = str(rng.choice(list(FORMULAS)))
    trees = [Mutation(rng).visit(ast.parse(text, mode="eval")) for text in FORMULAS[name]]
    formulas = [ast.unparse(tree) for tree in trees]
    codes = [compile(formula, "mutant", "eval") for formula in formulas]
    known = {key: getattr(jnp, key) for key in (*FUNCTIONS, "where", "maximum", "minimum")} | {"numbers": NUMBERS}

    class Mutant(qsp.AbstractModel):
        k: jax.Array

        def initial(self):
            return {"a": 1.0, "b": 0.5, "c": 0.0}

        def vector_field(self, t, y):
            values = {**known, **y, "t": t, "k": self.k}
            return {key: 0.0 * y[key] + eval(code, values) for key, code in zip("abc", codes, strict=True)}

        def observe(self, t, y):
            return y

    k = 10.0 ** rng.uniform(-2.0, 1.0, 7)
    if rng.random() < 0.3:
        k[rng.integers(7)] = rng.choice([0.0, -1.0, 1e300, 1e-300, 1e8])
    model = Mutant(jnp.asarray(k))
    try:
        jax.eval_shape(lambda: model.vector_field(jnp.zeros(()), jax.tree.map(jnp.asarray, model.initial())))
    except TypeError:  # no formula: JAX subtracts no truths
        return mutant(seed + 10_000)
    return model, formulas


def check_fields(seed):
    """Compare the vector field and its Jacobian at many states, some of them far out."""
    model, formulas = mutant(seed)
    rng = np.random.default_rng(seed)

    def both(t, y):
        def field(y):
            slope = model.vector_field(t, dict(zip("abc", y, strict=True)))
            return jnp.stack([slope[key] for key in "abc"])

        return field(y), jax.jacfwd(field)(y)

    y = rng.normal(size=(24, 3)) * 10.0 ** rng.uniform(-4.0, 4.0, (24, 1))
    y[:3] = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [np.inf, 1.0, np.nan]]
    t = rng.uniform(0.0, 2.0, 24)
    found = native(both, t, y, lanes=8)
    compiled = jax.jit(jax.vmap(both))
    expected = [np.asarray(x) for x in compiled(t, y)]
    nearby = [np.asarray(x) for x in compiled(t, y * (1.0 + 4e-16))]
    for order, (a, b, c) in enumerate(zip(found, expected, nearby, strict=True)):
        with np.errstate(all="ignore"):
            moves = np.abs(b - c)
            largest = np.abs(np.where(np.isfinite(b), b, 0.0)).max(axis=(-1, -2)[: b.ndim - 1], keepdims=True)
            most = 1e3 * np.where(np.isnan(moves), np.inf, moves) + 1e-13 * (1.0 + largest)
            same = np.abs(a - b) <= 1e-11 * np.abs(b) + most
            same |= (a == b) | (np.isnan(a) & np.isnan(b))
            # natively, a derivative that is not there is not multiplied with infinity
            same |= bool(order) & ~np.isfinite(b)
        assert same.all(), (seed, formulas, np.argwhere(~same)[:3].tolist(), a[~same][:3], b[~same][:3])


def solved(model):
    solution = eqx.filter_jit(lambda model: qsp.simulate(model, qsp.no_doses(), TS, method=METHOD, throw=False))(model)
    return int(solution.result._value), np.stack([np.asarray(solution.observed[key]) for key in "abc"])


def check_solves(seed):
    """Compare the solves of both; values only where both succeed."""
    model, formulas = mutant(seed)
    result, values = solved(model)
    with mock.patch.dict(os.environ, {"QSPJAX_BACKEND": "xla"}):
        other, expected = solved(model)
    assert result == other, (seed, formulas, result, other)
    reached = np.isfinite(values)
    assert (reached == np.isfinite(expected)).all(), (seed, formulas, values, expected)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7, err_msg=f"{seed} {formulas}")


@pytest.mark.parametrize("block", range(2))
def test_mutants(block):
    for seed in range(3 * block, 3 * block + 3):
        check_fields(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_mutants(block):
    for seed in range(100 + 10 * block, 110 + 10 * block):
        check_fields(seed)
        if seed % 5:
            solved(mutant(seed)[0])
        else:
            check_solves(seed)

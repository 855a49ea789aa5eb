"""Expressions: every operation of SBML, text and back, safe derivatives, shared nodes, and forms."""

import copy
import math
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qspjax._expression import (
    FUNCTIONS,
    TIME,
    Expression,
    call,
    evaluate,
    evaluate_grouped,
    number,
    parse,
    piecewise,
    substitute,
    symbol,
    symbols,
)

x, y = symbol("x"), symbol("y")


def value(text, at=0.0, **values):
    return evaluate([parse(text)], values, at)[0]


VALUES = [
    ("2 + 3 * 4 - 6 / 3", 12.0),
    ("-2^2", -4.0),
    ("2^3^2", 512.0),
    ("0^0", 1.0),
    ("(-2)^3", -8.0),
    ("4^0.5", 2.0),
    ("2^-1", 0.5),
    ("root(3, -8)", -2.0),
    ("root(5, -32)", -2.0),
    ("sqrt(9)", 3.0),
    ("ln(exp(2))", 2.0),
    ("log(1000)", 3.0),
    ("log(2, 8)", 3.0),
    ("abs(-2.5)", 2.5),
    ("floor(-2.5)", -3.0),
    ("ceil(-2.5)", -2.0),
    ("factorial(5)", 120.0),
    ("min(3, 1, 2)", 1.0),
    ("max(3, 1, 2)", 3.0),
    ("quotient(-7, 2)", -3.0),
    ("rem(-7, 2)", -1.0),
    ("7 % 4", 3.0),
    ("plus()", 0.0),
    ("times()", 1.0),
    ("lt(1, 2, 3)", True),
    ("lt(1, 3, 2)", False),
    ("eq(2, 2, 2)", True),
    ("1 != 2", True),
    ("and()", True),
    ("or()", False),
    ("xor(true, true, true)", True),
    ("implies(true, false)", False),
    ("implies(false, false)", True),
    ("!(1 < 2)", False),
    ("true + 1", 2.0),
    ("piecewise(1, 2.5, 0)", 1.0),
    ("piecewise(1, false, 2, true)", 2.0),
    ("piecewise(1, false)", math.nan),
    ("piecewise(true, 1 < 2, false)", True),
    ("avogadro", 6.02214179e23),
    ("pi", math.pi),
    ("1 / 0", math.inf),
    ("-1 / 0", -math.inf),
    ("ln(0)", -math.inf),
    ("ln(-1)", math.nan),
    ("arccot(-0.5)", math.atan(-2.0)),
    ("arccoth(2)", math.atanh(0.5)),
    ("arcsec(2)", math.acos(0.5)),
    ("arccsc(2)", math.asin(0.5)),
    ("arcsech(0.5)", math.acosh(2.0)),
    ("arccsch(0.5)", math.asinh(2.0)),
    ("sec(1) - 1 / cos(1)", 0.0),
    ("csc(1) - 1 / sin(1)", 0.0),
    ("cot(1) - 1 / tan(1)", 0.0),
    ("sech(1) - 1 / cosh(1)", 0.0),
    ("csch(1) - 1 / sinh(1)", 0.0),
    ("coth(1) - 1 / tanh(1)", 0.0),
]


@pytest.mark.parametrize(("text", "expected"), VALUES)
def test_values_of_constants(text, expected):
    found = value(text)
    assert isinstance(found, (bool, float))
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_values_of_variables_are_those_of_constants():
    """The same operations in JAX: constants are replaced by symbols, all in one program."""
    cases = [text for text, _ in VALUES if text not in ("plus()", "times()", "and()", "or()")]
    trees, values = [], {}
    for text in cases:
        tree = parse(text)

        def lifted(one):
            if one.op == "number":
                name = f"c{len(values)}"
                values[name] = float(one.value)
                return symbol(name)
            args = [one.args[0], *map(lifted, one.args[1:])] if one.op in ("root", "log") else map(lifted, one.args)
            return call(one.op, *args) if one.args else one

        trees.append(lifted(tree))
    found = jax.jit(lambda values: evaluate(trees, values, 0.0))(values)
    for text, got in zip(cases, found, strict=True):
        np.testing.assert_allclose(float(got), float(dict(VALUES)[text]), rtol=1e-13, err_msg=text)


def test_derivatives_of_branches_not_taken_are_zero():
    texts = {
        "piecewise(7, x <= 0, ln(x))": (0.0, 1.0),
        "piecewise(0, x <= 0, root(2, x))": (0.0, 0.5),
        "piecewise(0, x <= 0, x^0.3)": (0.0, 0.3),
        "piecewise(0, x <= 0, 1 / x)": (0.0, -1.0),
        "piecewise(1, x <= 0, arcsin(x / (x + 1)))": (0.0, 0.25 / math.sqrt(0.75)),
        "piecewise(0, x <= 0, exp(ln(x) * 2))": (0.0, 2.0),
    }

    def slopes(at):
        return jax.jacrev(lambda x: jnp.stack(evaluate(list(map(parse, texts)), {"x": x}, 0.0)))(at)

    for at, k in ((0.0, 0), (1.0, 1)):
        np.testing.assert_allclose(jax.jit(slopes)(at), [pair[k] for pair in texts.values()], rtol=1e-14)


def test_equal_trees_are_the_same_object():
    one, other = parse("k * (A + 2) / time"), symbol("k") * (symbol("A") + 2.0) / TIME
    assert one is other
    assert pickle.loads(pickle.dumps(one)) is one
    assert copy.deepcopy(one) is one
    assert number(0.0) is not number(-0.0)
    assert number(math.nan) is number(math.nan)
    assert symbols(one) == {"k", "A"}
    assert str(substitute(one, {"A": x + y})) == "k * ((x + y) + 2) / time"


def test_shared_and_deep_expressions():
    shared = x
    for _ in range(60):
        shared = shared + shared
    deep = x
    for _ in range(5000):
        deep = 1.0 + deep * 0.5
    begun = time.perf_counter()
    found = evaluate([shared, deep, substitute(shared, {"x": y})], {"x": 1.0, "y": 2.0}, 0.0)
    assert time.perf_counter() - begun < 5.0
    assert found == [2.0**60, 2.0, 2.0**61]
    assert hash(deep) == hash(deep)


leaves = st.sampled_from([x, y, symbol("r.k1"), TIME]) | st.floats(allow_nan=False).map(number)
UNARY = sorted(op for op, arity in FUNCTIONS.items() if arity[0] == 1 and op not in ("rate", "piecewise"))
BINARY = sorted(op for op, (least, most) in FUNCTIONS.items() if least <= 2 <= most)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.builds(call, st.sampled_from(UNARY), inner)
        | st.builds(call, st.sampled_from(BINARY), inner, inner)
        | st.builds(lambda op, *args: call(op, *args), st.sampled_from(["+", "*", "and", "lt"]), inner, inner, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(trees)
def test_text_is_read_back(tree):
    assert parse(str(tree)) is tree


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there must be a number, a name or a bracket at character 1, but there is its end"),
        ("a +", "at character 4, but there is its end"),
        ("a b", "there must be an operator or the end at character 3, but there is `b`"),
        ("(a", "there must be `)` at character 3"),
        ("a $ b", "character 3, but there is `$`"),
        ("f(x)", "there must be a known function at character 1, but there is `f`"),
        ("root(1, 2, 3)", "`args` must be 2 for `root`, but is 3"),
        ("(" * 1000 + "a", "nested at most 400 deep"),
        ("__import__('os')", "character"),
    ],
)
def test_mistakes_in_text(text, message):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert message in str(error.value)


def test_mistakes_in_words():
    with pytest.raises(ValueError, match="`op` must be an operation of SBML, but is `nothing`"):
        call("nothing", 1.0)
    with pytest.raises(ValueError, match="`values` must have a value for `x`"):
        evaluate([x], {}, 0.0)
    with pytest.raises(TypeError, match="no truth value"):
        bool(x < y)
    with pytest.raises(TypeError, match="made by"):
        Expression()
    with pytest.raises(AttributeError, match="cannot be changed"):
        x.op = "y"


def test_forms_give_what_single_evaluation_gives():
    count = 120
    built = [
        (lambda i: symbol(f"k{i}") * symbol(f"A{i}"), lambda i: symbol(f"A{i}") * symbol(f"k{i}")),
        (lambda i: parse(f"V{i} * A{i}^2 / (3.5 + A{i}^2)"), lambda i: parse(f"A{i}^2 * V{i} / (A{i}^2 + {i})")),
        (lambda i: parse(f"time * A{i}"), lambda i: piecewise(symbol(f"A{i}"), TIME > 1.0, 0.0)),
    ]
    wanted = [built[i % 3][i // 3 % 2](i) for i in range(count)] + [parse("exp(-A1)"), number(4.0)]
    rng = np.random.default_rng(1)
    values = {f"{name}{i}": float(rng.uniform(0.5, 2.0)) for name in "kAV" for i in range(count)}

    def lookup(names):
        return jnp.asarray([values[name] for name in names])

    found = evaluate_grouped(wanted, lookup, 2.0)
    np.testing.assert_allclose(found, evaluate(wanted, values, 2.0), rtol=1e-14)
    lines = len(jax.make_jaxpr(lambda t: evaluate_grouped(wanted, lookup, t))(2.0).eqns)
    assert lines < 60  # 122 expressions one by one take 500

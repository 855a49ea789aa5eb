"""Expressions: every operation of SBML, text and back, safe derivatives, shared nodes, and forms."""

import copy
import math
import pickle

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qspjax._expression import (
    FUNCTIONS,
    TIME,
    TRUE,
    Expression,
    arccoth,
    as_number,
    as_truth,
    call,
    check_constants,
    equal,
    evaluate,
    evaluate_grouped,
    exp,
    grouped,
    ln,
    log10,
    maximum,
    nodes,
    number,
    parse,
    piecewise,
    size,
    sqrt,
    substitute,
    symbol,
    symbols,
    text as written_out,
)
from qspjax._expression._text import WORDS

x, y = symbol("x"), symbol("y")

SHARED = x
for _ in range(60):
    SHARED = SHARED * SHARED
"""An expression of 61 nodes and 2^60 paths."""

DEEP = x
for _ in range(5000):
    DEEP = 1.0 + exp(-DEEP * 0.5)


VALUES = [
    ("2 + 3 * 4 - 6 / 3", 12.0),
    ("-2^2", -4.0),
    ("2^3^2", 512.0),
    ("2^-1", 0.5),
    ("0^0", 1.0),
    ("(-2)^3", -8.0),
    ("(-2)^-3", -0.125),
    ("4^0.5", 2.0),
    ("(-8)^(1 / 3)", math.nan),
    ("root(3, -8)", -2.0),
    ("root(5, -32)", -2.0),
    ("root(-5, -32)", -0.5),
    ("root(4, 16)", 2.0),
    ("root(4, -16)", math.nan),
    ("root(2.5, 32)", 4.0),
    ("sqrt(9)", 3.0),
    ("sqr(3)", 9.0),
    ("ln(exp(2))", 2.0),
    ("exponentiale^2", math.exp(2)),
    ("log(1000)", 3.0),
    ("log10(1000)", 3.0),
    ("log(2, 8)", 3.0),
    ("log(3, 81)", 4.0),
    ("abs(-2.5)", 2.5),
    ("floor(-2.5)", -3.0),
    ("ceil(-2.5)", -2.0),
    ("factorial(0)", 1.0),
    ("factorial(5)", 120.0),
    ("factorial(15)", float(math.factorial(15))),
    ("factorial(0.5)", math.gamma(1.5)),
    ("factorial(171)", math.inf),
    ("factorial(-1)", math.nan),
    ("min(3, 1, 2)", 1.0),
    ("max(3, 1, 2)", 3.0),
    ("max(3, nan)", math.nan),
    ("quotient(-7, 2)", -3.0),
    ("quotient(7, -2)", -3.0),
    ("quotient(0.6, 0.2)", 2.0),  # 0.6 is less than three times 0.2
    ("quotient(7, 0)", math.nan),
    ("rem(-7, 2)", -1.0),
    ("rem(7, -2)", 1.0),
    ("7 % 4", 3.0),
    ("plus()", 0.0),
    ("times()", 1.0),
    ("plus(2)", 2.0),
    ("lt(1, 2, 3)", True),
    ("1 < 3 < 2", False),
    ("1 < 3 >= 2", True),
    ("eq(2, 2, 2)", True),
    ("2 == 2 == 3", False),
    ("1 != 2", True),
    ("nan == nan", False),
    ("true == 1", True),
    ("and()", True),
    ("or()", False),
    ("xor()", False),
    ("xor(true, true, true)", True),
    ("xor(true, true)", False),
    ("2 && 0.5", True),
    ("implies(true, false)", False),
    ("implies(false, false)", True),
    ("!(1 < 2)", False),
    ("!0", True),
    ("true + 1", 2.0),
    ("(1 < 2) * 3", 3.0),
    ("-true", -1.0),
    ("sqrt(true)", 1.0),
    ("piecewise(1, 2.5, 0)", 1.0),
    ("piecewise(1, false, 2, true)", 2.0),
    ("piecewise(1, true, 2, true)", 1.0),
    ("piecewise(1, false)", math.nan),
    ("piecewise(4)", 4.0),
    ("piecewise(true, 1 < 2, false)", True),
    ("piecewise(true, 1 > 2, 5)", 5.0),
    ("avogadro", 6.02214179e23),
    ("pi", math.pi),
    ("1 / 0", math.inf),
    ("-1 / 0", -math.inf),
    ("0 / 0", math.nan),
    ("ln(0)", -math.inf),
    ("ln(-1)", math.nan),
    ("exp(-inf)", 0.0),
    ("arccot(-0.5)", math.atan(-2.0)),
    ("arccot(0)", math.pi / 2),
    ("arccsch(-0.5)", math.asinh(-2.0)),
    ("sech(800)", 0.0),
    ("csch(0)", math.inf),
    ("coth(800)", 1.0),
    ("2 * 3 - -1", 7.0),
]


@pytest.mark.parametrize("word", sorted(WORDS))
def test_a_declared_name_is_no_constant(word):
    assert parse(f"A - {word}", ids=["A", word]) is symbol("A") - symbol(word)
    assert parse(f"-{word}", ids=[word]) is -symbol(word)
    for text in (f"A + {word}", f"-{word}", word):
        check_constants("formula", ["A"], [parse(text), 1.0])
        with pytest.raises(ValueError) as error:
            check_constants("formula", ["A", word], [parse("A"), parse(text), 1.0])
        assert f"Argument `formula` must write `{word}` in backticks for what is declared" in str(error.value)
    check_constants("formula", ["A", word], [parse(f"A + `{word}`"), 1.0])


@pytest.mark.parametrize(("text", "expected"), VALUES)
def test_values_of_constants(text, expected):
    (found,) = evaluate([parse(text)], {}, 0.0)
    assert type(found) is type(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def lifted(one, values):
    """Return an expression in which numbers are symbols, but for a power, a degree and a base."""
    if one.op == "number":
        values[f"c{len(values)}"] = one.value
        return symbol(f"c{len(values) - 1}")
    return call(one.op, *(lifted(arg, values) for arg in one.args)) if one.args else one


def test_values_of_variables_are_those_of_constants():
    """The same operations in JAX: constants are replaced by symbols, all in one program."""
    values = {}
    trees = [lifted(parse(text), values) for text, _ in VALUES]
    found = jax.jit(lambda values: evaluate(trees, values, 0.0))(values)
    for (text, expected), got in zip(VALUES, found, strict=True):
        np.testing.assert_allclose(as_number(got), float(expected), rtol=1e-13, err_msg=text)


POINTS = {
    "sin cos tan sec csc cot arctan arccot sinh cosh tanh sech csch coth arcsinh arccsch": [-4.0, -0.7, 1e-3, 0.3, 2.0],
    "arcsin arccos arctanh": [-0.9, -1e-3, 0.4, 0.5, 0.99],
    "arcsec arccsc arccoth": [-40.0, -1.01, 1.2, 2.0, 7.0],
    "arccosh": [1.01, 1.5, 2.0, 10.0, 50.0],
    "arcsech": [0.01, 0.3, 0.5, 0.8, 0.99],
    "exp abs": [-30.0, -0.1, 0.2, 2.0, 5.0],
    "ln log10 sqrt": [1e-6, 0.5, 3.0, 20.0, 1e9],
    "factorial": [0.0, 0.3, 4.0, 12.0, 30.5],
}
OTHER_NAMES = {"ln": "log", "abs": "fabs", **{f"arc{name}": f"a{name}" for name in FUNCTIONS}}


def test_values_and_slopes_against_mpmath():
    cases = [(name, points) for names, points in POINTS.items() for name in names.split()]
    assert {name for name, _ in cases} >= {name for name in FUNCTIONS if name.removeprefix("arc")[:3] in TRIGONOMETRIC}
    trees = [parse(f"{name}(x{i})") for i, (name, _) in enumerate(cases)]

    def values(at):
        return jnp.stack(evaluate(trees, {f"x{i}": one for i, one in enumerate(at)}, 0.0))

    at = np.array([points for _, points in cases])
    both = jax.jit(lambda at: (values(at), jax.grad(lambda at: values(at).sum())(at)))(at)
    with mpmath.workdps(30):
        for (name, points), *found in zip(cases, *both, strict=True):
            function = getattr(mpmath, OTHER_NAMES.get(name, name))
            known = [evaluate([parse(f"{name}(x)")], {"x": point}, 0.0)[0] for point in points]
            expected = [float(function(point)) for point in points]
            slopes = [float(mpmath.diff(function, point)) for point in points]
            np.testing.assert_allclose(known, expected, rtol=4e-14, err_msg=name)
            np.testing.assert_allclose(found[0], expected, rtol=4e-14, err_msg=name)
            np.testing.assert_allclose(found[1], slopes, rtol=1e-12, err_msg=f"slope of {name}")


TRIGONOMETRIC = ("sin", "cos", "tan", "sec", "csc", "cot")

SLOPES = {  # the slope where a branch or a limit makes it a matter of care
    "piecewise(7, x <= 0, ln(x))": {0.0: 0.0, 1.0: 1.0},
    "piecewise(0, x <= 0, root(2, x))": {0.0: 0.0, 1.0: 0.5},
    "piecewise(0, x <= 0, root(3, x))": {0.0: 0.0, 1.0: 1 / 3},
    "piecewise(0, x <= 0, x^0.3)": {0.0: 0.0, 1.0: 0.3},
    "piecewise(0, x <= 0, x^-2)": {0.0: 0.0, 1.0: -2.0},
    "piecewise(0, x <= 0, x^y)": {0.0: 0.0, -1.0: 0.0, 1.0: 2.5},
    "piecewise(0, x <= 0, 1 / x)": {0.0: 0.0, 1.0: -1.0},
    "piecewise(1, x <= 0, arcsin(x / (x + 1)))": {0.0: 0.0, -1.0: 0.0, 1.0: 0.25 / math.sqrt(0.75)},
    "piecewise(0, x <= 0, exp(ln(x) * 2))": {0.0: 0.0, 1.0: 2.0},
    "piecewise(x, x > 10, exp(x))": {1000.0: 1.0, 1.0: math.e},
    "piecewise(1 / x, 1 / x < 10, 10)": {0.0: 0.0, 0.01: 0.0, 1.0: -1.0},  # shared with the condition
    "piecewise(2 / (1 / x), x > 3, 1 / x, x > 1, 0)": {0.0: 0.0, 2.0: -0.25, 4.0: 2.0},  # shared by two branches
    "piecewise(piecewise(ln(x), x < 2, sqrt(x - 2)), x > 0, 0)": {0.0: 0.0, 1.0: 1.0, 3.0: 0.5},
    "1 / x + piecewise(1 / x, x > 1, 0)": {1.0: -1.0, 2.0: -0.5},  # also outside of the branch
    "piecewise(1, x > 1) * 0 + x": {2.0: 1.0},
    "piecewise(0, 2 > 1, ln(x))": {0.0: 0.0},
    "(ln(x) > 0) * x": {0.0: 0.0, 2.0: 1.0},
    "x^0": {0.0: 0.0},
    "x^2": {0.0: 0.0, -2.0: -4.0},
    "x^3": {-2.0: 12.0},
    "x^y": {0.0: 0.0},
    "abs(x)": {-1.0: -1.0},
    "sech(x)": {800.0: 0.0, -800.0: 0.0, 0.0: 0.0},
    "csch(x)": {800.0: 0.0, -800.0: 0.0},
    "coth(x)": {800.0: 0.0},
    "arccot(x)": {0.0: -1.0},
    "root(y, x)": {1.0: 0.4},
    "rem(x, 2)": {3.5: 1.0},
    "quotient(x, 2)": {3.5: 0.0},
    "floor(x)": {3.5: 0.0},
    "factorial(x)": {3.0: 6.0 * (11 / 6 - 0.5772156649015329)},
}


@pytest.mark.parametrize("transform", [jax.jacfwd, jax.grad])
def test_slopes_are_finite_where_a_branch_is_not_taken(transform):
    cases = [(tree, at, slope) for tree, points in SLOPES.items() for at, slope in points.items()]
    trees = [substitute(parse(tree), {"x": symbol(f"x{i}")}) for i, (tree, _, _) in enumerate(cases)]

    def total(at):
        values = {f"x{i}": one for i, one in enumerate(at)}
        return sum(evaluate(trees, {**values, "y": jnp.array(2.5)}, 0.0))

    found = jax.jit(transform(total))(jnp.array([at for _, at, _ in cases]))
    for (tree, at, slope), got in zip(cases, found, strict=True):
        np.testing.assert_allclose(got, slope, rtol=1e-13, atol=1e-300, err_msg=f"{tree} at {at}")


def test_equal_trees_are_the_same_object():
    one, other = parse("k * (A + 2) / time"), symbol("k") * (symbol("A") + 2.0) / TIME
    assert one is other
    assert pickle.loads(pickle.dumps(one)) is one
    assert copy.copy(one) is copy.deepcopy(one) is one
    assert hash(one) == hash(other)
    assert number(0.0) is not number(-0.0)
    assert number(math.nan) is number(-math.nan)
    assert number(1.0) is not symbol("1.0")
    assert symbols(one) == {"k", "A"}
    assert size(one) == len(nodes(one)) == 7
    assert nodes(one)[-1] is one
    assert str(substitute(one, {"A": x + y})) == "k * ((x + y) + 2) / time"
    assert substitute(x + y, {"x": y, "y": 2}) is y + 2


def test_python_builds_what_text_says():
    built = {
        "x + y + 1 - x": x + y + 1 - x,
        "2 * x * y / 3": 2 * x * y / 3,
        "rem(-x^2, 3)": -(x**2) % 3,
        "abs(1 - x)": abs(1 - x),
        "x < y && x >= 1 && !(x != 2)": (x < y) & (x >= 1) & ~call("neq", x, 2.0),
        "xor(x > 1, y <= 2) || x == y": (x > 1) ^ (y <= 2) | equal(x, y),
        "exp(-x * time) + ln(x) + log10(y)": exp(-x * TIME) + ln(x) + log10(y),
        "max(x, 2^y) + sqrt(arccoth(y))": maximum(x, 2**y) + sqrt(arccoth(y)),
        "2 * x": np.float64(2.0) * x,
        "x + 3": x + np.int64(3),
        "x || true": x | True,
        "piecewise(x, x > 0, 0)": piecewise(x, x > 0, 0),
    }
    for tree, expected in built.items():
        assert parse(tree) is expected
        assert str(expected) == tree


def test_shared_and_deep_expressions():
    found = evaluate(
        [SHARED, substitute(SHARED, {"x": y}), piecewise(SHARED, SHARED > 0, 0)], {"x": 1.0, "y": 0.5}, 0.0
    )
    assert found == [1.0, 0.0, 1.0]
    assert repr(SHARED) == "parse('<an expression of about 10^18 parts>')"
    with pytest.raises(ValueError, match="have at most 200000 parts to be written out, but is one with about 10"):
        written_out(SHARED)
    assert len(grouped([SHARED, substitute(SHARED, {"x": y})])) == 1
    assert pickle.loads(pickle.dumps([DEEP, SHARED])) == [DEEP, SHARED]
    assert copy.deepcopy(DEEP) is DEEP
    assert parse(str(DEEP)) is DEEP
    assert substitute(substitute(DEEP, {"x": y}), {"y": x}) is DEEP
    assert 1.0 < evaluate([DEEP], {"x": 0.5}, 0.0)[0] < 2.0
    assert symbols(DEEP) == {"x"}


def lines(function, *args):
    return [line.primitive.name for line in jax.make_jaxpr(function)(*args).jaxpr.eqns]


def test_programs_are_short():
    v = jnp.array(1.0, float)

    def of(tree):
        return lines(lambda x: evaluate([parse(tree)], {"x": x}, 0.0), v)

    assert of("(2 + sin(3)) * x * 2") == ["mul"]
    assert of("0 + x * 1 + exp(0) - x / 1") == ["add", "sub"]
    assert of("x^3") == ["integer_pow"]
    assert of("x^1") == []
    assert of("x^0.5") == ["sqrt"]
    assert of("piecewise(x, 2 > 1, ln(x))") == []
    assert of("x * (x + 1) + (x + 1)") == ["add", "mul", "add"]
    assert len(of("piecewise(ln(x), x > 0, 0)")) == 4  # compare, a harmless operand, ln, choose
    depth = {}
    wide = call("+", *(symbol(f"x{i}") for i in range(64)))
    program = jax.make_jaxpr(lambda v: evaluate([wide], {f"x{i}": one for i, one in enumerate(v)}, 0.0))([v] * 64)
    for line in program.jaxpr.eqns:
        depth[line.outvars[0]] = 1 + max(depth.get(operand, 0) for operand in line.invars)
    assert (len(program.jaxpr.eqns), max(depth.values())) == (63, 6)


def test_arrays_and_precision():
    tree = piecewise(x * y, x > 1, -TIME)
    a, b = np.array([0.5, 1.5, 2.5]), np.array([[1.0], [2.0]])
    expected = np.where(a > 1, a * b, -3.0)
    np.testing.assert_array_equal(evaluate([tree], {"x": a, "y": b}, 3.0)[0], expected)
    for values in ({"x": jnp.asarray(a), "y": b}, {"x": a, "y": jnp.asarray(b)}, {"x": a, "y": 2.0}):
        found = jax.jit(lambda t, values=values: evaluate([tree], values, t)[0])(3.0)
        np.testing.assert_array_equal(found, np.broadcast_to(np.where(a > 1, a * values["y"], -3.0), found.shape))
    single = evaluate([x / 3 + TIME, x * (x > 1)], {"x": jnp.float32(2.0)}, 1)
    assert [one.dtype for one in single] == [np.float32, np.float32]
    assert evaluate([x / 4, x > 2], {"x": 3}, 0) == [0.75, True]
    assert evaluate([x / 4], {"x": jnp.array(3)}, 0)[0].dtype == np.float64
    assert as_number(jnp.array(True)) == 1.0
    assert as_truth(jnp.array(0.5)) & as_truth(2.0) & as_truth(True)


leaves = st.sampled_from([x, y, symbol("r.k1"), symbol("time"), symbol("a b"), TIME, TRUE])
leaves |= st.floats(allow_nan=True).map(number) | st.sampled_from([math.pi, -math.pi, -1.0, 3.0]).map(number)
UNARY = sorted(op for op, arity in FUNCTIONS.items() if arity[0] <= 1 <= arity[1] and op != "rate")
BINARY = sorted(op for op, (least, most) in FUNCTIONS.items() if least <= 2 <= most)
OFTEN = ["+", "-", "*", "/", "^", "and", "or", "lt", "eq"]  # where brackets are a matter of care
trees = st.recursive(
    leaves,
    lambda inner: (
        st.builds(call, st.sampled_from([*UNARY, "-", "-", "not"]), inner)
        | st.builds(call, st.sampled_from(BINARY), inner, inner)
        | st.builds(call, st.sampled_from(OFTEN), inner, inner)
        | st.builds(lambda op, *args: call(op, *args), st.sampled_from(["+", "*", "and", "lt"]), inner, inner, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(trees)
def test_text_is_read_back(tree):
    assert parse(str(tree)) is tree


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3x", None),
        ("-2^2", "-(2^2)"),
        ("2^-3^2", "2^(-(3^2))"),
        ("-x * y", "(-x) * y"),
        ("-3 * y", "(-3) * y"),
        ("a - b - c", "(a - b) - c"),
        ("a / b * c", "(a / b) * c"),
        ("a * b % c", "rem(a * b, c)"),
        ("!a == b", "(!a) == b"),
        ("a < b + 1 && c", "(a < (b + 1)) && c"),
        ("a && b || c", "(a && b) || c"),
        ("a || b && c", None),
        ("a < b <= c", "and(a < b, b <= c)"),
        ("a < b < c", "lt(a, b, c)"),
        ("a != b != c", "and(a != b, b != c)"),
        ("+x", "x"),
        ("asin(x) + acosh(x) + ceiling(x)", "arcsin(x) + arccosh(x) + ceil(x)"),
        ("power(x, 2) + pow(x, 2) + sqr(x)", "x^2 + x^2 + x^2"),
        ("2.5E+3 + .5 + 3.", "2500 + 0.5 + 3"),
        ("reaction.k * x_1", "reaction.k * x_1"),
        ("\n x\t+ 1 ", "x + 1"),
    ],
)
def test_text_of_others(written, meant):
    if meant is None:
        with pytest.raises(ValueError):
            parse(written)
    else:
        assert parse(written) is parse(meant)


def test_names():
    assert parse("PI") is symbol("PI")
    assert parse("exp + time_1") is symbol("exp") + symbol("time_1")
    assert str(symbol("pi") + symbol("a.b") + symbol("2x")) == "`pi` + a.b + `2x`"
    assert [str(number(one)) for one in (3, -0.0, 1e-3, 1e22, -math.pi)] == ["3", "-0", "0.001", "1e+22", "-pi"]
    assert str(call("rate", x)) == "rateOf(x)"
    assert parse("rateOf(x)") is call("rate", x)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "there must be a number, a name or a bracket at character 1, but there is its end"),
        ("a +", "In `a +` there must be a number, a name or a bracket at character 4, but there is its end"),
        ("a b", "there must be an operator or the end at character 3, but there is `b`"),
        ("3 mL", "there must be an operator or the end at character 3, but there is `mL`"),
        ("a * * b", "there must be a number, a name or a bracket at character 5, but there is `*`"),
        ("(a", "there must be an operator or `)` at character 3, but there is its end"),
        ("a)", "there must be an operator or the end at character 2, but there is `)`"),
        ("a $ b", "character 3, but there is `$`"),
        ("a ** b", "must be written `^`, as in `x^2`, but is `**` at character 3"),
        ("a = b", "there must be an operator or the end at character 3, but there is `=`"),
        ("f(x)", "there must be a known function at character 1, but there is `f`"),
        ("exp(x,)", "there must be a number, a name or a bracket at character 7, but there is `)`"),
        ("exp(x", "there must be an operator, `,` or `)` at character 6, but there is its end"),
        ("1 + root(1, 2, 3)", "at character 5: Argument `args` must be 2 for `root`, but is 3"),
        ("rateOf(2)", "must be one symbol for `rate`, but is `2`"),
        ("a || b && c", "there must be brackets that say which of `||` and `&&` is first at character 8"),
        ("x" * 200 + " $ " + "y" * 200, "In `..." + "x" * 49 + " $ " + "y" * 28 + "...` there"),
        ("(" * 50_001 + "a", "nested at most 50000 deep"),
        ("a" * 1_000_001, "at most 1000000 characters, but has 1000001"),
        ("__import__('os')", "character"),
        ("x.__class__.__base__()", "known function"),
    ],
)
def test_mistakes_in_text(written, message):
    with pytest.raises(ValueError) as error:
        parse(written)
    assert message in str(error.value)


def test_mistakes_in_words():
    with pytest.raises(ValueError, match="`op` must be an operation of SBML, but is `nothing`"):
        call("nothing", 1.0)
    with pytest.raises(ValueError, match="`args` must be 1 or 2 for `-`, but is 3"):
        call("-", 1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="`values` must have a value for `x`"):
        evaluate([x], {}, 0.0)
    with pytest.raises(ValueError, match="have no rate of change and no delay left, but is `?rateOf.x.`?"):
        evaluate([call("rate", x)], {"x": 1.0}, 0.0)
    with pytest.raises(ValueError, match="replace the symbol of `rateOf.x.` by a symbol"):
        substitute(call("rate", x), {"x": y + 1})
    with pytest.raises(ValueError, match="`value` must be an expression or a number, but is `?3`?"):
        call("exp", "3")
    with pytest.raises(ValueError, match="but is a value that JAX traces"):
        jax.make_jaxpr(lambda v: [x * v])(1.0)
    with pytest.raises(ValueError, match="`name` must be a name"):
        symbol("")
    with pytest.raises(TypeError, match="unsupported operand"):
        x + "y"
    with pytest.raises(TypeError, match="no truth value"):
        bool(x < y)
    with pytest.raises(TypeError, match="made by"):
        Expression()
    with pytest.raises(AttributeError, match="cannot be changed"):
        x.op = "y"


FORMS = [
    (lambda i: f"k{i} * A{i} * B{i}", lambda i: f"A{i} * k{i} * B{i}"),
    (lambda i: f"V{i} * A{i} / (K{i} + A{i})", lambda i: f"A{i} * V{i} / (A{i} + K{i})"),
    (lambda i: f"V{i} * A{i}^2 / (3.5 + A{i}^2)", lambda i: f"A{i}^2 * V{i} / (A{i}^2 + {i + 2})"),
    (lambda i: f"time * A{i}", lambda i: f"A{i} * time"),
    (lambda i: f"k{i} * A{i} - k0 * B{i}", lambda i: f"A{i} * k{i} - k0 * B{i}"),
    (lambda i: f"piecewise(A{i}, time > 1, 0)", lambda i: f"piecewise(B{i}, time > 1, 0)"),
    (lambda i: f"k{i} * A{i} * A{i}", lambda i: f"k{i} * A{i} * A{i}"),
    (lambda i: f"A{i} > 1", lambda i: f"B{i} > 1"),
]


def test_forms_give_what_single_evaluation_gives():
    count = 160
    wanted = [parse(FORMS[i % 8][i // 8 % 2](i)) for i in range(count)]
    wanted += [parse("exp(-A1)"), number(4.0), TIME, parse("exp(-A2)"), *[parse("exp(A1)")] * 4, *[TIME * 2] * 4]
    forms = [form for form in grouped(wanted) if len(form.members) >= 4]
    assert sum(len(form.members) for form in forms) == count + 8
    assert len(forms) == 9  # `k A B` and `k A A` are one
    assert not grouped([])
    rng = np.random.default_rng(1)
    values = {f"{name}{i}": float(rng.uniform(0.5, 2.0)) for name in "kABVK" for i in range(count)}
    place = {name: i for i, name in enumerate(values)}
    vector = jnp.array(list(values.values()))
    asked = []

    def found(vector, t):
        def lookup(names):
            asked.append(names)
            return vector[np.array([place[name] for name in names])]

        return evaluate_grouped(wanted, lookup, t)

    expected = [float(one) for one in evaluate(wanted, values, 2.0)]
    np.testing.assert_allclose(jax.jit(found)(vector, 2.0), expected, rtol=1e-13)
    assert ["k0"] in asked
    assert evaluate_grouped([], None, 0.0).shape == (0,)


def test_forms_of_operands_that_may_be_exchanged():
    def one(*written):
        (form,) = grouped([parse(each) for each in written])
        return form

    assert one("k * A * B", "A * k * B").table == (("k", "A", "B"), ("A", "k", "B"))
    first, second = one("V * S / (K + S)", "T * W / (T + L)").table
    assert dict(zip(first, second, strict=True)) == {"V": "W", "S": "T", "K": "L"}
    assert one("exp(A) + B", "C + exp(D)", "D + exp(D)").members == (0, 1, 2)
    assert len(one("A * A + B", "C * C + D").table[0]) == 2
    assert len(grouped([x**2, x**3, x**y])) == 3
    assert len(grouped([2 * x, 3 * x, y * x])) == 2
    assert len(grouped([x - y, y - x])) == 1
    assert len(grouped([x - 2, 2 - x])) == 2


def test_programs_of_many_expressions_are_short():
    many = [parse(f"k{i} * S{i} * S{i + 1} / (K{i} + S{i}) - r{i} * S{i + 2} + exp(-S{i})") for i in range(450)]
    names = sorted(symbols(*many))
    place = {name: i for i, name in enumerate(names)}
    vector = jnp.ones(len(names))
    assert 4500 < size(*many) < 6000
    singly = lines(lambda v: evaluate(many, dict.fromkeys(names, v), 0.0), vector[0])
    together = lines(lambda v: evaluate_grouped(many, lambda n: v[np.array([place[m] for m in n])], 0.0), vector)
    assert len(singly) > 4000
    assert len(together) < 60


def test_a_switch_that_overflows_has_a_derivative():
    """1 / (1 + exp(x)) is 0 far out, and so is its slope; the exponential itself is infinite."""

    def switch(x):
        return jnp.stack(evaluate([parse("1 / (1 + exp(x))"), parse("exp(x)")], {"x": x}, 0.0))

    np.testing.assert_array_equal(switch(4e4), [0.0, math.inf])
    np.testing.assert_array_equal(jax.jacfwd(switch)(4e4), [0.0, 0.0])
    np.testing.assert_allclose(jax.jacfwd(switch)(1.5), [-math.exp(1.5) / (1 + math.exp(1.5)) ** 2, math.exp(1.5)])

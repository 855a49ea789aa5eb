"""The functions of mathematics, for expressions that are written in Python: `exp(-k * TIME)`."""

from collections.abc import Callable

from qspjax._expression._tree import FUNCTIONS, Expression, call


def _function(op: str) -> Callable[..., Expression]:
    def function(*args: object) -> Expression:
        return call(op, *args)

    _, maximum = FUNCTIONS[op]
    function.__name__ = function.__qualname__ = op
    function.__doc__ = f"Return `{op}` of its argument." if maximum == 1 else f"Return `{op}` of its arguments."
    return function


exp, ln, floor, ceil, factorial = map(_function, ("exp", "ln", "floor", "ceil", "factorial"))
quotient, rem, implies, xor = map(_function, ("quotient", "rem", "implies", "xor"))
minimum, maximum, equal, unequal = map(_function, ("min", "max", "eq", "neq"))
sin, cos, tan, sec, csc, cot = map(_function, ("sin", "cos", "tan", "sec", "csc", "cot"))
sinh, cosh, tanh, sech, csch, coth = map(_function, ("sinh", "cosh", "tanh", "sech", "csch", "coth"))
arcsin, arccos, arctan = map(_function, ("arcsin", "arccos", "arctan"))
arcsec, arccsc, arccot = map(_function, ("arcsec", "arccsc", "arccot"))
arcsinh, arccosh, arctanh = map(_function, ("arcsinh", "arccosh", "arctanh"))
arcsech, arccsch, arccoth = map(_function, ("arcsech", "arccsch", "arccoth"))


def log(base: object, x: object) -> Expression:
    """Return the logarithm of x to a base."""
    return call("log", base, x)


def log10(x: object) -> Expression:
    """Return the logarithm of x to base 10."""
    return call("log", 10.0, x)


def root(degree: object, x: object) -> Expression:
    """Return the root of x of a degree."""
    return call("root", degree, x)


def sqrt(x: object) -> Expression:
    """Return the square root of x."""
    return call("root", 2.0, x)

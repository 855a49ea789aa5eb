"""The value of expressions in JAX: each distinct node is computed once, and constants are computed without JAX.

The derivative of a branch of `piecewise` that is not taken is multiplied by zero, which gives NaN where it is infinite.
So an operation that can have such a derivative is given harmless operands wherever no branch that needs it is taken:
`piecewise(0, x <= 0, ln(x))` is computed as `select(x <= 0, 0, ln(select(!(x <= 0), x, 0.5)))`. The condition
under which it is needed is itself an expression, computed like any other. Conditions have no derivative: what only they
contain is never changed, and what they share with a branch is computed twice.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from qspjax._checks import refuse
from qspjax._expression._arithmetic import as_number, as_numbers, as_truth, is_boolean, is_traced, m
from qspjax._expression._nodes import nodes, number_in
from qspjax._expression._operations import OF_BOOLEANS, OF_NUMBERS, RELATIONS, SAFE, is_small_whole
from qspjax._expression._tree import FALSE, TRUE, Expression, call

_Key = tuple[Expression, bool]
"""A node, and whether it is computed with harmless operands where it is not needed."""


def evaluate(
    expressions: Sequence[Expression], values: Mapping[str, ArrayLike | Callable], time: ArrayLike
) -> list[ArrayLike]:
    """Return the values of expressions.

    What depends on no value of JAX is computed in numpy, and is a Python number (or a numpy array). The value of
    a condition is a Boolean (see `as_number` and `as_truth`).

    Args:
        expressions: What to evaluate.
        values: A number or an array for each symbol; arrays are combined element by element. For each function that is
            learned, a callable of as many numbers as it has inputs, in JAX: it is called once for all outputs.
        time: The time.

    Raises:
        ValueError: If a symbol or a function has no value, or a rate of change or a delay is left: models replace
            these beforehand.

    Example:
        >>> from qspjax._expression import parse
        >>> evaluate([parse("k * drug"), parse("drug > 3")], {"k": 0.5, "drug": 4.0}, 0.0)
        [2.0, True]
    """
    order = nodes(*expressions)
    leaves, functions = _leaves(order, values, time), _functions(order, values)
    needed = _needed(order, expressions) if any(node.op == "piecewise" for node in order) else {}
    guards = {node: when for node, when in needed.items() if when is not TRUE and _is_risky(node)}
    with np.errstate(all="ignore"):
        if not guards:
            computed: dict[Expression, ArrayLike] = {}
            for node in order:
                args = [computed[arg] for arg in node.args]
                computed[node] = leaves[node] if not args else _value(node, args, functions)
            results = [computed[node] for node in expressions]
        else:
            results = _guarded(expressions, leaves, guards, functions)
    return [_as_python(value) for value in results]


def _as_python(value: ArrayLike) -> ArrayLike:
    return value.item() if isinstance(value, np.generic) else value


def _functions(order: Sequence[Expression], values: Mapping[str, ArrayLike | Callable]) -> dict[str, Callable]:
    """Return the functions that expressions call, by name."""
    functions: dict[str, Callable] = {}
    for name in dict.fromkeys(str(node.value) for node in order if node.op == "learned"):
        function = values.get(name)
        if not callable(function):
            refuse("values", f"have a function for `{name}`", "without one" if function is None else "a number")
        functions[name] = function
    return functions


def _applied(function: Callable, args: Sequence[ArrayLike]) -> ArrayLike:
    """Return the value of a learned function, shape of the arguments (and then that of its outputs, if several)."""
    args = [as_number(arg) for arg in args]
    shape = np.broadcast_shapes(*map(np.shape, args))
    if not shape:
        result = function(*args)
    else:
        flat = [jnp.broadcast_to(jnp.asarray(arg, float), shape).reshape(-1) for arg in args]
        result = jax.vmap(function)(*flat)
        result = result.reshape(shape + result.shape[1:])
    return jnp.asarray(result, float) if is_traced(result) else np.asarray(result, float)[()]


def _leaves(
    order: Sequence[Expression], values: Mapping[str, ArrayLike | Callable], time: ArrayLike
) -> dict[Expression, ArrayLike]:
    """Return the value of each node without arguments; all values of JAX in one precision."""
    leaves: dict[Expression, ArrayLike] = {}
    for node in order:
        if node.op == "symbol":
            name = str(node.value)
            if name not in values:
                refuse("values", f"have a value for `{name}`", "without one")
            value = values[name]
            if callable(value):
                refuse("values", f"have a number for `{name}`, which is not called", "a function")
            leaves[node] = value
        elif node.op == "time":
            leaves[node] = time
        elif not node.args:
            leaves[node] = _constant(node)
    traced = [value.dtype for value in leaves.values() if is_traced(value) and value.dtype != bool]
    dtype = np.result_type(*traced) if traced else np.dtype(float)
    dtype = dtype if dtype.kind == "f" else jax.dtypes.canonicalize_dtype(float)
    return {node: _leaf(value, dtype) for node, value in leaves.items()}


def _constant(node: Expression) -> ArrayLike:
    """Return the value of a number, of true or false, or of an operation without operands."""
    if node.op in ("true", "false"):
        return node.op == "true"
    return number_in(node) if node.op == "number" else (OF_NUMBERS.get(node.op) or OF_BOOLEANS[node.op])()


def _leaf(value: ArrayLike, dtype: DTypeLike) -> ArrayLike:
    if is_traced(value):
        same = value.dtype == bool or (value.dtype == dtype and not value.weak_type)
        return value if same else jax.lax.convert_element_type(value, dtype)
    if is_boolean(value):
        return value
    return np.asarray(value, float)[()]


def _value(node: Expression, args: list[ArrayLike], functions: Mapping[str, Callable]) -> ArrayLike:
    """Return the value of a node from those of its arguments."""
    op = node.op
    if op == "learned":
        return _applied(functions[str(node.value)], args)
    if op == "output":
        return jnp.asarray(args[0])[..., int(number_in(node.args[1]))]
    if op == "piecewise":
        return _piecewise(args)
    if op in OF_NUMBERS:
        return OF_NUMBERS[op](*as_numbers(args))
    if op in RELATIONS:
        return RELATIONS[op](*as_numbers(args))
    if op in OF_BOOLEANS:
        return OF_BOOLEANS[op](*map(as_truth, args))
    return refuse("expressions", "have no rate of change and no delay left", str(node))


def _piecewise(args: list[ArrayLike]) -> ArrayLike:
    """Return the value whose condition is the first that holds; NaN if none does and there is no default."""
    results = [*args[0::2], *([] if len(args) % 2 else [np.float64(np.nan)])]
    *values, result = results if all(map(is_boolean, results)) else as_numbers(results)
    for value, condition in reversed(list(zip(values, map(as_truth, args[1::2]), strict=True))):
        if isinstance(condition, (bool, np.bool_)):
            result = value if condition else result
        else:
            result = m.select(condition, value, result)
    return result


# conditions under which a value is needed


def _is_risky(node: Expression) -> bool:
    """Return whether a node can have an infinite value or derivative where its arguments have none."""
    if node.op not in SAFE:
        return False
    if node.op == "/":
        return node.args[1].op != "number"
    if node.op != "^" or node.args[1].op != "number":
        return True
    exponent = number_in(node.args[1])
    return not (is_small_whole(exponent) and exponent >= 0.0)


def _needed(order: Sequence[Expression], expressions: Sequence[Expression]) -> dict[Expression, Expression]:
    """Return the condition under which each node is needed, except for nodes that occur only in conditions."""
    uses: dict[Expression, dict[Expression, None]] = {node: {} for node in order}
    for node in expressions:
        uses[node][TRUE] = None
    needed: dict[Expression, Expression] = {}
    for node in reversed(order):
        if not uses[node]:
            continue  # only in conditions
        when = TRUE if TRUE in uses[node] else _combined("or", uses[node])
        needed[node] = when
        if node.op in RELATIONS or node.op in OF_BOOLEANS:
            continue
        if node.op != "piecewise":
            for arg in node.args:
                uses[arg][when] = None
            continue
        before = TRUE
        for k in range(0, len(node.args), 2):
            condition = node.args[k + 1] if k + 1 < len(node.args) else TRUE
            uses[node.args[k]][_combined("and", [when, before, condition])] = None
            before = _combined("and", [before, call("not", condition)])
    return needed


def _combined(op: str, conditions: Sequence[Expression] | dict[Expression, None]) -> Expression:
    parts = [condition for condition in conditions if condition is not (TRUE if op == "and" else FALSE)]
    return call(op, *parts) if len(parts) > 1 else parts[0] if parts else TRUE


def _guarded(
    expressions: Sequence[Expression],
    leaves: dict[Expression, ArrayLike],
    guards: Mapping[Expression, Expression],
    functions: Mapping[str, Callable],
) -> list[ArrayLike]:
    """Return the values of expressions of which some operations have harmless operands where they are not needed."""
    affected = _affected(nodes(*expressions), guards)
    computed: dict[_Key, ArrayLike] = {(node, False): value for node, value in leaves.items()}
    computed |= {(node, False): node is TRUE for node in (TRUE, FALSE)}
    roots: list[_Key] = [(node, node in affected) for node in expressions]
    stack = [(key, False) for key in reversed(roots)]
    while stack:
        key, ready = stack.pop()
        if key in computed:
            continue
        node, guarded = key
        args = _arguments(node, guarded, affected)
        when: list[_Key] = [(guards[node], False)] if guarded and node in guards else []
        if ready:
            operands = [computed[arg] for arg in args]
            operands = _harmless(node.op, operands, computed[when[0]]) if when else operands
            computed[key] = _value(node, operands, functions)
        else:
            stack.append((key, True))
            stack.extend((arg, False) for arg in reversed([*when, *args]) if arg not in computed)
    return [computed[key] for key in roots]


def _affected(order: Sequence[Expression], guards: Mapping[Expression, Expression]) -> set[Expression]:
    """Return the nodes whose value depends on an operation that is guarded."""
    affected: set[Expression] = set()
    for node in order:
        if node in guards or any(guarded for _, guarded in _arguments(node, True, affected)):
            affected.add(node)
    return affected


def _arguments(node: Expression, guarded: bool, affected: set[Expression]) -> list[_Key]:
    """Return the arguments of a node; those that are conditions as they are, the others guarded if the node is."""
    if not guarded or node.op in RELATIONS or node.op in OF_BOOLEANS:
        return [(arg, False) for arg in node.args]
    last = len(node.args) - 1
    conditions = range(1, last + 1, 2) if node.op == "piecewise" else ()
    return [(arg, arg in affected and k not in conditions) for k, arg in enumerate(node.args)]


def _harmless(op: str, operands: list[ArrayLike], when: ArrayLike) -> list[ArrayLike]:
    """Return operands that are replaced where they are not needed."""
    needed = as_truth(when)
    first = 1 if op == "/" else 0  # any numerator will do
    replaced = operands[:first]
    for x in operands[first:]:
        if isinstance(needed, (bool, np.bool_)):
            replaced.append(x if needed else SAFE[op])
        else:
            replaced.append(m.select(needed, as_number(x), SAFE[op]) if is_traced(x) else x)
    return replaced

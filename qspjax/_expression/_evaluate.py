"""The value of expressions in JAX: each distinct node is computed once, and what is constant without JAX.

The derivative of a branch of `piecewise` that is not taken is multiplied by zero, which gives NaN where it is infinite.
So an operation that can have such a derivative is given harmless operands wherever no branch that needs it is taken:
`piecewise(0, x <= 0, ln(x))` is computed as `select(x <= 0, 0, ln(select(!(x <= 0), x, 0.5)))`. When it is needed is
again an expression, made of the conditions, and computed like any other. Conditions have no derivative: what only they
contain is never changed, and what they share with a branch is computed twice.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from qspjax._checks import refuse
from qspjax._expression._arithmetic import as_number, as_numbers, as_truth, is_boolean, is_traced, m
from qspjax._expression._nodes import nodes, number_in
from qspjax._expression._operations import OF_BOOLEANS, OF_NUMBERS, RELATIONS, SAFE, is_small_whole
from qspjax._expression._tree import FALSE, TRUE, Expression, call

_Key = tuple[Expression, bool]
"""A node, and whether it is computed with harmless operands where it is not needed."""


def evaluate(expressions: Sequence[Expression], values: Mapping[str, ArrayLike], time: ArrayLike) -> list[ArrayLike]:
    """Return the values of expressions.

    What depends on no value of JAX is computed in numpy and is a number of Python (or an array of numpy). The value of
    a condition is a Boolean (see `as_number` and `as_truth`).

    Args:
        expressions: What to evaluate.
        values: A number or an array for each symbol; arrays are combined element by element.
        time: The time.

    Raises:
        ValueError: If a symbol has no value, or a rate of change or a delay is asked for: models replace these before.

    Example:
        >>> from qspjax._expression import parse
        >>> evaluate([parse("k * drug"), parse("drug > 3")], {"k": 0.5, "drug": 4.0}, 0.0)
        [2.0, True]
    """
    order = nodes(*expressions)
    leaves = _leaves(order, values, time)
    needed = _needed(order, expressions) if any(one.op == "piecewise" for one in order) else {}
    guards = {one: when for one, when in needed.items() if when is not TRUE and _is_risky(one)}
    with np.errstate(all="ignore"):
        if not guards:
            known: dict[Expression, ArrayLike] = {}
            for one in order:
                known[one] = leaves[one] if not one.args else _value(one, [known[arg] for arg in one.args])
            found = [known[one] for one in expressions]
        else:
            found = _guarded(expressions, leaves, guards)
    return [_as_python(value) for value in found]


def _as_python(value: ArrayLike) -> ArrayLike:
    return value.item() if isinstance(value, np.generic) else value


def _leaves(
    order: Sequence[Expression], values: Mapping[str, ArrayLike], time: ArrayLike
) -> dict[Expression, ArrayLike]:
    """Return the value of each node without arguments; all values of JAX in one precision."""
    found: dict[Expression, ArrayLike] = {}
    for one in order:
        if one.op == "symbol":
            name = str(one.value)
            if name not in values:
                refuse("values", f"have a value for `{name}`", "without one")
            found[one] = values[name]
        elif one.op == "time":
            found[one] = time
        elif not one.args:
            found[one] = _constant(one)
    traced = [value.dtype for value in found.values() if is_traced(value) and value.dtype != bool]
    dtype = np.result_type(*traced) if traced else np.dtype(float)
    dtype = dtype if dtype.kind == "f" else jax.dtypes.canonicalize_dtype(float)
    return {one: _leaf(value, dtype) for one, value in found.items()}


def _constant(one: Expression) -> ArrayLike:
    """Return the value of a number, of true or false, or of an operation without operands."""
    if one.op in ("true", "false"):
        return one.op == "true"
    return number_in(one) if one.op == "number" else (OF_NUMBERS.get(one.op) or OF_BOOLEANS[one.op])()


def _leaf(value: ArrayLike, dtype: DTypeLike) -> ArrayLike:
    if is_traced(value):
        same = value.dtype == bool or (value.dtype == dtype and not value.weak_type)
        return value if same else jax.lax.convert_element_type(value, dtype)
    if is_boolean(value):
        return value
    return np.asarray(value, float)[()]


def _value(one: Expression, args: list[ArrayLike]) -> ArrayLike:
    """Return the value of a node from those of its arguments."""
    op = one.op
    if op == "piecewise":
        return _piecewise(args)
    if op in OF_NUMBERS:
        return OF_NUMBERS[op](*as_numbers(args))
    if op in RELATIONS:
        return RELATIONS[op](*as_numbers(args))
    if op in OF_BOOLEANS:
        return OF_BOOLEANS[op](*map(as_truth, args))
    return refuse("expressions", "have no rate of change and no delay left", str(one))


def _piecewise(args: list[ArrayLike]) -> ArrayLike:
    """Return the value whose condition is the first that holds; NaN if none does and there is no other."""
    results = [*args[0::2], *([] if len(args) % 2 else [np.float64(np.nan)])]
    *values, found = results if all(map(is_boolean, results)) else as_numbers(results)
    for value, condition in reversed(list(zip(values, map(as_truth, args[1::2]), strict=True))):
        if isinstance(condition, (bool, np.bool_)):
            found = value if condition else found
        else:
            found = m.select(condition, value, found)
    return found


# what is needed when


def _is_risky(one: Expression) -> bool:
    """Return whether a node can have an infinite value or derivative where its arguments have none."""
    if one.op not in SAFE:
        return False
    if one.op == "/":
        return one.args[1].op != "number"
    if one.op != "^" or one.args[1].op != "number":
        return True
    exponent = number_in(one.args[1])
    return not (is_small_whole(exponent) and exponent >= 0.0)


def _needed(order: Sequence[Expression], expressions: Sequence[Expression]) -> dict[Expression, Expression]:
    """Return when a value and its derivative are needed, for each node that is not only in conditions."""
    uses: dict[Expression, dict[Expression, None]] = {one: {} for one in order}
    for one in expressions:
        uses[one][TRUE] = None
    needed: dict[Expression, Expression] = {}
    for one in reversed(order):
        if not uses[one]:
            continue  # only in conditions
        when = TRUE if TRUE in uses[one] else _joined("or", uses[one])
        needed[one] = when
        if one.op in RELATIONS or one.op in OF_BOOLEANS:
            continue
        if one.op != "piecewise":
            for arg in one.args:
                uses[arg][when] = None
            continue
        before = TRUE
        for k in range(0, len(one.args), 2):
            condition = one.args[k + 1] if k + 1 < len(one.args) else TRUE
            uses[one.args[k]][_joined("and", [when, before, condition])] = None
            before = _joined("and", [before, call("not", condition)])
    return needed


def _joined(op: str, conditions: Sequence[Expression] | dict[Expression, None]) -> Expression:
    parts = [one for one in conditions if one is not (TRUE if op == "and" else FALSE)]
    return call(op, *parts) if len(parts) > 1 else parts[0] if parts else TRUE


def _guarded(
    expressions: Sequence[Expression], leaves: dict[Expression, ArrayLike], guards: Mapping[Expression, Expression]
) -> list[ArrayLike]:
    """Return the values of expressions of which some operations have harmless operands where they are not needed."""
    moved = _moved(nodes(*expressions), guards)
    known: dict[_Key, ArrayLike] = {(one, False): value for one, value in leaves.items()}
    known |= {(one, False): one is TRUE for one in (TRUE, FALSE)}
    wanted: list[_Key] = [(one, one in moved) for one in expressions]
    stack = [(key, False) for key in reversed(wanted)]
    while stack:
        key, ready = stack.pop()
        if key in known:
            continue
        one, guarded = key
        args = _arguments(one, guarded, moved)
        when: list[_Key] = [(guards[one], False)] if guarded and one in guards else []
        if ready:
            operands = [known[arg] for arg in args]
            known[key] = _value(one, _harmless(one.op, operands, known[when[0]]) if when else operands)
        else:
            stack.append((key, True))
            stack.extend((arg, False) for arg in reversed([*when, *args]) if arg not in known)
    return [known[key] for key in wanted]


def _moved(order: Sequence[Expression], guards: Mapping[Expression, Expression]) -> set[Expression]:
    """Return the nodes whose value has to do with an operation that is guarded."""
    moved: set[Expression] = set()
    for one in order:
        if one in guards or any(guarded for _, guarded in _arguments(one, True, moved)):
            moved.add(one)
    return moved


def _arguments(one: Expression, guarded: bool, moved: set[Expression]) -> list[_Key]:
    """Return the arguments of a node; those that are conditions as they are, the others guarded if the node is."""
    if not guarded or one.op in RELATIONS or one.op in OF_BOOLEANS:
        return [(arg, False) for arg in one.args]
    last = len(one.args) - 1
    conditions = range(1, last + 1, 2) if one.op == "piecewise" else ()
    return [(arg, arg in moved and k not in conditions) for k, arg in enumerate(one.args)]


def _harmless(op: str, operands: list[ArrayLike], when: ArrayLike) -> list[ArrayLike]:
    """Return operands that are replaced where they are not needed."""
    needed = as_truth(when)
    first = 1 if op == "/" else 0  # any numerator will do
    moved = operands[:first]
    for x in operands[first:]:
        if isinstance(needed, (bool, np.bool_)):
            moved.append(x if needed else SAFE[op])
        else:
            moved.append(m.select(needed, as_number(x), SAFE[op]) if is_traced(x) else x)
    return moved

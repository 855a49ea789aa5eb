"""Linear models without steps: matrix exponentials from boundary to boundary.

Between two boundaries (doses, ends of infusions, outputs) a linear model with running infusions r is

    y' = A y + b + r,   y(t + h) = exp(h A) y(t) + h phi_1(h A) (b + r),   phi_1(z) = (exp(z) - 1) / z

which is exact. phi_1 is a Taylor polynomial of h A / 2^s, with s such that the remainder is below rounding, followed by
s doublings: phi_1(2 z) = (exp(z) + 1) phi_1(z) / 2. The diagonals of exp - 1 and of exp are doubled side by side, so
that neither a slow state nor one that has decayed loses digits beside a fast one. Both matrices are kept while the
interval stays the same, as it does for outputs on a grid.

References: Al-Mohy and Higham, SIAM J Matrix Anal Appl 2009;31:970, doi:10.1137/09074721X (scaling and doubling).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree

from qspjax._checks import refuse
from qspjax._model import AbstractModel, as_state, check_slope
from qspjax._names import state_names
from qspjax._regimen import Regimen
from qspjax._solution import RESULTS
from qspjax._types import Scalar, State
from qspjax.solve._adaptive import arrive
from qspjax.solve._method import AbstractMethod, Trajectory
from qspjax.solve._timeline import Timeline, timeline

LARGEST = 30
"""States of the largest model: beyond, a few products of dense matrices an output cost more than sparse steps."""
UNROLLED = 8
"""States up to which products are written out entry by entry, so that a batch is arithmetic over its patients."""
RADIUS, DEGREE = 0.75, 15
"""Norm within which the polynomial of phi_1 is exact to rounding: 0.75^16 / 17! = 3e-17."""
DOUBLINGS, BLOCK = 64, 8
"""Most doublings, h |A| up to 1e19, and how many are skipped or made together."""


class MatrixExponential(AbstractMethod):
    """Solve a linear model exactly, from dose to dose and output to output, without steps and tolerances.

    $$ y' = A y + b + r, \\quad y(t + h) = e^{h A} y(t) + h \\varphi_1(h A) (b + r) $$

    with r the running infusions. Derivatives are exact in both modes and of every order, with respect to parameters,
    initial state, dose amounts and every moving boundary. A patient whose numbers are not finite is reported as one.

    Raises:
        ValueError: On solving a model that is not linear with constant coefficients, or has more than 30 states.

    Reference: Al-Mohy and Higham 2009, doi:10.1137/09074721X.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)
        >>> regimen = qsp.bolus(200.0, to="depot")
        >>> solution = qsp.simulate(patient, regimen, [0.0, 2.0, 24.0], method=qsp.solve.MatrixExponential())
        >>> solution.observed["concentration"].round(3)
        Array([0.   , 5.295, 0.66 ], dtype=float64)
    """

    def solve(
        self, model: AbstractModel, regimen: Regimen, ts: jax.Array, initial: State | None, t0: Scalar
    ) -> Trajectory:
        if _structure(model, as_state(model, initial)) is None:
            must = f"be linear with constant coefficients and have at most {LARGEST} states for this method"
            refuse("model", must, f"`{type(model).__name__}`, which is not")
        states, end = _solve(model, regimen, ts, initial, jnp.asarray(t0, ts.dtype))
        code = RESULTS.where(end.fine, RESULTS.successful, RESULTS.state_nonfinite)
        none = jnp.zeros((), dtype=int)
        return Trajectory(states, code, {"steps": end.steps, "rejected": none, **end.place()})

    def describe(self) -> str:
        return "MatrixExponential, exact"


def is_linear(model: AbstractModel, initial: State | None = None) -> bool:
    """Return whether dy/dt = A y + b with constant A and b, of at most `LARGEST` states, told without any number.

    The equations are read, not evaluated: only sums, products with constants and movements of states count as linear,
    so a model that is linear in a way not known here is False.
    """
    return _structure(model, as_state(model, initial)) is not None


# ---- the structure of a vector field, read from its jaxpr


class _Structure(NamedTuple):
    """Which entries of exp(A) can differ from zero, and whether b can."""

    pattern: np.ndarray
    affine: bool


class _Form(NamedTuple):
    """What is known of an intermediate value: it depends on these states, linearly, and on constants.

    Attributes:
        on: Which states each element depends on, shape (*shape, states).
        offset: Whether it may have a part that depends on no state.
    """

    on: np.ndarray
    offset: bool


def _structure(model: AbstractModel, start: State) -> _Structure | None:
    leaves, tree = jax.tree.flatten(start)
    n = sum(leaf.size for leaf in leaves)
    if not 0 < n <= LARGEST:
        return None
    arrays, static = eqx.partition(model, eqx.is_array)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (leaves, arrays))
    number = jax.ShapeDtypeStruct((), leaves[0].dtype)

    def field(t: Any, y: list, arrays: Any) -> list:
        slope = eqx.combine(arrays, static).vector_field(t, jax.tree.unflatten(tree, y))
        check_slope(slope, start)
        return [jnp.broadcast_to(own, leaf.shape) for own, leaf in zip(jax.tree.leaves(slope), leaves, strict=True)]

    closed = jax.make_jaxpr(field)(number, *shapes)
    forms: list[_Form | None] = [None]  # of the time, on which nothing may depend
    unit, first = np.eye(n, dtype=bool), 0
    for leaf in leaves:
        forms.append(_Form(unit[first : first + leaf.size].reshape(*leaf.shape, n), offset=False))
        first += leaf.size
    forms += [_constant(var.aval.shape, n) for var in closed.jaxpr.invars[len(forms) :]]
    slopes = _read(closed.jaxpr, forms, n)
    if any(form is None for form in slopes):
        return None
    reach = np.concatenate([form.on.reshape(-1, n) for form in slopes]) | unit
    for k in range(n):
        reach |= reach[:, k : k + 1] & reach[k]
    return _Structure(reach, any(form.offset for form in slopes))


def _constant(shape: tuple[int, ...], n: int, *, offset: bool = True) -> _Form:
    return _Form(np.zeros((*shape, n), dtype=bool), offset)


def _read(jaxpr: Any, inputs: Sequence[_Form | None], n: int) -> list[_Form | None]:
    """Return the form of each output; None for what is not linear or not understood."""
    known: dict[Any, _Form | None] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {var: _constant(var.aval.shape, n) for var in jaxpr.constvars}

    def form(atom: Any) -> _Form | None:
        if hasattr(atom, "val"):
            return _constant(atom.aval.shape, n, offset=bool(np.any(np.asarray(atom.val) != 0)))
        return known[atom]

    for eqn in jaxpr.eqns:
        known |= dict(zip(eqn.outvars, _apply(eqn, [form(atom) for atom in eqn.invars], n), strict=True))
    return [form(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, forms: list[_Form | None], n: int) -> list[_Form | None]:
    """Return the forms that one operation gives."""
    name, shapes = eqn.primitive.name, [var.aval.shape for var in eqn.outvars]
    if any(form is None for form in forms):
        return [None] * len(shapes)
    linear = [bool(form.on.any()) for form in forms]
    if name in _NESTED and (any(linear) or not all(form.offset for form in forms)):
        inner = eqn.params["jaxpr"]
        return _read(getattr(inner, "jaxpr", inner), forms, n)
    if not any(linear):
        zero = name in _MOVED + _JOINED + _SUMMED and not any(form.offset for form in forms)
        return [_constant(shape, n, offset=not zero) for shape in shapes]
    if name in _MOVED and linear[0] and not any(linear[1:]):
        return [_Form(_moved(eqn, forms[0].on, shapes[0]), forms[0].offset)]
    if name in _SUMMED or (name == "select_n" and not linear[0]):
        terms = forms[1:] if name == "select_n" else forms
        on = np.zeros((*shapes[0], n), dtype=bool)
        for term in terms:
            on |= term.on
        return [_Form(on, any(term.offset for term in terms))]
    if name in ("concatenate", "stack"):
        join, axis = (np.stack, "axis") if name == "stack" else (np.concatenate, "dimension")
        on = join([form.on for form in forms], axis=eqn.params[axis])
        return [_Form(on, any(form.offset for form in forms))]
    if name == "unstack":
        parts = np.moveaxis(forms[0].on, eqn.params["axis"], 0)
        return [_Form(part, forms[0].offset) for part in parts]
    if name in _JOINED:
        return [_Form(_anywhere(forms, shapes[0], n), any(form.offset for form in forms))]
    if (name == "mul" and sum(linear) == 1) or (name == "div" and not linear[1]):
        factor = forms[linear.index(True)]
        return [_Form(np.broadcast_to(factor.on, (*shapes[0], n)).copy(), factor.offset)]
    if name == "dot_general" and sum(linear) == 1:
        factor = forms[linear.index(True)]
        return [_Form(_anywhere([factor], shapes[0], n), factor.offset)]
    return [None] * len(shapes)


_NESTED = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
_MOVED = (
    *("neg", "copy", "copy_p", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose", "slice", "rev"),
    *("dynamic_slice", "gather", "reduce_sum", "cumsum"),
)
_SUMMED = ("add", "sub", "add_any")
_JOINED = ("concatenate", "stack", "pad", "dynamic_update_slice")


def _moved(eqn: Any, on: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return which states each element depends on after a movement; all of them where that is not followed."""
    name, n = eqn.primitive.name, on.shape[-1]
    if name in ("neg", "copy", "copy_p"):
        return on
    if name in ("reshape", "squeeze", "expand_dims"):
        return on.reshape(*shape, n)
    if name == "slice":
        starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
        strides = eqn.params["strides"] or (1,) * len(starts)
        return on[tuple(slice(*item) for item in zip(starts, stops, strides, strict=True))]
    if name == "broadcast_in_dim":
        axes = eqn.params["broadcast_dimensions"]
        inner = [1] * len(shape)
        for axis, size in zip(axes, on.shape[:-1], strict=True):
            inner[axis] = size
        return np.broadcast_to(on.reshape(*inner, n), (*shape, n)).copy()
    return _anywhere([_Form(on, False)], shape, n)


def _anywhere(forms: list[_Form], shape: tuple[int, ...], n: int) -> np.ndarray:
    union = np.any([form.on.reshape(-1, n).any(axis=0) for form in forms], axis=0)
    return np.broadcast_to(union, (*shape, n)).copy()


# ---- matrices and vectors: entry by entry where small, arrays where large

Matrix = Any
"""A dict of entries by (row, column), those that can differ from zero; or an array."""
Vector = Any
"""A tuple of numbers, or an array."""


def _entries(columns: list[Vector], pattern: np.ndarray) -> Matrix:
    n = len(columns)
    if n > UNROLLED:
        return jnp.stack(columns, axis=1)
    return {(i, j): columns[j][i] for i in range(n) for j in range(n) if pattern[i, j]}


def _dense(a: Matrix, n: int) -> jax.Array:
    """Return a matrix as an array."""
    if not isinstance(a, dict):
        return a
    zero = jnp.zeros_like(next(iter(a.values())))
    return jnp.stack([jnp.stack([a.get((i, j), zero) for j in range(n)]) for i in range(n)])


def _split(vector: jax.Array) -> Vector:
    """Return a vector over the last axis as it is computed with."""
    n = vector.shape[-1]
    return vector if n > UNROLLED else tuple(vector[..., i] for i in range(n))


def _dot(a: Matrix, x: Vector) -> Vector:
    if not isinstance(a, dict):
        return a @ x
    return tuple(_sum(a[i, j] * x[j] for j in range(len(x)) if (i, j) in a) for i in range(len(x)))


def _product(a: Matrix, b: Matrix, pattern: np.ndarray) -> Matrix:
    if not isinstance(a, dict):
        # for few states the sum of outer products is arithmetic over a batch, a library call is one a patient
        return _sum(a[:, k, None] * b[k] for k in range(len(a))) if len(a) <= UNROLLED else a @ b
    n = len(pattern)
    terms = {
        (i, j): [(i, k, j) for k in range(n) if (i, k) in a and (k, j) in b]
        for i, j in zip(*pattern.nonzero(), strict=True)
    }
    return {
        (int(i), int(j)): _sum(a[i, k] * b[k, j] for i, k, j in paths)
        if paths
        else jnp.zeros_like(next(iter(a.values())))
        for (i, j), paths in terms.items()
    }


def _sum(terms: Any) -> Any:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def _scaled(factor: Any, tree: Any) -> Any:
    return jax.tree.map(lambda x: factor * x, tree)


def _add(*trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: _sum(leaves), *trees)


def _shift(a: Matrix, value: Any) -> Matrix:
    """Return A + value I."""
    if not isinstance(a, dict):
        return a + value * np.eye(len(a))
    return {(i, j): entry + value if i == j else entry for (i, j), entry in a.items()}


def _diagonal(a: Matrix) -> Vector:
    if not isinstance(a, dict):
        return jnp.diagonal(a)
    return tuple(entry for (i, j), entry in a.items() if i == j)


def _with_diagonal(a: Matrix, diagonal: Vector) -> Matrix:
    if not isinstance(a, dict):
        return jnp.where(np.eye(len(a), dtype=bool), diagonal, a)
    return {(i, j): diagonal[i] if i == j else entry for (i, j), entry in a.items()}


def _around(off: Matrix, e: Vector) -> Matrix:
    """Return off_ij (e_i + e_j)."""
    if not isinstance(off, dict):
        return off * (e[:, None] + e)
    return {(i, j): entry * (e[i] + e[j]) for (i, j), entry in off.items()}


def _norm(a: Matrix, n: int) -> jax.Array:
    """Return the largest sum of a column's absolute values."""
    if not isinstance(a, dict):
        return jnp.max(jnp.sum(jnp.abs(a), axis=0))
    sums = [_sum(jnp.abs(entry) for (_, column), entry in a.items() if column == j) for j in range(n)]
    largest = sums[0]
    for value in sums[1:]:
        largest = jnp.maximum(largest, value)
    return largest


# ---- exp(h A) and h phi_1(h A)


class _Flow(NamedTuple):
    """The motion over an interval: y(t + h) = power y(t) + input (b + r)."""

    power: Matrix
    input: Matrix


def _exponential(a: Matrix, h: jax.Array, pattern: np.ndarray, *, bounded: bool) -> _Flow:
    """Return exp(h A) and h phi_1(h A); `bounded` where it is differentiated."""
    n = len(pattern)
    size = jax.lax.stop_gradient(h * _norm(a, n))
    doublings = jnp.clip(jnp.frexp(size / RADIUS)[1], 0, DOUBLINGS)
    doublings = jnp.where(jnp.isfinite(size), doublings, 0)
    step = h * jnp.asarray(0.5 ** np.arange(DOUBLINGS + 1))[doublings]
    x = _scaled(step, a)
    phi = _phi(x, pattern)
    grown = _product(x, phi, pattern)  # exp - 1
    start = (_with_diagonal(grown, _diagonal(_shift(grown, 1.0))), _diagonal(grown), _scaled(step, phi))

    def double(i: Any, now: tuple) -> tuple:
        later = _doubled(now, pattern)
        return jax.tree.map(lambda new, old: jnp.where(i < doublings, new, old), later, now)

    if not bounded:
        done = jax.lax.while_loop(
            lambda now: eqxi.unvmap_any(now[0] < doublings), lambda now: (now[0] + 1, double(*now)), (0, start)
        )[1]
        return _Flow(done[0], done[2])

    @jax.checkpoint
    def block(first: Any, now: tuple) -> tuple:
        return jax.lax.scan(lambda now, i: (double(first + i, now), None), now, jnp.arange(BLOCK))[0]

    def advance(now: tuple, first: Any) -> tuple:
        needed = eqxi.unvmap_any(first < doublings)
        return jax.lax.cond(needed, block, lambda _, now: now, first, now), None

    done = jax.lax.scan(advance, start, jnp.arange(0, DOUBLINGS, BLOCK))[0]
    return _Flow(done[0], done[2])


def _phi(x: Matrix, pattern: np.ndarray) -> Matrix:
    """Return sum_k x^k / (k + 1)! up to `DEGREE`, by Horner's rule in a loop: one product to compile."""
    coefficients = jnp.asarray([1.0 / math.factorial(k + 1) for k in reversed(range(DEGREE))])
    start = _shift(jax.tree.map(jnp.zeros_like, x), 1.0 / math.factorial(DEGREE + 1))
    return jax.lax.scan(lambda p, c: (_shift(_product(x, p, pattern), c), None), start, coefficients)[0]


def _doubled(now: tuple, pattern: np.ndarray) -> tuple:
    """Return exp, the diagonal of exp - 1, and the input matrix, over twice the interval."""
    power, less, inputs = now
    e = _diagonal(power)
    off = _with_diagonal(power, jax.tree.map(jnp.zeros_like, e))
    around = _product(off, off, pattern)
    cycles = _diagonal(around)
    less, e = (
        jax.tree.map(lambda d, o: d * (2.0 + d) + o, less, cycles),
        jax.tree.map(lambda d, e, o: jnp.where(d > -0.25, 1.0 + (d * (2.0 + d) + o), e * e + o), less, e, cycles),
    )
    doubled = _with_diagonal(_add(around, _around(off, _diagonal(power))), e)
    return doubled, less, _add(inputs, _product(power, inputs, pattern))


# ---- one patient


class _Plan(NamedTuple):
    """What happens from each boundary to the next, each of shape (boundaries, ...).

    Attributes:
        h: The interval before the boundary, with its derivative.
        used: The interval of the matrices: `h` within the rounding of times, or another one if `still`.
        fresh: Whether `used` or the rates are new.
        still: Whether the interval is empty.
        jump: What is added to the states at the boundary.
        rate: The rates that run before the boundary.
    """

    h: jax.Array
    used: jax.Array
    fresh: jax.Array
    still: jax.Array
    jump: Vector
    rate: Vector


def _plan(lines: Timeline, t0: jax.Array, n: int) -> _Plan:
    live = jnp.isfinite(lines.time)
    stop = jnp.where(live, lines.time, 0.0)
    before = jnp.concatenate([t0[None], stop[:-1]])

    def sort(now: tuple, boundary: tuple) -> tuple:
        t, used, stale, rate, running = now
        number, live, time = boundary
        gap, slack = time - t, 64 * jnp.finfo(time.dtype).eps * jnp.abs(time)
        still = ~live | (gap <= slack)
        fresh = ~still & (stale | ~(jnp.abs(gap - used) <= slack))
        reached = jnp.where(still, t, jnp.where(fresh, time, t + used))
        used = jnp.where(fresh, gap, used)
        jump, changed, counted = arrive(lines, number, jnp.zeros(n, time.dtype), rate, running)
        stale = (stale & ~fresh) | (lines.running[number] != 0)
        return (reached, used, stale, changed, counted), (used, fresh, still, jnp.where(live, jump, 0.0), rate)

    t0 = jax.lax.stop_gradient(t0)
    start = (t0, jnp.zeros_like(t0), jnp.asarray(True), jnp.zeros(n, stop.dtype), jnp.zeros(n, dtype=int))
    _, rows = jax.lax.scan(sort, start, (jnp.arange(live.size), live, jax.lax.stop_gradient(stop)))
    used, fresh, still, jump, rate = rows
    return _Plan(
        jnp.where(live, stop - before, 0.0),
        jax.lax.stop_gradient(used),
        fresh,
        still,
        _split(jump),
        _split(rate),
    )


class _End(NamedTuple):
    """How the solve of one patient went."""

    fine: jax.Array
    steps: jax.Array
    last_time: jax.Array
    culprit: jax.Array

    def place(self) -> dict[str, jax.Array]:
        return {"last_time": self.last_time, "culprit": self.culprit}


class _System(NamedTuple):
    """y' = A y + b from y0."""

    a: Matrix
    b: Vector
    y0: Vector
    structure: _Structure


def _system(model: AbstractModel, start: State) -> _System:
    structure = _structure(model, start)
    y0, unravel = ravel_pytree(start)

    def field(y: jax.Array) -> jax.Array:
        slope = model.vector_field(jnp.zeros((), y.dtype), unravel(y))
        return ravel_pytree(jax.tree.map(lambda own, leaf: jnp.broadcast_to(own, leaf.shape), slope, start))[0]

    origin, unit = jnp.zeros_like(y0), np.eye(y0.size, dtype=y0.dtype)
    columns = [jax.jvp(field, (origin,), (unit[j],))[1] for j in range(y0.size)]
    return _System(_entries(columns, structure.pattern), _split(field(origin)), _split(y0), structure)


def _slope(y: Vector, system: tuple[Matrix, Vector]) -> Vector:
    return _add(_dot(system[0], y), system[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _slid(slope: Callable[[Any, Any], Any], y: Any, system: Any, h: jax.Array) -> Any:
    """Return y, the state after an interval h, whose derivative by h is `slope(y, system)`.

    The matrices are constants of the interval; this gives it its derivatives of every order, and costs nothing where
    the interval has none. A derivative of y by anything else slides along its own slope, that of the pair.
    """
    del slope, system, h
    return y


def _slid_jvp(slope: Callable[[Any, Any], Any], primals: tuple, tangents: tuple) -> tuple:
    (y, system, h), moved, (*_, longer) = (
        primals,
        [_full(*pair) for pair in zip(primals, tangents, strict=True)],
        tangents,
    )

    def pair(both: tuple, systems: tuple) -> tuple:
        return jax.jvp(slope, (both[0], systems[0]), (both[1], systems[1]))

    y1, moved = _slid(slope, y, system, h), _slid(pair, (y, moved[0]), (system, moved[1]), h)[1]
    if isinstance(longer, SymbolicZero):
        return y1, moved
    # a patient who failed has no slope
    along = jax.tree.map(lambda s: longer * jnp.where(jnp.isfinite(s), s, 0.0), slope(y1, system))
    return y1, _add(moved, along)


_slid.defjvp(_slid_jvp, symbolic_zeros=True)


def _full(primal: Any, tangent: Any) -> Any:
    return jax.tree.map(lambda x, t: jnp.zeros_like(x) if isinstance(t, SymbolicZero) else t, primal, tangent)


def _run(one: _System, plan: _Plan, fine: jax.Array | None) -> tuple[Vector, Vector]:
    """Return the states after every boundary, and the last."""
    pattern = one.structure.pattern

    def quickly(h: jax.Array, u: Vector) -> tuple[Matrix, Vector]:
        flow = _exponential(one.a, h, pattern, bounded=False)
        return flow.power, _dot(flow.input, u)

    @jax.checkpoint
    def compactly(h: jax.Array, u: Vector) -> tuple[Matrix, Vector]:  # for derivatives, which take longer to compile
        n = len(pattern)
        flow = _exponential(_dense(one.a, n), h, pattern, bounded=True)
        power, inputs = (_entries(list(matrix.T), pattern) for matrix in flow)
        return power, _dot(inputs, u)

    compute = quickly if fine is None else compactly

    def advance(now: tuple, row: _Plan) -> tuple:
        y, *kept = now
        u = _add(one.b, row.rate)
        power, driven = jax.lax.cond(
            eqxi.unvmap_any(row.fresh),
            lambda h, u, *_: compute(h, u),
            lambda *old: old[2:],
            row.used,
            u,
            *kept,
        )
        moved = _add(_dot(power, y), driven)
        moved = jax.tree.map(lambda new, old: jnp.where(row.still, old, new), moved, y)
        if fine is not None:
            moved = _slid(_slope, moved, (one.a, u), row.h)
        y = _add(moved, row.jump)
        return (y, power, driven), y

    zero = jax.tree.map(jnp.zeros_like, (one.a, one.y0))
    (last, *_), rows = jax.lax.scan(advance, (one.y0, *zero), plan)
    return rows, last


def _outputs(rows: Vector, lines: Timeline, ts: jax.Array, start: State) -> State:
    """Return the states at the outputs, NaN where there is none."""
    boundaries = lines.time.size
    place = jnp.zeros(ts.size, dtype=int).at[lines.output].set(jnp.arange(boundaries), mode="drop")
    columns = [rows[:, i] for i in range(rows.shape[1])] if isinstance(rows, jax.Array) else list(rows)
    columns = [column[place] for column in columns]
    seen = jnp.isfinite(ts)
    for column in columns:
        seen &= jnp.isfinite(column)
    columns = [jnp.where(seen, column, jnp.nan) for column in columns]
    leaves, tree = jax.tree.flatten(start)
    kept = []
    for leaf in leaves:
        own, columns = columns[: leaf.size], columns[leaf.size :]
        kept.append(own[0] if leaf.ndim == 0 else jnp.stack(own, axis=1).reshape(ts.size, *leaf.shape))
    return jax.tree.unflatten(tree, kept)


def _course(
    model: AbstractModel,
    regimen: Regimen,
    ts: jax.Array,
    initial: State | None,
    t0: jax.Array,
    *,
    fine: jax.Array | None = None,
) -> tuple[State, Any]:
    """Return the states at the outputs and how it went; the differentiated path where it is known who is `fine`."""
    start = as_state(model, initial)
    differentiated = fine is not None
    if not differentiated:
        one = _system(model, start)
    else:
        # a patient who failed stands still; its times and doses stay what they are, shared with the others
        one = _system(_stilled(model, fine), _stilled(start, fine))
        one = _System(*jax.tree.map(lambda x: jnp.where(fine, x, 0.0), one[:3]), one.structure)
    lines = timeline(model, regimen, ts, state_names(start))
    n = len(one.structure.pattern)
    plan = _plan(lines, t0, n)
    rows, last = _run(one, plan, fine)
    states = _outputs(rows, lines, ts, start)
    if differentiated:
        return states, None

    live = jnp.isfinite(lines.time)
    unknown = jnp.isnan(lines.time) | (live & jnp.isnan(lines.jump + lines.rate))
    known = ~unknown.any()
    states = jax.tree.map(lambda leaf: jnp.where(known, leaf, jnp.nan), states)
    finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(last)]).all()
    latest = jnp.max(jnp.where(live, lines.time, t0), initial=t0)

    def blame() -> tuple[jax.Array, jax.Array]:
        values = rows if isinstance(rows, jax.Array) else jnp.stack(rows, axis=1)
        bad = ~jnp.isfinite(values)
        first = jnp.argmax(bad.any(axis=1))
        good = (first > 0) & known
        y = jnp.where(good, values[first - 1], ravel_pytree(start)[0])
        slope = jnp.stack(list(_add(_dot(one.a, _split(y)), one.b)))
        culprit = bad[first]
        for vector in (~jnp.isfinite(slope), ~jnp.isfinite(y)):
            culprit = jnp.where(vector.any(), vector, culprit)
        where = jnp.where(known, jnp.argmax(culprit), lines.state[jnp.argmax(unknown)])
        return jnp.where(good, lines.time[first - 1], t0), where

    fine = finite & known
    nobody = jnp.zeros((), dtype=int)
    last_time, culprit = jax.lax.cond(eqxi.unvmap_any(~fine), blame, lambda: (latest, nobody))
    last_time, culprit = jnp.where(fine, latest, last_time), jnp.where(fine, nobody, culprit)
    steps = jnp.sum(live & (lines.time <= last_time))
    return states, _End(fine, steps, last_time, culprit)


@eqx.filter_custom_jvp
def _solve(
    model: AbstractModel, regimen: Regimen, ts: jax.Array, initial: State | None, t0: jax.Array
) -> tuple[State, _End]:
    return _course(model, regimen, ts, initial, t0)


@_solve.def_jvp
def _solve_jvp(primals: tuple, tangents: tuple) -> tuple:
    reached, end = _course(*_frozen(primals))

    def again(*arguments: Any) -> State:
        return _course(*arguments, fine=end.fine)[0]

    # a failed patient contributes a zero derivative of every order: both ends are cut, so its NaN meets no cotangent
    states, moved = eqx.filter_jvp(again, primals, _masked(tangents, end.fine))
    states = jax.tree.map(lambda new, old: jnp.where(end.fine, new, old), states, reached)
    return (states, end), (_masked(moved, end.fine), jax.tree.map(lambda _: None, end))


def _frozen(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, tree)


def _stilled(tree: Any, fine: jax.Array) -> Any:
    """Return the same values, as constants of every derivative unless `fine`."""
    return jax.tree.map(lambda x: jnp.where(fine, x, jax.lax.stop_gradient(x)) if eqx.is_inexact_array(x) else x, tree)


def _masked(tree: Any, fine: jax.Array) -> Any:
    return jax.tree.map(lambda x: jnp.where(fine, x, jnp.zeros_like(x)), tree)

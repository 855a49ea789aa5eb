"""The methods of the ensemble kernel: thousands of patients side by side, each with its own steps.

One patient and a cohort run the same program: `vmap` over `simulate` makes the ensemble longer. See `solve.kernel`.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from qspjax._checks import check_instance, refuse
from qspjax._declared import mass_of
from qspjax._jaxpr._regular import not_below
from qspjax._model import AbstractModel, as_state
from qspjax._names import state_names
from qspjax._solution import RESULTS
from qspjax._types import Scalar, State
from qspjax.solve import native as _native  # noqa: F401
from qspjax.solve._control import INCONSISTENT, STIFF, SUCCESS, UNSETTLED, Control, result_of
from qspjax.solve._method import AbstractMethod, Trajectory, absolute, check_settings
from qspjax.solve._near import Near
from qspjax.solve.dosing._schedule import Schedule
from qspjax.solve.dosing._timeline import timeline
from qspjax.solve.events._monitor import events_over_leaves, start_events
from qspjax.solve.kernel._explicit import explicit_step
from qspjax.solve.kernel._lanes import Patients, Program
from qspjax.solve.kernel._layout import AbstractSystem, Rows, system_of
from qspjax.solve.kernel._rosenbrock import rosenbrock_step
from qspjax.solve.kernel.primitives import run
from qspjax.solve.native._mapped import natively
from qspjax.solve.tableaux._contract import AbstractRosenbrockTableau
from qspjax.solve.tableaux._rodas5p import Rodas5P

if TYPE_CHECKING:
    import diffrax

MEMORY = 1 << 29
"""512 MiB."""


class Rosenbrock(AbstractMethod):
    """Solve with a Rosenbrock method in the ensemble kernel: for stiff models, and for most others.

    $$ (M / \\gamma - h J) u_i = h f(t + c_i h, y + \\sum_j a_{ij} u_j) + M \\sum_j C_{ij} u_j + h^2 d_i f_t $$

    One sparse factorisation per step, no iteration; L-stable. Derivatives are those of the steps that were taken, with
    respect to parameters, initial state, doses and every moving boundary, in both modes and of every order.

    Args:
        tableau: The coefficients: `Rodas5P()`; for loose tolerances `Rodas4P2()`, `Rodas4()`, `ROS3PRL()` or `Rodas3()`
            with fewer stages; or another `AbstractRosenbrockTableau`.
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the units of the states: below it a state is effectively zero. For a model that
            gives the sizes of its states (a `Network` does) it is relative to these.
        max_steps: Maximum number of steps per patient, rejected ones included; by default 16384, and 64 more for every
            dose, end of an infusion and output.
        memory: Maximum number of bytes in which a derivative remembers steps; what does not fit is computed again.

    Raises:
        ValueError: If a tolerance is not positive.

    References: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.7, doi:10.1007/978-3-642-05221-7;
    Steinebach, BIT Numer Math 2023;63:27, doi:10.1007/s10543-023-00967-x (Rodas5P); `solve.kernel`.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> method = qsp.solve.Rosenbrock(rtol=1e-8)
        >>> solution = qsp.simulate(patient, qsp.bolus(300.0, to="central"), [0.0, 10.0], method=method)
        >>> solution.observed["concentration"].round(4)
        Array([10.    ,  3.6788], dtype=float64)
    """

    tableau: AbstractRosenbrockTableau = Rodas5P()
    rtol: float = eqx.field(default=1e-6, static=True, kw_only=True)
    atol: float = eqx.field(default=1e-9, static=True, kw_only=True)
    max_steps: int | None = eqx.field(default=None, static=True, kw_only=True)
    memory: int = eqx.field(default=MEMORY, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_settings(rtol=self.rtol, atol=self.atol, max_steps=self.max_steps, memory=self.memory)
        check_instance("tableau", self.tableau, AbstractRosenbrockTableau, "a tableau such as Rodas5P()")

    def solve(
        self, model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: Scalar
    ) -> Trajectory:
        return _solved(self, model, schedule, ts, initial, t0)

    def describe(self) -> str:
        return f"{self.tableau.name} at rtol {self.rtol:g}, atol {self.atol:g}"


@functools.cache
def _tsit5() -> "diffrax.AbstractERK":
    import diffrax  # it takes half a second, and most models are solved without it

    return diffrax.Tsit5()


class Explicit(AbstractMethod):
    """Solve with an explicit Runge-Kutta pair in the ensemble kernel: for models that are not stiff.

    Args:
        solver: The pair: `diffrax.Tsit5()`, or `diffrax.Dopri8()` where high accuracy is needed.
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the units of the states.
        max_steps: Maximum number of steps per patient; by default 16384, and 64 more for every boundary.
        memory: Maximum number of bytes in which a derivative remembers steps; what does not fit is computed again.

    Raises:
        ValueError: If a tolerance is not positive or the solver is not an explicit pair.

    Reference: Tsitouras, Comput Math Appl 2011;62:770, doi:10.1016/j.camwa.2011.06.002.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> regimen = qsp.bolus(300.0, to="central")
        >>> solution = qsp.simulate(patient, regimen, [0.0, 10.0], method=qsp.solve.Explicit())
        >>> solution.observed["concentration"].round(4)
        Array([10.    ,  3.6788], dtype=float64)
    """

    solver: "diffrax.AbstractERK" = eqx.field(default_factory=_tsit5)
    rtol: float = eqx.field(default=1e-6, static=True, kw_only=True)
    atol: float = eqx.field(default=1e-9, static=True, kw_only=True)
    max_steps: int | None = eqx.field(default=None, static=True, kw_only=True)
    memory: int = eqx.field(default=MEMORY, static=True, kw_only=True)

    def __check_init__(self) -> None:
        import diffrax

        check_settings(rtol=self.rtol, atol=self.atol, max_steps=self.max_steps, memory=self.memory)
        check_instance("solver", self.solver, diffrax.AbstractERK, "an explicit solver such as diffrax.Tsit5()")
        if not isinstance(self.solver, diffrax.AbstractAdaptiveSolver):
            refuse("solver", "have an error estimate", type(self.solver).__name__)

    def solve(
        self, model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: Scalar
    ) -> Trajectory:
        return _solved(self, model, schedule, ts, initial, t0)

    def describe(self) -> str:
        return f"{type(self.solver).__name__} at rtol {self.rtol:g}, atol {self.atol:g}"


class Automatic(AbstractMethod):
    """Solve every patient with an explicit method, and those who turn out stiff with a Rosenbrock method.

    A patient whose step size is held down by stability, not by accuracy, for 15 steps in a row is solved again, by
    Rodas5P; each patient on its own. For models of which some patients are stiff and most are not; one that is always
    stiff is solved faster by `Rosenbrock` directly.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the units of the states.
        max_steps: Maximum number of steps per patient; by default 16384, and 64 more for every boundary.
        memory: Maximum number of bytes in which a derivative remembers steps; what does not fit is computed again.

    Raises:
        ValueError: If a tolerance is not positive.

    Reference: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.2, doi:10.1007/978-3-642-05221-7.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> regimen = qsp.bolus(300.0, to="central")
        >>> solution = qsp.simulate(patient, regimen, [0.0, 10.0], method=qsp.solve.Automatic())
        >>> solution.observed["concentration"].round(4)
        Array([10.    ,  3.6788], dtype=float64)
    """

    rtol: float = eqx.field(default=1e-6, static=True, kw_only=True)
    atol: float = eqx.field(default=1e-9, static=True, kw_only=True)
    max_steps: int | None = eqx.field(default=None, static=True, kw_only=True)
    memory: int = eqx.field(default=MEMORY, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_settings(rtol=self.rtol, atol=self.atol, max_steps=self.max_steps, memory=self.memory)

    def solve(
        self, model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: Scalar
    ) -> Trajectory:
        return _solved(self, model, schedule, ts, initial, t0)

    def describe(self) -> str:
        return f"Tsit5, or Rodas5P where stiff, at rtol {self.rtol:g}, atol {self.atol:g}"


class Effort(AbstractMethod):
    """Solve by another method, but only where asked, and with tolerances as loose as is enough: for searches.

    Args:
        method: The method.
        active: Whether to solve at all; otherwise nothing after the start is known, at no cost.
        looser: The factor by which both tolerances are greater.
    """

    method: Rosenbrock | Explicit | Automatic
    active: Bool[Array, ""]
    looser: Float[Array, ""]

    @property
    def rtol(self) -> float:
        """The relative tolerance of the method."""
        return self.method.rtol

    @property
    def atol(self) -> float:
        """The absolute tolerance of the method."""
        return self.method.atol

    def solve(
        self, model: AbstractModel, schedule: Schedule, ts: jax.Array, initial: State | None, t0: Scalar
    ) -> Trajectory:
        return _solved(self.method, model, schedule, ts, initial, t0, self.active, self.looser)

    def describe(self) -> str:
        return self.method.describe()


def has_effort(method: AbstractMethod | None) -> TypeGuard[Rosenbrock | Explicit | Automatic]:
    """Return whether a method can be that of an `Effort`."""
    return isinstance(method, (Rosenbrock, Explicit, Automatic))


class _Scheme(NamedTuple):
    """A step and what controls it."""

    step: Callable[..., tuple[Rows, Rows, jax.Array | None]]
    atol: float
    control: Control
    max_steps: int | None
    memory: int
    implicit: bool
    gives_up: bool = False


def _rosenbrock(tableau: AbstractRosenbrockTableau, method: Rosenbrock | Automatic) -> _Scheme:
    step = functools.partial(rosenbrock_step, tableau)
    control = Control(method.rtol, method.atol, tableau.order)
    return _Scheme(step, method.atol, control, method.max_steps, method.memory, implicit=True)


def _explicit(solver: "diffrax.AbstractERK", method: Explicit | Automatic, *, gives_up: bool = False) -> _Scheme:
    import diffrax

    tableau, order = solver.tableau, solver.order(None)
    if not isinstance(tableau, diffrax.ButcherTableau) or order is None:
        refuse("solver", "be one Runge-Kutta pair of known order", type(solver).__name__)
    step = functools.partial(explicit_step, tableau)
    control = Control(method.rtol, method.atol, order)
    return _Scheme(step, method.atol, control, method.max_steps, method.memory, implicit=False, gives_up=gives_up)


def _solved(
    method: Rosenbrock | Explicit | Automatic,
    model: AbstractModel,
    schedule: Schedule,
    ts: jax.Array,
    initial: State | None,
    t0: Scalar,
    active: jax.Array | None = None,
    looser: jax.Array | None = None,
) -> Trajectory:
    """Solve one patient by a method of the kernel."""
    if isinstance(method, Rosenbrock):
        scheme = _rosenbrock(method.tableau, method)
        return _solve(model, schedule, ts, initial, t0, scheme, active, looser)[0]
    if isinstance(method, Explicit):
        return _solve(model, schedule, ts, initial, t0, _explicit(method.solver, method), active, looser)[0]
    scheme = _explicit(_tsit5(), method, gives_up=True)
    easy, stiff = _solve(model, schedule, ts, initial, t0, scheme, active, looser)
    hard, _ = _solve(model, schedule, ts, initial, t0, _rosenbrock(Rodas5P(), method), stiff, looser)

    def chosen(hard: jax.Array, easy: jax.Array) -> jax.Array:
        return jnp.where(stiff, hard, easy)

    stats = jax.tree.map(chosen, hard.stats, easy.stats)
    for name in ("steps", "rejected"):
        stats[name] = easy.stats[name] + jnp.where(stiff, hard.stats[name], 0)
    result = RESULTS.where(stiff, hard.result, easy.result)
    return Trajectory(jax.tree.map(chosen, hard.states, easy.states), result, stats)


def _solve(
    model: AbstractModel,
    schedule: Schedule,
    ts: jax.Array,
    initial: State | None,
    t0: Scalar,
    scheme: _Scheme,
    active: jax.Array | None = None,
    looser: jax.Array | None = None,
) -> tuple[Trajectory, jax.Array]:
    """Solve an ensemble of one patient, which `vmap` makes longer; return also whether it was given up as stiff.

    A patient that is not `active` has no boundaries, so it is done before its first step. Tolerances are `looser` by a
    factor.
    """
    start = as_state(model, initial)
    _, unravel = ravel_pytree(start)
    states = state_names(start)
    mass = mass_of(model, states)
    atol = absolute(scheme.atol, model, states)
    control = scheme.control._replace(atol=tuple(atol.tolist()) if isinstance(atol, np.ndarray) else atol)
    if not scheme.implicit and not mass.all():
        refuse("method", "be `Rosenbrock` for a model with algebraic states", "an explicit one")
    lines = timeline(schedule, ts)
    system, leaves = system_of(model, start, mass, atol)
    _check_determined(system, states)
    y0, events, solved = start_events(model, start, t0, Near(control.rtol, np.asarray(control.atol)))
    unknown = lines.unknown()
    outputs = ts.shape[0]
    time = lines.boundaries.time if active is None else jnp.where(active, lines.boundaries.time, jnp.inf)
    patients = Patients(
        constants=natively(system.prepare, leaves),
        y0=jnp.where(unknown.any(), jnp.nan, y0),
        t0=jnp.asarray(t0, y0.dtype),
        boundaries=lines.boundaries._replace(time=time).cast(y0.dtype),
        vectors=None if lines.vectors is None else lines.vectors.astype(y0.dtype),
        span=jax.lax.stop_gradient(lines.span.astype(y0.dtype)),
        looser=None if looser is None else jax.lax.stop_gradient(looser.astype(y0.dtype)),
    )
    if not mass.all():
        patients = patients._replace(ended=jnp.where(solved, SUCCESS, INCONSISTENT).astype(jnp.int32))
    if events is not None:
        ended = jnp.where(events.settled, SUCCESS if patients.ended is None else patients.ended, UNSETTLED)
        patients = patients._replace(memory=events.memory, ended=ended.astype(jnp.int32), leaves=tuple(leaves))
    program = Program(
        system=system,
        step=scheme.step,
        control=control,
        outputs=outputs,
        max_steps=16384 + 64 * lines.size if scheme.max_steps is None else scheme.max_steps,
        gives_up=scheme.gives_up,
        protected=lines.protected,
        batched=jax.tree.map(lambda _: False, patients),
        patients=1,
        memory=scheme.memory,
        expected=256 + 8 * lines.size,
        events=None if events is None else events_over_leaves(events.system, model),
    )
    reached, end, failing = jax.tree.map(lambda leaf: leaf[0], run(program, patients))
    reached = not_below(reached, system.floor) if system.floor.any() else reached
    stats = {
        "steps": end.accepted + end.rejected,
        "rejected": end.rejected,
        "last_time": end.t,
        "culprit": jnp.where(unknown.any(), lines.failing_state(unknown), failing),
    }
    return Trajectory(jax.vmap(unravel)(reached), result_of(end.code), stats), end.code == STIFF


def _check_determined(system: AbstractSystem, states: tuple[str, ...]) -> None:
    """Check that the algebraic equations can be solved for the algebraic states, each with a pivot of its own."""
    if system.mass.all():
        return
    try:
        _ = system.elimination
    except ValueError:
        names = ", ".join(f"`{states[i]}`" for i in (system.mass == 0).nonzero()[0])
        must = f"have algebraic equations that determine {names}, each appearing in its own equation"
        refuse("model", must, "one whose equations do not, or in another order")

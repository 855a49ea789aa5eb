"""Gradient descent of two groups, the numbers of the mechanism and the weights of networks, each in its own way."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from qspjax._checks import check_above, check_instance, check_whole, refuse
from qspjax.fit._problem import Problem
from qspjax.fit.search._search import CONVERGED, EXHAUSTED, FAILED, RUNNING, AbstractSearch, Search
from qspjax.fit.training._curriculum import AbstractCurriculum
from qspjax.fit.training._held_out import HeldOut
from qspjax.fit.training._losses import Losses, losses
from qspjax.fit.training._turns import AbstractTurns

if TYPE_CHECKING:
    import optax

RATE = 0.01
"""The rate of learning of both groups, where nothing else is said."""
SHORTER = 0.3
"""After a step to a point that fails, the next one goes this share of the way."""


class Training(NamedTuple):
    """The state of a training.

    Attributes:
        x: The point that is evaluated next.
        good: The last point that did not fail.
        optimisers: The states of the optimisers of both groups.
        step: The number of steps taken.
        best: The loss of what is held out at the best point; without any, that of the training.
        since: The number of steps since the best one.
        ending: Whether the answer is found, and only its log density is left to compute.
        early: Whether it was found before the last step.
        left_out: How often each experiment was left out, shape (experiments,).
        noted: See `AbstractSearch.noted`.
    """

    x: Float[Array, " parameters"]
    good: Float[Array, " parameters"]
    optimisers: tuple[PyTree, PyTree]
    step: Int[Array, ""]
    best: Float[Array, ""]
    since: Int[Array, ""]
    ending: Bool[Array, ""]
    early: Bool[Array, ""]
    left_out: Int[Array, " experiments"]
    noted: Float[Array, " noted"]


class Descent(AbstractSearch):
    """Gradient descent of the mechanism's numbers and of the networks' weights, each by an optimiser of its own.

    $$ \\theta \\leftarrow \\theta - u_\\theta(\\nabla_\\theta L), \\quad w \\leftarrow w - u_w(\\nabla_w L), \\quad
    L = -\\sum_i c_i(s) \\log p(y_i | \\theta, w) - \\log p(\\theta, w) + penalties $$

    with c the factors that the curriculum gives measurements at step s. The answer is the point at which held-out
    subjects are predicted best; without any, the point with the least L, or where a curriculum changes L from step to
    step, the last one. Its log density is that of all data, those held out included. Numbers stay within their bounds.

    Args:
        mechanism: The optimiser of the numbers, on the scale of the search, such as `optax.adam(0.01)`, which it is by
            default; its learning rate may follow a schedule.
        networks: The optimiser of the weights, likewise.
        max_steps: The number of steps.
        clip: The greatest norm of the gradient of a group; longer ones are shortened to it.
        turns: Which group moves at a step: `After(...)`, `Alternating(...)`; by default both, always.
        curriculum: Which measurements count at a step: `Minibatches(...)`, `Horizon(...)`, `Emphasis(...)`.
        held_out: Subjects that are held out, to stop early.
        leave_out: The greatest share of the subjects that is left out of a step because their simulation fails. The fit
            names them. By default a point where one fails is no better than one where all do.

    Raises:
        ValueError: If a number is out of range, or an argument is of another kind.

    Reference: Rackauckas et al., arXiv:2001.04385 (2020); Kingma and Ba, ICLR 2015, doi:10.48550/arXiv.1412.6980.

    Example:
        >>> import equinox as eqx, jax, optax, qspjax as qsp
        >>> from qspjax.fit import Additive, Descent, Experiment, Free, Measurements, Output, Problem, Weights, estimate
        >>> class Learned(qsp.AbstractModel):
        ...     V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
        ...     k: eqx.nn.MLP
        ...
        ...     def initial(self):
        ...         return {"central": 0.0}
        ...
        ...     def vector_field(self, t, y):
        ...         return {"central": -jax.nn.softplus(self.k(y["central"] / self.V)) * y["central"]}
        ...
        ...     def observe(self, t, y):
        ...         return {"concentration": y["central"] / self.V}
        >>> network = eqx.nn.MLP("scalar", "scalar", width_size=4, depth=1, key=jax.random.key(0))
        >>> problem = Problem(
        ...     Learned(V=30.0, k=network),
        ...     Experiment(Measurements([1.0, 4.0, 8.0], [3.0, 2.1, 1.2], output="c"), qsp.bolus(100.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"V": Free(30.0), "k": Weights(prior=qsp.Normal(0.0, sd=1.0))},
        ... )
        >>> found = estimate(problem, method=Descent(networks=optax.adam(0.03), max_steps=200))
        >>> found.log_density > problem.log_density(problem.start)
        Array(True, dtype=bool)
    """

    keeps: ClassVar[bool] = True
    noted: ClassVar[tuple[str, ...]] = (
        "training",
        "held_out",
        "penalty",
        "mechanism_slope",
        "networks_slope",
        "networks_size",
        "left_out",
    )

    mechanism: "optax.GradientTransformation | None" = eqx.field(default=None, static=True, kw_only=True)
    networks: "optax.GradientTransformation | None" = eqx.field(default=None, static=True, kw_only=True)
    max_steps: int = eqx.field(default=1000, static=True, kw_only=True)
    clip: float | None = eqx.field(default=None, static=True, kw_only=True)
    turns: AbstractTurns | None = eqx.field(default=None, kw_only=True)
    curriculum: tuple[AbstractCurriculum, ...] = eqx.field(default=(), converter=tuple, kw_only=True)
    held_out: HeldOut | None = eqx.field(default=None, kw_only=True)
    leave_out: float = eqx.field(default=0.0, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("max_steps", self.max_steps, 1)
        if self.clip is not None:
            check_above("clip", self.clip, 0.0)
        if self.turns is not None:
            check_instance("turns", self.turns, AbstractTurns, "After(...) or Alternating(...)")
        for item in self.curriculum:
            check_instance("curriculum", item, AbstractCurriculum, "made of Minibatches(...), Horizon(...) and others")
        if self.held_out is not None:
            check_instance("held_out", self.held_out, HeldOut, "HeldOut(...)")
        if not 0.0 <= self.leave_out < 1.0:
            refuse("leave_out", "be a share of the subjects, at least 0 and less than 1", self.leave_out)

    def _optimisers(self) -> "tuple[optax.GradientTransformation, ...]":
        import optax

        given = (self.mechanism, self.networks)
        each = (optax.adam(RATE) if optimiser is None else optimiser for optimiser in given)
        if self.clip is None:
            return tuple(each)
        return tuple(optax.chain(optax.clip_by_global_norm(self.clip), optimiser) for optimiser in each)

    def begin(self, problem: Problem, x: Array) -> Training:
        if problem.solver is not None:
            refuse("analytic", "be None for Descent(), which searches all parameters", "not")
        self._held(problem)
        mechanism, networks = (o.init(part) for o, part in zip(self._optimisers(), problem.split(x), strict=True))
        none, no = jnp.zeros((), int), jnp.zeros((), bool)
        left_out, noted = jnp.zeros(len(problem.experiments), int), jnp.zeros(len(self.noted))
        return Training(x, x, (mechanism, networks), none, jnp.asarray(jnp.inf), none, no, no, left_out, noted)

    def _held(self, problem: Problem) -> Bool[np.ndarray, " experiments"]:
        none = np.zeros(len(problem.experiments), bool)
        return none if self.held_out is None else self.held_out.of(problem)

    def counted(
        self, problem: Problem, step: Int[Array, ""], whole: Bool[Array, ""]
    ) -> tuple[list[Float[Array, " rows"]], list[Bool[Array, " rows"]]]:
        """Return the factor of each measurement at a step, and which ones are held out and looked at.

        Args:
            problem: The problem.
            step: The number of steps before.
            whole: Whether all measurements count, whatever the step.
        """
        held = self._held(problem)
        subjects = np.flatnonzero(~held)
        looks = step % (1 if self.held_out is None else self.held_out.every) == 0
        weights, watched = [], []
        for data in problem.layout.joined:
            parts = []
            for rows in data.members or (data,):
                factor = jnp.where(held[rows.experiment], 0.0, 1.0)
                for item in self.curriculum:
                    factor *= item.weights(rows, subjects, step)
                parts.append(jnp.where(whole, 1.0, factor))
            weights.append(jnp.concatenate(parts))
            watched.append(held[data.experiment] & looks & ~whole)
        return weights, watched

    def loss(self, problem: Problem, x: Array, step: Int[Array, ""], whole: Bool[Array, ""]) -> tuple[Array, Losses]:
        """Return what is minimised at a step, inf where too many subjects fail, and its parts; see `counted`."""
        parts = losses(problem, x, *self.counted(problem, step, whole))
        too_many = jnp.mean(parts.failing) > self.leave_out
        value = parts.training - problem.log_prior(x) + parts.penalty
        return jnp.where(too_many, jnp.inf, value), parts

    def step(self, problem: Problem, search: Search, held: Array) -> Search:
        own: Training = search.own
        x = jnp.where(own.ending, search.x, own.x)

        def evaluated(x: Array) -> tuple[Array, Losses]:
            return self.loss(problem, x, own.step, own.ending)

        (value, parts), gradient = jax.value_and_grad(evaluated, has_aux=True)(x)
        finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
        gradient = jnp.where(finite & ~held, gradient, 0.0)
        after = self._moved(problem, own, x, gradient, finite, held)
        better, best = self._is_better(own, value, parts, finite)
        since = jnp.where(better, 0, own.since + 1)
        patience = self.max_steps if self.held_out is None else self.held_out.patience
        stops = self._is_whole(own.step) & (since >= patience)
        ends = stops | (own.step + 1 >= self.max_steps)
        after = after._replace(
            step=own.step + 1,
            best=best,
            since=since,
            ending=own.ending | ends,
            early=own.early | (stops & ~own.ending),
            left_out=own.left_out + jnp.where(finite, parts.failing, False),
            noted=self._notes(problem, x, gradient, parts),
        )
        status = jnp.where(own.ending, jnp.where(own.early, CONVERGED, EXHAUSTED), RUNNING)
        shown = jnp.where(own.ending, value - parts.penalty, value)
        return search._replace(
            x=jnp.where(better & ~own.ending, x, search.x),
            value=jnp.where(finite, shown, jnp.where(own.ending, jnp.inf, search.value)),
            status=jnp.where((own.step == 0) & ~finite, FAILED, status),
            steps=search.steps + 1,
            failures=search.failures + ~finite,
            own=after,
            tried=x,
        )

    def _moved(
        self, problem: Problem, own: Training, x: Array, gradient: Array, finite: Array, held: Array
    ) -> Training:
        """Return the state with the next point: after a good one a step of each group that moves, else back halfway."""
        moving = (jnp.ones((), bool),) * 2 if self.turns is None else self.turns.moving(own.step)
        steps, states = [], []
        groups = zip(self._optimisers(), problem.split(gradient), own.optimisers, problem.split(x), moving, strict=True)
        for optimiser, slope, state, part, moves in groups:
            update, new = optimiser.update(slope, state, part)
            steps.append(jnp.where(moves, jnp.asarray(update), 0.0))
            states.append(jax.tree.map(lambda a, b, m=moves: jnp.where(m & finite, a, b), new, state))
        move = jnp.where(held, 0.0, jnp.concatenate(steps))
        back = own.good + SHORTER * (x - own.good)
        following = jnp.where(finite, jnp.clip(x + move, *problem.bounds), back)
        return own._replace(x=following, good=jnp.where(finite, x, own.good), optimisers=(states[0], states[1]))

    def _is_better(self, own: Training, value: Array, parts: Losses, finite: Array) -> tuple[Array, Array]:
        """Return whether a point is the best so far, and by which loss."""
        if self.held_out is not None:
            looked = (own.step % self.held_out.every == 0) & self._is_whole(own.step)
            loss = jnp.where(looked, parts.held_out, jnp.inf)
            better = finite & ((loss < own.best) | jnp.isinf(own.best))
        elif self.curriculum:  # losses of two steps are of different measurements
            loss, better = value, finite
        else:
            loss, better = value, finite & (value < own.best)
        return better, jnp.where(better, loss, own.best)

    def _is_whole(self, step: Array) -> Array:
        return jnp.all(jnp.stack([jnp.ones((), bool), *(item.is_whole(step) for item in self.curriculum)]))

    def _notes(self, problem: Problem, x: Array, gradient: Array, parts: Losses) -> Array:
        slopes = (jnp.linalg.norm(part) for part in problem.split(gradient))
        size = jnp.linalg.norm(problem.split(x)[1])
        return jnp.stack([parts.each, parts.held_out, parts.penalty, *slopes, size, jnp.sum(parts.failing)])

    def describe(self) -> str:
        return f"gradient descent in {self.max_steps} steps"

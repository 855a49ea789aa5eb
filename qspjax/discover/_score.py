"""Score tests of edges that are not in a network: the gradient of the log density in their strengths at 0.

With the score U and the information I of strengths theta and fitted parameters psi at the estimates,

$$ U^* = U_\\theta - I_{\\theta\\psi} I_{\\psi\\psi}^{-1} U_\\psi, \\qquad
   I^* = I_{\\theta\\theta} - I_{\\theta\\psi} I_{\\psi\\psi}^{-1} I_{\\psi\\theta}, \\qquad
   z_j = U^*_j / \\sqrt{I^*_{jj}} $$

z is standard normal for a strength that is 0: nothing has to be refitted for it. All edges are simulated side by side
by one program, with the derivative along the strength of one edge each: this gives scores and information.

Reference: Rao (1948), doi:10.1017/S0305004100023987; Neyman (1959), "Optimal asymptotic tests" (C(alpha)); Holm (1979);
Benjamini and Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qspjax._checks import check_instance, refuse
from qspjax._extras import require
from qspjax.discover._edges import AbstractEdge, check_edges, switched
from qspjax.fit import Fit, Problem
from qspjax.fit._types import Vector
from qspjax.fit.data._dependence import slopes_given_earlier
from qspjax.fit.data._stages import Stages
from qspjax.models.network import Network

if TYPE_CHECKING:
    import pandas

ALIKE = 0.95
"""Edges whose scores are correlated by more than this cannot be told apart."""
UNKNOWN = 1e-9
"""An edge of whose information less than this part is left beside the fitted parameters has no test."""


@dataclasses.dataclass(frozen=True)
class EdgeScores:
    """Score tests of edges, the most significant first.

    Attributes:
        edges: The edges.
        z: Their standardised efficient scores, NaN where the data say nothing, shape (edges,).
        p: Their p values: one-sided for strengths that cannot be negative.
        family: p values by Holm: the chance that any of so many edges looks like this where none is missing.
        q: q values by Benjamini and Hochberg: the share of false ones among edges with this or a smaller one.
        estimate: What their strengths would be, to first order.
        correlation: The correlation of the scores, shape (edges, edges).

    Example:
        >>> import qspjax as qsp
        >>> qsp.discover.EdgeScores.__name__
        'EdgeScores'
    """

    edges: tuple[AbstractEdge, ...]
    z: Float[np.ndarray, " edges"]
    p: Float[np.ndarray, " edges"]
    family: Float[np.ndarray, " edges"]
    q: Float[np.ndarray, " edges"]
    estimate: Float[np.ndarray, " edges"]
    correlation: Float[np.ndarray, "edges edges"]

    def like(self, edge: int) -> tuple[AbstractEdge, ...]:
        """Return the other edges that these data cannot tell from one: correlated by more than 0.95.

        Args:
            edge: The number of the edge.
        """
        alike = np.abs(self.correlation[edge]) > ALIKE
        return tuple(other for k, other in enumerate(self.edges) if alike[k] and k != edge)

    def table(self) -> dict[str, np.ndarray]:
        """Return the tests as columns: `edge`, `z`, `p`, `family`, `q`, `estimate`, `alike` (how many are like it)."""
        return {
            "edge": np.array([edge.name for edge in self.edges], dtype=object),
            "z": self.z,
            "p": self.p,
            "family": self.family,
            "q": self.q,
            "estimate": self.estimate,
            "alike": np.array([len(self.like(k)) for k in range(len(self.edges))]),
        }

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the tests as a table, the most significant first."""
        return require("pandas", extra="data").DataFrame(self.table())

    def __str__(self) -> str:
        table = self.table()
        lines = [f"{'edge':<40}{'z':>8}{'p':>11}{'family':>11}{'q':>11}{'alike':>7}"]
        for k in range(min(8, len(self.edges))):
            numbers = "".join(f"{table[name][k]:>11.2g}" for name in ("p", "family", "q"))
            lines.append(f"{table['edge'][k]:<40}{self.z[k]:>8.2f}{numbers}{table['alike'][k]:>7}")
        return "\n".join(lines)


def edge_scores(fit: Fit, edges: Sequence[AbstractEdge]) -> EdgeScores:
    """Test edges that are not in a fitted network.

    Args:
        fit: The fit of a problem whose model is a `Network`.
        edges: The edges, such as those of `candidate_edges`.

    Raises:
        ValueError: If the model is no network, an edge could not be in it, or the fit cannot be evaluated.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> network = qsp.models.Network(
        ...     species={"A": 10.0, "B": 0.0}, parameters={"k": 0.3},
        ...     reactions={"r": qsp.models.Reaction("A -> B", "k * A")},
        ... )
        >>> data = Measurements([1.0, 2.0, 4.0, 8.0, 12.0], [9.0, 8.2, 6.8, 4.4, 2.5], output="A")
        >>> problem = Problem(network, Experiment(data), {"A": Output("A", Additive(0.1))}, {"k": Free(0.3)})
        >>> scores = qsp.discover.edge_scores(qsp.fit.estimate(problem), [qsp.discover.Modifier("B", "r", 5.0)])
        >>> bool(scores.p[0] < 0.01)
        True
    """
    check_instance("fit", fit, Fit, "what `fit.estimate` returns")
    network = fit.problem.model
    check_instance("fit", network, Network, "the fit of a problem whose model is a Network")
    assert isinstance(network, Network)
    edges = check_edges(edges, network)
    score, information = joint_information(fit.problem, jnp.asarray(fit.x), edges)
    return tested(edges, score, information)


def joint_information(
    problem: Problem, x: Vector, edges: Sequence[AbstractEdge]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """Return score and information of the strengths of edges at 0 and of the parameters of a problem, in this order.

    Args:
        problem: The problem.
        x: The point, on the scale of the search.
        edges: The edges.
    """
    one = switched(cast(Network, problem.model), edges)
    table = problem.layout.table.size
    places = {name: table + k for k, name in enumerate(one.parameters)}
    stages = problem.layout.stages
    stages = dataclasses.replace(stages, model=one.network, shared={**stages.shared, **places})
    program = jax.jit(lambda x: _joint(problem, stages, jnp.asarray(one.switches), x))
    score, information, defined = program(x)
    if not defined:
        refuse("fit", "have a log density with finite derivatives", "; ".join(problem.failures(x)) or "one without")
    return np.asarray(score), np.asarray(information)


def _joint(problem: Problem, stages: Stages, switches: Array, x: Vector) -> tuple[Array, Array, Array]:
    rows, edges = problem.layout.joined, switches.shape[0]
    linear = problem.linearised(x, rows)
    (numbers, known), first = problem.pooled(linear.x), problem.layout.table.size  # weights come last

    def along(switch: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        def observed_of(strength: Array) -> dict[str, Array]:
            outcomes = stages.simulate(jnp.concatenate([numbers[:first], strength[None], switch, numbers[first:]]))
            return problem.layout.where_measured(outcomes.observed)

        return jax.jvp(observed_of, (jnp.zeros(()),), (jnp.ones(()),))

    observed, tangents = jax.vmap(along)(switches)
    observed = {name: value[0] for name, value in observed.items()}

    def predictors_of(observed: Mapping[str, Array]) -> list:
        return [data.predicted(numbers, observed, known)[1] for data in rows]

    own = jax.vmap(lambda tangent: jax.jvp(predictors_of, (observed,), (tangent,))[1])(tangents)
    joined = [
        tuple(jnp.concatenate(pair) for pair in zip(of_edges, of_parameters, strict=True))
        for of_edges, (_, of_parameters) in zip(own, linear.slopes, strict=True)
    ]
    predictors, joined = slopes_given_earlier(rows, [one for _, one in linear.predicted], joined)
    size = edges + x.size
    slope = jax.grad(problem.log_prior)
    bends = -jax.jvp(slope, (linear.x,), (jnp.ones_like(x),))[1]
    score = jnp.zeros(size).at[edges:].add(slope(linear.x))
    information = jnp.zeros((size, size)).at[edges:, edges:].add(jnp.diag(jnp.maximum(bends, 0.0)))
    for data, p, slopes in zip(rows, predictors, joined, strict=True):
        _, scores, expected = data.scores(p)
        score += sum((d @ s for s, d in zip(scores, slopes, strict=True)), jnp.zeros(size))
        for w, d in expected.terms(slopes):
            information += (d * w) @ d.T
    return score, information, jnp.isfinite(score).all() & jnp.isfinite(information).all()


def tested(edges: Sequence[AbstractEdge], score: np.ndarray, information: np.ndarray) -> EdgeScores:
    """Return the tests of edges from score and information, in which they come first."""
    from scipy.stats import norm

    n = len(edges)
    inverse = np.linalg.pinv(information[n:, n:], rcond=1e-12, hermitian=True)
    across = information[:n, n:] @ inverse
    efficient = score[:n] - across @ score[n:]
    own = information[:n, :n] - across @ information[n:, :n]
    size = np.diag(own)
    known = size > UNKNOWN * np.maximum(np.diag(information)[:n], 1e-300)
    spread = np.sqrt(np.where(known, size, 1.0))
    z = np.where(known, efficient / spread, np.nan)
    one_sided = np.array([edge.positive for edge in edges])
    p = np.where(one_sided, norm.sf(z), 2.0 * norm.sf(np.abs(z)))
    p = np.where(known, p, 1.0)
    correlation = np.where(known[:, None] & known, own / np.outer(spread, spread), np.eye(n))
    order = np.lexsort((-np.abs(np.nan_to_num(z)), p))
    ranks = np.arange(n)
    family = np.minimum(np.maximum.accumulate((n - ranks) * p[order]), 1.0)
    q = np.minimum(np.minimum.accumulate((n / (ranks + 1.0) * p[order])[::-1])[::-1], 1.0)
    estimate = np.where(known, efficient / np.where(known, size, 1.0), np.nan)
    return EdgeScores(
        tuple(edges[k] for k in order),
        z[order],
        p[order],
        family,
        q,
        estimate[order],
        correlation[np.ix_(order, order)],
    )

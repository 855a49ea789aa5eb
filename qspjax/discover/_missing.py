"""Missing edges of a network: the best of those that are significant is added and fitted, one after the other.

Reference: Erdem and Birtwistle (2023), MEMMAL: a tool for expanding large-scale mechanistic models with machine learned
associations and big datasets, doi:10.3389/fsysb.2023.1099413; Schwarz (1978), doi:10.1214/aos/1176344136.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_above, check_instance, check_names, check_one_of, check_whole
from qspjax._expression import Expression, symbols
from qspjax.discover._edges import AbstractEdge, Modifier, check_edges, with_edges
from qspjax.discover._score import EdgeScores, edge_scores
from qspjax.discover._visited import visited
from qspjax.fit import Fit, Free, Problem, Weights, estimate
from qspjax.models.network import Network


@dataclasses.dataclass(frozen=True)
class Step:
    """An edge that was added, or taken out again.

    Attributes:
        edge: The edge.
        added: Whether it was added.
        family: Its p value among all edges that were tested.
        bic: The information criterion with this change.
        alike: The names of the edges that the data cannot tell from it.

    Example:
        >>> import qspjax as qsp
        >>> qsp.discover.Step(qsp.discover.Modifier("drug", "growth", 5.0), True, 1e-6, 120.0, ()).added
        True
    """

    edge: AbstractEdge
    added: bool
    family: float
    bic: float
    alike: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class MissingEdges:
    """What a network missed.

    Attributes:
        edges: The edges that were added.
        scores: The tests before anything was added.
        remaining: The tests with the edges.
        fit: The fit with the edges.
        steps: What was done.
        before: The information criterion before anything was added.

    Example:
        >>> import qspjax as qsp
        >>> qsp.discover.MissingEdges.__name__
        'MissingEdges'
    """

    edges: tuple[AbstractEdge, ...]
    scores: EdgeScores
    remaining: EdgeScores | None
    fit: Fit
    steps: tuple[Step, ...]
    before: float

    @property
    def network(self) -> Network:
        """The network with the edges and the estimates."""
        return cast(Network, self.fit.problem.fitted_model(jnp.asarray(self.fit.x)))

    @property
    def strengths(self) -> dict[str, float]:
        """The estimated strengths of the edges, by their names."""
        return {edge.name: self.fit.parameters[edge.strength] for edge in self.edges}

    def __str__(self) -> str:
        lines = [
            f"{'':<8}{'edge':<40}{'family':>11}{'BIC':>12}   alike",
            f"{'':<8}{'none':<40}{'':>11}{self.before:>12.1f}",
        ]
        for step in self.steps:
            word = "added" if step.added else "dropped"
            others = ", ".join(step.alike)
            lines.append(f"{word:<8}{step.edge.name:<40}{step.family:>11.2g}{step.bic:>12.1f}   {others}".rstrip())
        return "\n".join(lines)


def candidate_edges(
    fit: Fit, *, species: Collection[str] | None = None, reactions: Collection[str] | None = None
) -> tuple[Modifier, ...]:
    """Return all edges by which a species may modify a reaction whose rate does not depend on it.

    Half of its effect is at the median of its values in the experiments, at the estimates.

    Args:
        fit: The fit of a problem whose model is a `Network`.
        species: The species, by default all that vary.
        reactions: The reactions, by default all.

    Raises:
        ValueError: If the model is no network, or a name is not in it.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> network = qsp.models.Network(
        ...     species={"A": 10.0, "B": 0.0}, parameters={"k": 0.3},
        ...     reactions={"r": qsp.models.Reaction("A -> B", "k * A")},
        ... )
        >>> data = Measurements([1.0, 2.0, 4.0, 8.0, 12.0], [9.0, 8.2, 6.8, 4.4, 2.5], output="A")
        >>> problem = Problem(network, Experiment(data), {"A": Output("A", Additive(0.1))}, {"k": Free(0.3)})
        >>> [edge.name for edge in qsp.discover.candidate_edges(qsp.fit.estimate(problem))]
        ['B modifies r']
    """
    check_instance("fit", fit, Fit, "what `fit.estimate` returns")
    network = fit.problem.model
    check_instance("fit", network, Network, "the fit of a problem whose model is a Network")
    definition = cast(Network, network).definition
    typical = typical_values(fit.problem, fit.x, [*definition.species])
    chosen = [*typical] if species is None else check_names("species", species)
    for name in chosen:
        check_one_of("species", name, typical, "a species that varies")
    targets = [*definition.reactions] if reactions is None else check_names("reactions", reactions)
    for name in targets:
        check_one_of("reactions", name, definition.reactions, "a reaction of the network")
    rates = {id: symbols(cast(Expression, definition.reactions[id].rate)) for id in targets}
    return tuple(Modifier(name, id, typical[name]) for id in targets for name in chosen if name not in rates[id])


def typical_values(problem: Problem, x: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return the medians of positive values along the simulations of a problem, of what is positive somewhere."""
    columns = visited(problem, x, names)
    return {name: float(np.median(values[values > 0])) for name, values in columns.items() if (values > 0).any()}


def missing_edges(
    fit: Fit,
    edges: Sequence[AbstractEdge] | None = None,
    *,
    level: float = 0.05,
    most: int = 5,
    tried: int = 3,
) -> MissingEdges:
    """Find what a fitted network misses: test edges by their scores, add the best, fit, and test again.

    In each step the most significant edges are fitted, and the one with the greatest likelihood stays if the Bayesian
    information criterion falls. The search ends where no edge is significant among all that are tested, by Holm; edges
    that are not needed beside later ones are taken out again.

    Args:
        fit: The fit of a problem whose model is a `Network`.
        edges: What may be missing; by default all of `candidate_edges`.
        level: The chance that an edge is added where none is missing.
        most: How many edges are added at most.
        tried: How many edges are fitted in each step.

    Raises:
        ValueError: If the model is no network, or an edge could not be in it.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> network = qsp.models.Network(
        ...     species={"A": 10.0, "B": 0.0}, parameters={"k": 0.3},
        ...     reactions={"r": qsp.models.Reaction("A -> B", "k * A")},
        ... )
        >>> data = Measurements([1.0, 2.0, 4.0, 8.0, 12.0], [9.0, 8.2, 6.8, 4.4, 2.5], output="A")
        >>> problem = Problem(network, Experiment(data), {"A": Output("A", Additive(0.1))}, {"k": Free(0.3)})
        >>> found = qsp.discover.missing_edges(qsp.fit.estimate(problem))
        >>> [edge.name for edge in found.edges]
        ['B modifies r']
    """
    check_instance("fit", fit, Fit, "what `fit.estimate` returns")
    check_above("level", level, 0.0)
    check_whole("most", most, 0)
    check_whole("tried", tried, 1)
    check_instance("fit", fit.problem.model, Network, "the fit of a problem whose model is a Network")
    edges = candidate_edges(fit) if edges is None else edges
    remaining = [*check_edges(edges, cast(Network, fit.problem.model))]
    first = scores = edge_scores(fit, remaining)
    before, steps, chosen = bic(fit), [], []
    while remaining and len(chosen) < most and scores.family[0] <= level:
        leading = [k for k in range(min(tried, len(scores.edges))) if scores.family[k] <= level]
        fits = [with_edge(fit, scores.edges[k], float(scores.estimate[k])) for k in leading]
        best = int(np.argmax([one.log_density for one in fits]))
        if bic(fits[best]) >= bic(fit):
            break
        fit, edge = fits[best], scores.edges[leading[best]]
        alike = tuple(other.name for other in scores.like(leading[best]))
        steps.append(Step(edge, True, float(scores.family[leading[best]]), bic(fit), alike))
        chosen.append(edge)
        remaining.remove(edge)
        if remaining:
            scores = edge_scores(fit, remaining)
    while len(chosen) > 1:
        fits = [without_edge(fit, edge) for edge in chosen]
        best = int(np.argmin([bic(one) for one in fits]))
        if bic(fits[best]) >= bic(fit):
            break
        fit, edge = fits[best], chosen.pop(best)
        steps.append(Step(edge, False, np.nan, bic(fit), ()))
    return MissingEdges(tuple(chosen), first, scores if remaining else None, fit, tuple(steps), before)


def bic(fit: Fit) -> float:
    """Return the Bayesian information criterion of a fit, k ln n - 2 ln L, with n measurements and k parameters."""
    measurements = sum(rows.value.size for rows in fit.problem.rows)
    log_likelihood = fit.log_density - float(fit.problem.log_prior(jnp.asarray(fit.x)))
    return len(fit.problem.names) * float(np.log(measurements)) - 2.0 * log_likelihood


def changed(problem: Problem, network: Network, parameters: Mapping[str, Free | Weights | float]) -> Problem:
    """Return a problem with another network and other parameters."""
    return Problem(
        network,
        problem.experiments,
        problem.outputs,
        parameters,
        method=problem.method,
        reference=problem.reference,
        gradient=problem.gradient,
    )


def started(problem: Problem, fit: Fit) -> Fit:
    """Return the fit of a problem that starts at the estimates of another."""
    known = {name: value for name, value in fit.parameters.items() if name in problem.free}
    networks = fit.problem.networks(jnp.asarray(fit.x))
    known |= {name: network for name, network in networks.items() if name in problem.parameters}
    point = np.clip(np.asarray(problem.point(known)), *map(np.asarray, problem.bounds))
    return estimate(problem, starts=point[None, :])


def with_edge(fit: Fit, edge: AbstractEdge, strength: float) -> Fit:
    """Return the fit with an edge."""
    problem, free = fit.problem, edge.free(strength)
    network = with_edges(cast(Network, problem.model), [edge], [free.start])
    return started(changed(problem, network, {**problem.parameters, edge.strength: free}), fit)


def without_edge(fit: Fit, edge: AbstractEdge) -> Fit:
    """Return the fit with the strength of an edge fixed at 0."""
    problem = fit.problem
    parameters = {name: value for name, value in problem.parameters.items() if name != edge.strength}
    network = cast(Network, problem.model).replace(edge.strength, 0.0)
    return started(changed(problem, network, parameters), fit)

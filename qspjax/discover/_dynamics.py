"""Sparse identification of unknown rates, with the solver in the loop.

A weak form of the smoothed data says which few terms of a library may be the unknown part of a rate. Then the solver
decides, with doses, noise and irregular times as they are: the model with these terms is fitted, score and information
of the coefficients of the whole library at this fit say which sets of terms promise more, and these are fitted in turn,
until none lowers the Bayesian information criterion.

Reference: Brunton, Proctor and Kutz (2016), doi:10.1073/pnas.1517384113; Messenger and Bortz (2021),
doi:10.1137/20M1343166 (weak form).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import cast

import jax.numpy as jnp
import numpy as np

from qspjax._checks import ArgumentError, check_instance, check_names, check_one_of, check_whole, refuse
from qspjax._expression import Expression, parse
from qspjax.discover._collocation import measured_species, regressions, subsets, unknown_names
from qspjax.discover._edges import WIDE, NewReaction, with_edges
from qspjax.discover._missing import bic, changed, started
from qspjax.discover._score import joint_information
from qspjax.fit import Fit, Free, Problem, estimate
from qspjax.models.network import Network

ROUNDS = 6
"""How often sets of terms are tried near the best fit at most."""


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """A network with the terms that were found for its unknown rates.

    Attributes:
        terms: The terms, as reactions.
        fit: The fit with them.
        trail: The sets of terms that were fitted, in words, each with its information criterion.

    Example:
        >>> import qspjax as qsp
        >>> qsp.discover.Dynamics.__name__
        'Dynamics'
    """

    terms: tuple[NewReaction, ...]
    fit: Fit
    trail: tuple[tuple[str, float], ...]

    @property
    def network(self) -> Network:
        """The network with the terms and the estimates."""
        return cast(Network, self.fit.problem.fitted_model(jnp.asarray(self.fit.x)))

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficients, which are positive, by term: `"A: + B"` is gained, `"A: - A * B"` lost."""
        return {_words(term): self.fit.parameters[term.strength] for term in self.terms}

    def __str__(self) -> str:
        lines = [f"{'BIC':>12}   terms", *(f"{value:>12.1f}   {words}" for words, value in self.trail)]
        return "\n".join([*lines, str(self.network.equations())])


def rate_terms(problem: Problem, species: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return terms of rates of measured species: 1, A, A^2, A * B, A / (h + A), A * B / (h + B), with typical sizes h.

    Args:
        problem: The problem.
        species: The species, by default all that an output measures.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> network = qsp.models.Network(
        ...     species={"A": 10.0}, parameters={"k": 0.1}, reactions={"r": qsp.models.Reaction("A ->", "k * A")}
        ... )
        >>> data = Measurements([0.0, 5.0, 9.0], [10.0, 6.0, 4.1], output="A")
        >>> problem = Problem(network, Experiment(data), {"A": Output("A", Additive(0.1))}, {"k": Free(0.1)})
        >>> qsp.discover.rate_terms(problem)
        ('1', 'A', 'A^2', 'A / (6 + A)')
    """
    check_instance("problem", problem, Problem, "a Problem")
    measured = measured_species(problem)
    names = [*measured] if species is None else check_names("species", species)
    for name in names:
        check_one_of("species", name, measured, "a species that an output measures")
    half = {}
    for name in names:
        values = np.concatenate([rows.value for rows in problem.rows if rows.name == measured[name]])
        half[name] = float(f"{np.median(values[values > 0]):.2g}") if (values > 0).any() else 1.0
    terms = ["1", *names]
    terms += [f"{a}^2" if a == b else f"{a} * {b}" for k, a in enumerate(names) for b in names[k:]]
    terms += [f"{a} / ({half[a]:g} + {a})" for a in names]
    terms += [f"{a} * {b} / ({half[b]:g} + {b})" for a in names for b in names if a != b]
    return tuple(terms)


def sparse_dynamics(
    problem: Problem,
    states: Sequence[str],
    library: Sequence[str | Expression] | None = None,
    *,
    most: int = 3,
    tried: int = 3,
) -> Dynamics:
    """Find the unknown part of the rates of some states, as few terms of a library.

    $$ dA_s/dt = f_s(A) + \\sum_j c_{sj} \\psi_j(A) $$

    with what is known f (the model of the problem, its parameters estimated with the rest).

    Args:
        problem: The measurements, and a `Network` with what is known.
        states: The species whose rate has an unknown part; outputs must measure them.
        library: The terms psi, formulas over ids of the network; by default `rate_terms(problem)`.
        most: How many terms the rate of a state has at most.
        tried: How many sets of terms are fitted in each round: first those that the weak form ranks first.

    Raises:
        ValueError: If a state is not measured, a term uses unknown names, or no set of terms can be fitted.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Measurements, Output, Problem
        >>> times = np.arange(0.0, 12.0, 1.5)
        >>> cells = Measurements(times, 10.0 * np.exp(-0.2 * times), output="cells")
        >>> known = qsp.models.Network(species={"cells": 10.0})
        >>> outputs = {"cells": Output("cells", Additive("sd"))}
        >>> problem = Problem(known, Experiment(cells), outputs, {"sd": qsp.fit.Free(0.1, bounds=(0.01, 1.0))})
        >>> qsp.discover.sparse_dynamics(problem, ["cells"], ["cells", "1"]).coefficients.keys()
        dict_keys(['cells: - cells'])
    """
    check_instance("problem", problem, Problem, "a Problem")
    check_instance("problem", problem.model, Network, "a problem whose model is a Network")
    check_whole("most", most, 1)
    check_whole("tried", tried, 1)
    network = cast(Network, problem.model)
    states = check_names("states", states)
    for name in states:
        check_one_of("states", name, network.definition.species, "a species of the network")
    terms = _terms(rate_terms(problem) if library is None else library, network)
    weak = regressions(problem, np.asarray(problem.start), states, terms)
    ranked = {name: subsets(weak[name], most)[:tried] for name in states}
    if not all(ranked.values()):
        raise ArgumentError("library", "must have terms that can be told apart, but has none for some state.")
    search = _Search(problem, terms)
    for chosen in _combined(ranked):
        search.consider({_term(name, terms[k], k, c): abs(c) for name, pairs in chosen.items() for k, c in pairs})
    rounds = 0
    while search.improve(states, most, tried) and rounds < ROUNDS:
        rounds += 1
    found, fit = search.found
    return Dynamics(tuple(found), fit, tuple(search.trail))


def _combined(ranked: Mapping[str, list]) -> list[dict[str, list[tuple[int, float]]]]:
    """Return what to fit: the best sets of all states, and with each other set of one state."""
    pairs = {name: [[*zip(chosen, c.tolist(), strict=True)] for chosen, c in sets] for name, sets in ranked.items()}
    best = {name: sets[0] for name, sets in pairs.items()}
    return [best, *({**best, name: other} for name, sets in pairs.items() for other in sets[1:])]


def _terms(library: Sequence[str | Expression], network: Network) -> tuple[Expression, ...]:
    terms = tuple(dict.fromkeys(parse(one) if isinstance(one, str) else one for one in library))
    for one in terms:
        check_instance("library", one, Expression, "formulas, as text")
    if not terms:
        raise ArgumentError("library", "must have at least one term, but has none.")
    if unknown := unknown_names(terms, network):
        refuse("library", "use ids of the network", f"with `{unknown[0]}`")
    return terms


def _term(state: str, term: Expression, place: int, coefficient: float) -> NewReaction:
    """Return a term as a reaction that makes or takes away a state."""
    equation, word = (f"-> {state}", "gain") if coefficient >= 0 else (f"{state} ->", "loss")
    return NewReaction(equation, term, id=f"{state}_{word}_{place + 1}")


def _words(term: NewReaction) -> str:
    return f"{_state(term)}: {'-' if term.equation.endswith('->') else '+'} {term.factor}"


class _Search:
    """The best set of terms so far, and its fit."""

    def __init__(self, problem: Problem, library: Sequence[Expression]) -> None:
        self.problem, self.forms = problem, library
        self.best: tuple[dict[NewReaction, float], Fit] | None = None
        self.trail: list[tuple[str, float]] = []
        self.fitted: set[frozenset] = set()
        self.penalty = float(np.log(sum(rows.value.size for rows in problem.rows)))

    @property
    def found(self) -> tuple[dict[NewReaction, float], Fit]:
        """The terms with their coefficients, and the fit."""
        if self.best is None:
            raise ArgumentError("library", "must have terms with which the model can be simulated, but has none.")
        return self.best

    def consider(self, terms: Mapping[NewReaction, float]) -> bool:
        """Fit a set of terms from first coefficients; keep it if it is better."""
        self.fitted.add(frozenset((_state(term), term.factor) for term in terms))
        free = {term: Free(size, bounds=(size / WIDE, size * WIDE)) for term, size in _sizes(terms).items()}
        network = cast(Network, self.problem.model)
        network = with_edges(network, [*free], [one.start for one in free.values()])
        parameters = {**self.problem.parameters, **{term.strength: one for term, one in free.items()}}
        problem = changed(self.problem, network, parameters) if free else self.problem
        try:
            fit = estimate(problem) if self.best is None else started(problem, self.best[1])
        except RuntimeError:  # with these terms it cannot be simulated
            return False
        value = bic(fit)
        self.trail.append((", ".join(map(_words, free)) or "none", value))
        if self.best is not None and value >= bic(self.best[1]):
            return False
        self.best = {term: fit.parameters[term.strength] for term in free}, fit
        return True

    def improve(self, states: Sequence[str], most: int, tried: int) -> bool:
        """Fit the sets of terms that promise most, near the present fit; return whether one is better.

        Near the fit the log likelihood is a quadratic function of the coefficients of all terms of the library, those
        that are 0 included: score and information say what each set would reach.
        """
        terms, fit = self.found
        has = {(_state(term), term.factor): term for term in terms}
        pairs = [(name, one) for name in states for one in self.forms if (name, one) not in has]
        edges = [
            NewReaction(f"-> {name}", one, id=f"tested_{k}", positive=False) for k, (name, one) in enumerate(pairs)
        ]
        if not edges:
            return False
        score, information = joint_information(fit.problem, jnp.asarray(fit.x), edges)
        names = [*(edge.strength for edge in edges), *fit.problem.names]
        places = {pair: k for k, pair in enumerate(pairs)} | {
            pair: names.index(term.strength) for pair, term in has.items()
        }
        signs = {pair: -1.0 if term.equation.endswith("->") else 1.0 for pair, term in has.items()}
        now = np.zeros(len(names))
        scale = np.ones(len(names))  # from logarithms of sizes to signed coefficients
        for pair, term in has.items():
            now[places[pair]] = signs[pair] * terms[term]
            scale[places[pair]] = 1.0 / now[places[pair]]
        expected = _Quadratic(score * scale, information * np.outer(scale, scale), now, {*places.values()})
        promising = []
        for name in states:
            others = [pair for pair in has if pair[0] != name]
            for size in range(most + 1):
                for chosen in itertools.combinations(self.forms, size):
                    own = (*others, *((name, one) for one in chosen))
                    gain, values = expected.reached([places[pair] for pair in own])
                    if own and frozenset(own) not in self.fitted:
                        promising.append((len(own) * self.penalty - 2.0 * gain, own, values))
        promising.sort(key=lambda one: one[0])
        better = False
        for value, own, values in promising[:tried]:
            if value < len(has) * self.penalty:
                found = {(pair, values[places[pair]]) for pair in own}
                better |= self.consider(
                    {_term(name, one, self.forms.index(one), c): abs(c) for (name, one), c in found}
                )
        return better


class _Quadratic:
    """A log likelihood near a point, as a quadratic function of coefficients and of other parameters."""

    def __init__(self, score: np.ndarray, information: np.ndarray, now: np.ndarray, coefficients: set[int]) -> None:
        size = np.sqrt(np.maximum(np.diag(information), 1e-300))
        self.score, self.information = score / size, information / np.outer(size, size) + 1e-10 * np.eye(len(size))
        self.now, self.size, self.coefficients = now, size, coefficients

    def reached(self, kept: Sequence[int]) -> tuple[float, np.ndarray]:
        """Return how much is gained where only some coefficients are not 0, and their values."""
        fixed = [k for k in self.coefficients if k not in kept]
        free = [k for k in range(len(self.now)) if k not in fixed]
        step = np.zeros(len(self.now))
        step[fixed] = -(self.now * self.size)[fixed]
        pull = self.score[free] - self.information[np.ix_(free, fixed)] @ step[fixed]
        step[free] = np.linalg.solve(self.information[np.ix_(free, free)], pull)
        return float(self.score @ step - 0.5 * step @ self.information @ step), self.now + step / self.size


def _sizes(terms: Mapping[NewReaction, float]) -> dict[NewReaction, float]:
    """Return sizes of coefficients to start from, none of them negligible beside the others."""
    least = 1e-9 * max(terms.values(), default=1.0)
    return {term: max(size, least) for term, size in terms.items()}


def _state(term: NewReaction) -> str:
    return term.equation.replace("->", "").strip()

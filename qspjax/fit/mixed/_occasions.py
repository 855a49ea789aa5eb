"""Random effects of each occasion of a subject, such as a visit or a dosing interval: inter-occasion variability.

    CL = tCL exp(eta + kappa)   becomes   CL(t) = sum_k [OCC(t) = k] tCL exp(eta + kappa_k)

with one effect an occasion, kappa@1, kappa@2, ..., all with the same covariance, and covariates OCC@1, OCC@2, ... that
are 1 while their occasion lasts and 0 else.

Reference: Karlsson and Sheiner, J Pharmacokinet Biopharm 1993;21:735, doi:10.1007/BF01113502.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from qspjax._checks import ArgumentError, check_instance
from qspjax._expression import Expression, call, substitute, symbol
from qspjax.fit.data._formula import names_in
from qspjax.fit.data._measurements import Change, Experiment
from qspjax.fit.mixed._random import RandomEffects


@dataclasses.dataclass(frozen=True)
class Block:
    """Where a block of random effects stands.

    Attributes:
        random: The block.
        point: Its numbers at a point of the search.
        effects: Its effects among all, once for each occasion.
    """

    random: RandomEffects
    point: slice
    effects: tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Occasions:
    """The occasions of all subjects.

    Attributes:
        random: The blocks of random effects.
        values: By covariate that says the occasion, its values, sorted.
        seen: By such a covariate, the occasions of each subject.
        count: Number of subjects.
    """

    random: tuple[RandomEffects, ...]
    values: Mapping[str, Sequence[float]]
    seen: Mapping[str, Sequence[set[float]]]
    count: int

    @classmethod
    def of(cls, random: Sequence[RandomEffects], subjects: Mapping[str, Experiment]) -> "Occasions":
        """Return the occasions of subjects.

        Raises:
            ValueError: If a subject does not say its occasion in numbers, or there is one occasion only.
        """
        names = dict.fromkeys(block.occasion for block in random if block.occasion is not None)
        seen = {name: [_seen(name, subject, one) for subject, one in subjects.items()] for name in names}
        values = {name: sorted(set().union(*each)) for name, each in seen.items()}
        for name, several in values.items():
            if len(several) < 2:
                must = f"must have several occasions, but `{name}` is {several[0]:g} throughout."
                raise ArgumentError("random", must)
        return cls(tuple(random), values, seen, len(subjects))

    def effects(self) -> tuple[str, ...]:
        """Return the names of all effects, block by block and occasion by occasion."""
        return tuple(own for one in self.random for at in self._of(one) for own in _named(one.names, at))

    def blocks(self, start: int) -> tuple[Block, ...]:
        """Return where every block stands, the first at a place of a point of the search."""
        found, first = [], 0
        for one in self.random:
            size = len(one.names)
            places = tuple(slice(first + k * size, first + (k + 1) * size) for k in range(len(self._of(one))))
            found.append(Block(one, slice(start, start + one.size), places))
            start, first = start + one.size, places[-1].stop
        return tuple(found)

    def present(self) -> Bool[np.ndarray, "subjects effects"]:
        """Return which effects each subject has."""
        columns = []
        for block in self.random:
            if block.occasion is None:
                columns += [[True] * self.count] * len(block.names)
            else:
                seen = self.seen[block.occasion]
                for value in self.values[block.occasion]:
                    columns += [[value in own for own in seen]] * len(block.names)
        return np.array(columns).T

    def indicated(self, experiment: Experiment) -> Experiment:
        """Return an experiment with the covariates that say which occasion it is."""
        if not self.values:
            return experiment

        def more(change: Change) -> Change:
            known = [name for name in self.values if name in change.set]
            own = {_one(name, value): float(change.set[name] == value) for name in known for value in self.values[name]}
            return change.setting({**change.set, **own})

        changes = [more(change) for change in experiment.changes]
        return experiment.changed(begin=more(experiment.begin), changes=changes)

    def written(self, formula: float | Expression) -> float | Expression:
        """Return a formula as the sum over occasions."""
        for occasion, values in self.values.items():
            names = {name for one in self.random if one.occasion == occasion for name in one.names}
            used = names & names_in(formula)
            if used and isinstance(formula, Expression):
                each = [substitute(formula, {name: symbol(_one(name, value)) for name in used}) for value in values]
                during = [symbol(_one(occasion, value)) for value in values]
                terms = [call("*", when, one) for when, one in zip(during, each, strict=True)]
                formula = call("+", *terms)
        return formula

    def _of(self, one: RandomEffects) -> list[float | None]:
        return [None] if one.occasion is None else list(self.values[one.occasion])


def _one(name: str, value: float) -> str:
    return f"{name}@{value:g}"


def _named(names: Sequence[str], value: float | None) -> list[str]:
    return [name if value is None else _one(name, value) for name in names]


def _seen(name: str, subject: str, one: Experiment) -> set[float]:
    """Return the occasions of a subject."""
    check_instance(f'subjects["{subject}"]', one, Experiment, "an Experiment")
    if name not in one.begin.set:
        raise ArgumentError("subjects", f"must all say the occasion `{name}`, but `{subject}` does not.")
    occasions = set()
    for change in (one.begin, *one.changes):
        value = change.set.get(name, 0.0)
        if isinstance(value, Expression) or not np.isfinite(value):
            raise ArgumentError("subjects", f"must have numbers as occasions, but `{name}` of `{subject}` is {value}.")
        if name in change.set:
            occasions.add(float(value))
    return occasions

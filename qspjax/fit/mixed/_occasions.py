"""Random effects of each occasion of a subject, such as a visit or a dosing interval: inter-occasion variability.

    CL = tCL exp(eta + kappa)   becomes   CL(t) = sum_k [OCC(t) = k] tCL exp(eta + kappa_k)

with one effect per occasion, kappa@1, kappa@2, ..., all with the same covariance, and covariates OCC@1, OCC@2, ... that
are 1 during their occasion and 0 otherwise.

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
    """A block of random effects, with its indices.

    Attributes:
        random: The block.
        point: The indices of its numbers in a point of the search.
        effects: The indices of its effects among all, once for each occasion.
    """

    random: RandomEffects
    point: slice
    effects: tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Occasions:
    """The occasions of all subjects.

    Attributes:
        random: The blocks of random effects.
        values: By name of a covariate that gives the occasion, its values, sorted.
        of_subjects: By name of such a covariate, the occasions of each subject.
        count: The number of subjects.
    """

    random: tuple[RandomEffects, ...]
    values: Mapping[str, Sequence[float]]
    of_subjects: Mapping[str, Sequence[set[float]]]
    count: int

    @classmethod
    def of(cls, random: Sequence[RandomEffects], subjects: Mapping[str, Experiment]) -> "Occasions":
        """Return the occasions of subjects.

        Raises:
            ValueError: If a subject has no occasion, or one that is not a number, or all have the same one.
        """
        names = dict.fromkeys(block.occasion for block in random if block.occasion is not None)
        of_subjects = {
            name: [_occasions_of(name, subject, experiment) for subject, experiment in subjects.items()]
            for name in names
        }
        values = {name: sorted(set().union(*each)) for name, each in of_subjects.items()}
        for name, occasions in values.items():
            if len(occasions) < 2:
                must = f"must have several occasions, but `{name}` is {occasions[0]:g} throughout."
                raise ArgumentError("random", must)
        return cls(tuple(random), values, of_subjects, len(subjects))

    def effects(self) -> tuple[str, ...]:
        """Return the names of all effects, block by block and occasion by occasion."""
        return tuple(name for block in self.random for value in self._of(block) for name in _labels(block.names, value))

    def blocks(self, start: int) -> tuple[Block, ...]:
        """Return all blocks with their indices, the first beginning at `start` in a point of the search."""
        blocks, first = [], 0
        for random in self.random:
            size = len(random.names)
            spans = tuple(slice(first + k * size, first + (k + 1) * size) for k in range(len(self._of(random))))
            blocks.append(Block(random, slice(start, start + random.size), spans))
            start, first = start + random.size, spans[-1].stop
        return tuple(blocks)

    def present(self) -> Bool[np.ndarray, "subjects effects"]:
        """Return which effects each subject has."""
        columns = []
        for block in self.random:
            if block.occasion is None:
                columns += [[True] * self.count] * len(block.names)
            else:
                of_subjects = self.of_subjects[block.occasion]
                for value in self.values[block.occasion]:
                    columns += [[value in occasions for occasions in of_subjects]] * len(block.names)
        return np.array(columns).T

    def indicated(self, experiment: Experiment) -> Experiment:
        """Return an experiment with the covariates that indicate the occasion."""
        if not self.values:
            return experiment

        def with_indicators(change: Change) -> Change:
            names = [name for name in self.values if name in change.set]
            indicators = {
                _label(name, value): float(change.set[name] == value) for name in names for value in self.values[name]
            }
            return change.setting({**change.set, **indicators})

        changes = [with_indicators(change) for change in experiment.changes]
        return experiment.changed(begin=with_indicators(experiment.begin), changes=changes)

    def summed(self, formula: float | Expression) -> float | Expression:
        """Return a formula as a sum over occasions, each with its own effects."""
        for occasion, values in self.values.items():
            names = {name for block in self.random if block.occasion == occasion for name in block.names}
            used = names & names_in(formula)
            if used and isinstance(formula, Expression):
                copies = [substitute(formula, {name: symbol(_label(name, value)) for name in used}) for value in values]
                indicators = [symbol(_label(occasion, value)) for value in values]
                terms = [call("*", indicator, term) for indicator, term in zip(indicators, copies, strict=True)]
                formula = call("+", *terms)
        return formula

    def _of(self, block: RandomEffects) -> list[float | None]:
        return [None] if block.occasion is None else list(self.values[block.occasion])


def _label(name: str, value: float) -> str:
    return f"{name}@{value:g}"


def _labels(names: Sequence[str], value: float | None) -> list[str]:
    return [name if value is None else _label(name, value) for name in names]


def _occasions_of(name: str, subject: str, experiment: Experiment) -> set[float]:
    """Return the occasions of a subject."""
    check_instance(f'subjects["{subject}"]', experiment, Experiment, "an Experiment")
    if name not in experiment.begin.set:
        raise ArgumentError("subjects", f"must all have the occasion `{name}`, but `{subject}` does not.")
    occasions = set()
    for change in (experiment.begin, *experiment.changes):
        value = change.set.get(name, 0.0)
        if isinstance(value, Expression) or not np.isfinite(value):
            raise ArgumentError("subjects", f"must have numbers as occasions, but `{name}` of `{subject}` is {value}.")
        if name in change.set:
            occasions.add(float(value))
    return occasions

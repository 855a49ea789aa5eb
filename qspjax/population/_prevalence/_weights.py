"""From plausible patients to a population that agrees with targets: by weights, or by a choice of patients."""

from collections.abc import Mapping, Sequence

import numpy as np

from qspjax._checks import ArgumentError, check_instance, check_whole, refuse
from qspjax._random import generator
from qspjax._types import ArrayInput, Key
from qspjax.population._plausible import PlausiblePopulation
from qspjax.population._prevalence._contract import AbstractSelection, AbstractWeighting, Matching
from qspjax.population._prevalence._entropy import EntropyBalancing
from qspjax.population._prevalence._exchange import Exchange
from qspjax.population._prevalence._linear_programme import least_violation
from qspjax.population._prevalence._result import Prevalence
from qspjax.population._prevalence._targets import AbstractTarget, together

_NONE = 1e-6
"""An error of a population of least violation that counts as none."""


def weights(
    patients: PlausiblePopulation | Mapping[str, ArrayInput],
    targets: Sequence[AbstractTarget],
    *,
    method: AbstractWeighting | None = None,
) -> Prevalence:
    """Weigh patients so that the population agrees with targets.

    Args:
        patients: Plausible patients, whose targets may be of their statistics, parameters and covariates; or statistics
            by name, shape (patients,).
        targets: What was observed: `Mean`, `SD`, `Quantile`, `Histogram`, `Shares`, `Correlation`, `SurvivalCurve`.
        method: `EntropyBalancing()` unless given, or `LeastViolation()`, `MAPEL()`.

    Returns:
        A `Prevalence`: weights, effective size, fit target by target, targets that no weights can reach.

    Raises:
        ValueError: If a statistic is unknown or not defined for some patients.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> from qspjax.population import SD, Mean
        >>> patients = {"LDL": np.linspace(100.0, 250.0, 151)}
        >>> found = qsp.population.weights(patients, [Mean("LDL", 165.0), SD("LDL", 25.0, mean=165.0)])
        >>> found.reached.round(3), round(found.effective_size)
        (array([165.,  25.]), 90)
    """
    method = EntropyBalancing() if method is None else method
    check_instance("method", method, AbstractWeighting, "a method such as EntropyBalancing() or LeastViolation()")
    matching = _matching(patients, targets)
    return _judged(matching, method.weights(matching))


def select(
    patients: PlausiblePopulation | Mapping[str, ArrayInput],
    targets: Sequence[AbstractTarget],
    *,
    key: Key,
    size: int | None = None,
    method: AbstractSelection | None = None,
) -> Prevalence:
    """Choose different patients of equal weight so that the population agrees with targets.

    Args:
        patients: As in `weights`.
        targets: As in `weights`.
        key: `jax.random.key(seed)`.
        size: How many patients; `DensityRatio` may be left to decide.
        method: `Exchange()` unless given, or `DensityRatio()`.

    Returns:
        A `Prevalence`; its `members` are the patients: `found.cohort.take(chosen.members)`.

    Raises:
        ValueError: If there are fewer patients than wanted, or a statistic is unknown or not defined for some.

    Example:
        >>> import jax, numpy as np, qspjax as qsp
        >>> patients = {"LDL": np.linspace(100.0, 250.0, 151)}
        >>> targets = [qsp.population.Mean("LDL", 165.0)]
        >>> chosen = qsp.population.select(patients, targets, size=20, key=jax.random.key(0))
        >>> chosen.members.size, round(chosen.effective_size), chosen.worst < 0.001
        (20, 20, True)
    """
    method = Exchange() if method is None else method
    check_instance("method", method, AbstractSelection, "a method such as Exchange() or DensityRatio()")
    matching = _matching(patients, targets)
    if size is not None:
        check_whole("size", size, 1)
        if size > matching.size:
            refuse("size", f"be at most the number of patients ({matching.size})", size)
    members = method.members(matching, size, generator(key))
    if not len(members):
        raise ArgumentError("targets", "must be nearer to the patients: none of them was chosen.")
    chosen = np.zeros(matching.size)
    chosen[members] = 1.0 / len(members)
    return _judged(matching, chosen)


def _matching(patients: PlausiblePopulation | Mapping[str, ArrayInput], targets: Sequence[AbstractTarget]) -> Matching:
    check_instance("targets", targets, (list, tuple), "a list of targets")
    if not targets:
        refuse("targets", "have at least one target", "empty")
    for i, target in enumerate(targets):
        check_instance(f"targets[{i}]", target, AbstractTarget, "a target such as Mean(...)")
    check_instance("patients", patients, (PlausiblePopulation, Mapping), "plausible patients, or statistics by name")
    if isinstance(patients, PlausiblePopulation):
        values, positions = {**patients.values, **patients.statistics}, patients.points
    else:
        values, positions = {name: np.asarray(column, float) for name, column in patients.items()}, None
    sizes = dict.fromkeys(np.shape(column) for column in values.values())
    shape = next(iter(sizes), ())
    if len(sizes) != 1 or len(shape) != 1 or not shape[0]:
        found = ", ".join(map(str, sizes)) or "none"
        refuse("patients", "have one number per patient in each statistic", f"of shape {found}")
    moments = together(targets, values)
    undefined = np.count_nonzero(~np.isfinite(moments.functions), axis=0)
    for name, count in zip(moments.names, undefined, strict=True):
        if count:
            refuse("patients", f"be those whose {name} is defined", f"{count} of {shape[0]} without it")
    return Matching(moments, targets, values, np.zeros((shape[0], 0)) if positions is None else positions)


def _judged(matching: Matching, found: np.ndarray) -> Prevalence:
    """Return the result: what is reached, and what cannot be."""
    moments, errors = matching.moments, matching.moments.errors
    apart = (errors.min(axis=0) > _NONE) | (errors.max(axis=0) < -_NONE)
    conflicting = np.zeros(len(apart), bool)
    missed = np.abs(found @ errors) > _NONE
    if missed.any() and not apart.all():
        _, violations = least_violation(errors[:, ~apart], 0.0)
        conflicting[~apart] = violations > _NONE
    shown = moments.power != 1.0
    sums = found @ moments.functions
    reached, wanted = (np.where(shown, np.abs(x) ** moments.power, x) for x in (sums, moments.wanted))
    return Prevalence(
        weights=found,
        names=moments.names,
        wanted=wanted,
        reached=reached,
        errors=(reached - wanted) / np.where(shown, wanted, moments.scale),
        unreachable=tuple(name for name, flag in zip(moments.names, apart, strict=True) if flag),
        conflicting=tuple(name for name, flag in zip(moments.names, conflicting, strict=True) if flag),
    )

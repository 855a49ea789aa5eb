"""Saved results: written to one file, and read again with the problem to which they belong.

A problem may hold any equations, so it is not in the file, which identifies it by the fingerprints of its parts. A
result that was read does all that a fresh one does, with the same numbers to the last bit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree

from qspjax._checks import ArgumentError, check_instance, refuse
from qspjax._fingerprint import fingerprint
from qspjax._random import key_of, seed_of
from qspjax.fit import _archive
from qspjax.fit._problem import Problem
from qspjax.fit._profile import Profile
from qspjax.fit.bayes import NUTS, SMC, AbstractSampler, Posterior
from qspjax.fit.bayes._density import Density
from qspjax.fit.mixed import (
    FO,
    FOCE,
    FOCEI,
    SAEM,
    AbstractApproximation,
    AbstractIntegral,
    ImportanceSampling,
    Laplace,
    MixedFit,
    MixedModel,
    Quadrature,
)
from qspjax.fit.mixed._mixed import AbstractMixed
from qspjax.fit.search._estimate import Fit

METHODS = {
    method.__name__: method for method in (FO, FOCE, FOCEI, Laplace, SAEM, Quadrature, ImportanceSampling, NUTS, SMC)
}
MARK = 16
"""The number of digits of a fingerprint."""

Record: TypeAlias = Mapping[str, PyTree]
"""Values that JSON can hold, by name."""

Result: TypeAlias = Fit | MixedFit | Posterior | Mapping[str, Profile]
"""Results that can be saved."""

Parts: TypeAlias = tuple[Record, dict[str, np.ndarray]]
"""Values that JSON can hold, and arrays, by name."""


def save(path: str | Path, result: Result) -> None:
    """Save a result to a file, which `load` reads in another process, years later.

    It is a zip archive of a JSON text and of numpy arrays (`numpy.load` opens it as well), none of which is executed
    when it is read, and is written whole or not at all.

    Args:
        path: The file, such as `"warfarin.fit"`; an existing one is replaced.
        result: What `estimate`, `nlme`, `sample` or `profiles` has returned. The standard errors of a `MixedFit` are in
            the file if they have been computed before.

    Raises:
        ValueError: If it is another kind of result, or by a method from outside qspjax.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate, load, save
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="concentration")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=1.0, V=50.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"concentration": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(1.0), "V": Free(50.0)},
        ... )
        >>> found = estimate(problem)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Path(folder) / "kept.fit", found)
        ...     again = load(Path(folder) / "kept.fit", problem)
        >>> again.parameters == found.parameters
        True
    """
    kind = next((candidate for candidate in KINDS.values() if candidate.holds(result)), None)
    if kind is None:
        must = "be what estimate, nlme, sample or profiles has returned"
        refuse("result", must, f"of type {type(result).__name__}")
    problem = kind.problem_of(result)
    record, arrays = kind.parts(result)
    head = {
        "kind": next(name for name, candidate in KINDS.items() if candidate is kind),
        "versions": _archive.versions(),
        "problem": {"type": type(problem).__name__, "names": [*problem.names], "parts": _marks(problem)},
    }
    _archive.write(Path(path), {**head, "result": record}, arrays)


def load(path: str | Path, problem: Problem | AbstractMixed, *, strict: bool = True) -> Result:
    """Read a result that `save` has written: without a new search, equal to the last bit.

    Args:
        path: The file.
        problem: The problem that was fitted, built again as it was: model, data, formulas and parameters.
        strict: Whether a problem with any difference is refused; otherwise only the number and the names of estimated
            parameters must agree, for code of a model that was rearranged, or a new version of qspjax or Python.

    Returns:
        A `Fit`, a `MixedFit`, a `Posterior`, or the profiles by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, or the result belongs to another problem; the message names the
            parts in which they differ.

    Example:
        >>> import jax, qspjax as qsp
        >>> fit = qsp.fit.load("warfarin.fit", mixed)  # doctest: +SKIP
        >>> table = qsp.fit.visual_predictive_check(fit, key=jax.random.key(0))  # doctest: +SKIP
    """
    check_instance("problem", problem, (Problem, AbstractMixed), "a Problem or a MixedModel")
    path = Path(path)
    record, arrays = _archive.read(path)
    if record["kind"] not in KINDS:
        raise ValueError(f"{path} must be a saved result of a fit, but is that of a {record['kind']}.")
    _check_same(path, problem, record, strict=strict)
    return KINDS[record["kind"]].made(problem, record["result"], arrays)


def _marks(problem: Problem | AbstractMixed) -> dict[str, str]:
    return {name: fingerprint(part)[:MARK] for name, part in problem.content().items() if name != "kind"}


def _check_same(path: Path, problem: Problem | AbstractMixed, record: Record, *, strict: bool) -> None:
    before = record["problem"]
    if type(problem).__name__ != before["type"]:
        refuse("problem", f"be the {before['type']} of the result {path.name}", f"a {type(problem).__name__}")
    if [*problem.names] != before["names"]:
        names = ", ".join(before["names"])
        refuse("problem", f"be that of the result {path.name}, with {names}", f"one with {', '.join(problem.names)}")
    marks = _marks(problem)
    other = [name for name, mark in before["parts"].items() if marks.get(name) != mark] if strict else []
    if other:
        by = " and ".join(f"{name} {version}" for name, version in record["versions"].items())
        must = f"must be that of the result {path.name}, but is another one in its {' and '.join(other)}"
        raise ArgumentError("problem", f"{must}; if only the code has moved since {by}, strict=False reads it.")


# --- the parts of each kind of result -------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of result.

    Attributes:
        holds: Returns whether a result is of this kind.
        problem_of: Returns its problem.
        parts: Returns its values that JSON can hold, and its arrays.
        made: Builds it again, from the problem and these.
    """

    holds: Callable[[object], bool]
    problem_of: Callable[..., Problem | AbstractMixed]
    parts: Callable[..., Parts]
    made: Callable[..., Result]


def _arrays(result: Fit | MixedFit | Posterior | Profile) -> dict[str, np.ndarray]:
    """Return the arrays of a result, by the names of its fields."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {name: np.asarray(value) for name, value in fields.items() if isinstance(value, (np.ndarray, jax.Array))}


def _fit_parts(fit: Fit) -> Parts:
    return {"method": fit.method, "seconds": fit.seconds}, _arrays(fit)


def _fit(problem: Problem, record: Record, arrays: Mapping[str, PyTree]) -> Fit:
    return Fit(problem=problem, **record, **arrays)


def _method_parts(method: AbstractApproximation | AbstractIntegral | SAEM | AbstractSampler) -> dict[str, PyTree]:
    name = type(method).__name__
    if METHODS.get(name) is not type(method):
        refuse("result", f"be found by one of {', '.join(METHODS)}", f"found by {name}")
    settings = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    if "key" in settings:
        settings["seed"] = seed_of(settings.pop("key"))
    return {"name": name, "settings": settings}


def _method(record: Record) -> PyTree:
    settings = dict(record["settings"])
    if "seed" in settings:
        settings["key"] = key_of(settings.pop("seed"))
    return METHODS[record["name"]](**settings)


KNOWN_LATER = ("_hessian", "_slopes_here")
"""Attributes that a `MixedFit` computes once, on first use."""


def _mixed_parts(fit: MixedFit) -> Parts:
    computed = {name.strip("_"): vars(fit)[name] for name in KNOWN_LATER if name in vars(fit)}
    shares = {"memberships": np.array([*fit.memberships.values()])} if fit.memberships else {}
    record = {"reasons": [*fit.reasons], "status": fit.status, "seconds": fit.seconds}
    named = {"method": _method_parts(fit.method), "subpopulations": [*fit.memberships]}
    return {**named, **record}, {**_arrays(fit), **shares, **computed}


def _mixed(mixed: AbstractMixed, record: Record, arrays: Mapping[str, PyTree]) -> MixedFit:
    arrays, record = dict(arrays), dict(record)
    computed = {name: arrays.pop(name.strip("_"), None) for name in KNOWN_LATER}
    shares, names = arrays.pop("memberships", ()), record.pop("subpopulations")
    if arrays["kept"].shape != (mixed.count,):
        refuse("problem", f"have {arrays['kept'].size} subjects", "another one")
    record |= {"method": _method(record["method"]), "reasons": tuple(record["reasons"])}
    fit = MixedFit(mixed=mixed, memberships=dict(zip(names, shares, strict=True)), **record, **arrays)
    vars(fit).update({name: value for name, value in computed.items() if value is not None})
    return fit


def _posterior_parts(posterior: Posterior) -> Parts:
    stats = {f"stats.{name}": value for name, value in posterior.stats.items()}
    return {"method": _method_parts(posterior.method), "seconds": posterior.seconds}, {**_arrays(posterior), **stats}


def _posterior(problem: Problem | MixedModel, record: Record, arrays: Mapping[str, np.ndarray]) -> Posterior:
    density = Density(problem)
    if arrays["z"].shape[-1] != density.size:
        refuse("problem", f"have {arrays['z'].shape[-1]} numbers that are sampled", density.size)
    stats = {name.removeprefix("stats."): value for name, value in arrays.items() if name.startswith("stats.")}
    method, evidences = _method(record["method"]), arrays.get("evidences")
    return Posterior(problem, method, arrays["z"], stats, evidences, record["seconds"], density)


def _are_profiles(result: object) -> bool:
    return (
        isinstance(result, Mapping)
        and bool(result)
        and all(isinstance(profile, Profile) for profile in result.values())
    )


def _problem_of_profiles(profiles: Mapping[str, Profile]) -> Problem:
    first, *others = (problem.problem for problem in profiles.values())
    if any(problem is not first for problem in others):
        refuse("result", "be profiles of one problem", "of several")
    return first


def _profiles_parts(profiles: Mapping[str, Profile]) -> Parts:
    arrays = {}
    for k, profile in enumerate(profiles.values()):
        ends = {"threshold": profile.threshold, "interval": profile.interval, "open": profile.open}
        arrays |= {f"{k}.{name}": np.asarray(value) for name, value in {**_arrays(profile), **ends}.items()}
    return {"names": [*profiles]}, arrays


def _profiles(problem: Problem, record: Record, arrays: Mapping[str, PyTree]) -> dict[str, Profile]:
    profiles = {}
    for k, name in enumerate(record["names"]):
        fields = {key: arrays[f"{k}.{key}"] for key in ("values", "log_density", "points")}
        ends: dict[str, PyTree] = {key: tuple(arrays[f"{k}.{key}"].tolist()) for key in ("interval", "open")}
        profiles[name] = Profile(
            name=name, threshold=float(arrays[f"{k}.threshold"]), problem=problem, **fields, **ends
        )
    return profiles


KINDS = {
    "Fit": Kind(lambda result: isinstance(result, Fit), lambda fit: fit.problem, _fit_parts, _fit),
    "MixedFit": Kind(lambda result: isinstance(result, MixedFit), lambda fit: fit.mixed, _mixed_parts, _mixed),
    "Posterior": Kind(
        lambda result: isinstance(result, Posterior), lambda posterior: posterior.problem, _posterior_parts, _posterior
    ),
    "profiles": Kind(_are_profiles, _problem_of_profiles, _profiles_parts, _profiles),
}
"""The kinds of results that can be saved."""

"""Results that are kept: equal to the last bit in this process and in another one, and refused with other problems."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    FO,
    NUTS,
    SAEM,
    Additive,
    Experiment,
    Free,
    Measurements,
    MixedFit,
    Output,
    Problem,
    Profile,
    RandomEffects,
    diagnostics,
    estimate,
    load,
    nlme,
    sample,
    save,
    visual_predictive_check,
)
from qspjax.fit.bayes._density import Density
from qspjax.fit.bayes._posterior import posterior_of
from qspjax.fit.bayes._sampler import Draws
from tests.fit.test_compare import fitted
from tests.fit.test_mixtures import two_levels
from tests.systems.mixed import decays

KEY = jax.random.key(0)

QUICK = qsp.solve.MatrixExponential()


def decay(**changed):
    """Return a small problem."""
    of = {"values": [9.1, 6.6, 4.6], "dose": 300.0, "start": 1.0, "V": 50.0} | changed
    data = Measurements([1.0, 4.0, 8.0], of["values"], output="concentration")
    return Problem(
        qsp.models.OneCompartment(CL=1.0, V=50.0),
        Experiment(data, qsp.bolus(of["dose"], to="central")),
        {"concentration": Output("concentration", Additive(0.1))},
        {"CL": Free(of["start"]), "V": Free(of["V"])},
        method=QUICK,
    )


def assert_equal(one, other):
    """Check that two results are the same to the last bit."""
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        mine, yours = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("problem", "mixed", "_density"):
            continue
        if isinstance(mine, dict):
            assert [*mine] == [*yours]
            mine, yours = [*mine.values()], [*yours.values()]
        np.testing.assert_array_equal(mine, yours)
        assert np.asarray(mine).dtype == np.asarray(yours).dtype


def profile(name, problem):
    """Return a profile that nobody walked."""
    points = np.log([[1.0, 50.0], [2.0, 40.0]])
    return Profile(
        name, np.exp(points[:, 0]), np.array([-1.0, -2.0]), points, -3.0, (0.5, np.inf), (False, True), problem
    )


def test_a_fit_and_its_profiles(tmp_path):
    problem = decay()
    found = estimate(problem)
    walked = {name: profile(name, problem) for name in ("CL", "V")}
    save(tmp_path / "found.fit", found)
    save(tmp_path / "walked.fit", walked)
    again, walked_again = (load(tmp_path / name, decay()) for name in ("found.fit", "walked.fit"))
    assert_equal(again, found)
    assert again.to_dataframe().equals(found.to_dataframe())
    assert [*walked_again] == ["CL", "V"]
    for name, one in walked_again.items():
        assert isinstance(one, Profile)
        assert_equal(one, walked[name])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["found.fit", "walked.fit"]
    with np.load(tmp_path / "found.fit", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["points"], found.points)


OTHER_PROCESS = """
import sys
from qspjax.fit import load
from tests.fit.test_saved import QUICK, shown
from tests.systems.mixed import decays
print(shown(load(sys.argv[1], decays(method=QUICK))))
"""


def shown(fit):
    """Return a hash of all that a fit is asked for: tables, checks, standard errors."""
    tables = [
        visual_predictive_check(fit, replicates=20, key=KEY),
        diagnostics(fit, replicates=20, key=KEY),
        fit.individuals(),
    ]
    numbers = [np.asarray(column, float) for one in tables for name, column in one.items() if name not in TEXT]
    numbers += [fit.covariance_of_estimates(), fit.path, np.array([*fit.parameters.values()])]
    return hashlib.sha256(b"".join(one.tobytes() for one in numbers)).hexdigest()


TEXT = ("ID", "OUTPUT", "SUBPOPULATION")


def test_a_population_fit_in_another_process(tmp_path):
    mixed, state, file, steps = decays(method=QUICK), tmp_path / "state.npz", tmp_path / "decays.fit", []
    fit = nlme(mixed, method=FO(), checkpoint=state)
    again = nlme(mixed, method=FO(), checkpoint=state, progress=steps.append)  # a converged checkpoint is the fit
    assert not steps
    assert_equal(dataclasses.replace(again, seconds=fit.seconds), fit)
    save(file, fit)
    bare = load(file, decays(method=QUICK))
    assert_equal(bare, fit)
    assert not {"_hessian", "_slopes_here"} & vars(bare).keys()
    expected = shown(fit)
    save(file, fit)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, file], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.split() == [expected]
    again = load(file, decays(method=QUICK))
    for name in ("_hessian", "_slopes_here"):
        np.testing.assert_array_equal(vars(again)[name], vars(fit)[name])


@pytest.mark.slow
def test_a_mixture_and_saem(tmp_path):
    fit = nlme(two_levels()[0], iterations=2)
    save(tmp_path / "mixture", fit)
    again = load(tmp_path / "mixture", two_levels()[0])
    assert isinstance(again, MixedFit)
    assert_equal(again, fit)
    np.testing.assert_array_equal(again.hessian(), fit.hessian())
    assert again.most_probable.tolist() == fit.most_probable.tolist()
    settings = SAEM(exploration=2, smoothing=2, samples=16, key=KEY)
    mixed, file = decays(method=QUICK), tmp_path / "state.npz"
    fit = nlme(mixed, method=settings, checkpoint=file)
    save(tmp_path / "saem", fit)
    again = load(tmp_path / "saem", mixed)
    assert_equal(again, fit)
    assert again.method == settings
    assert_equal(dataclasses.replace(nlme(mixed, method=settings, checkpoint=file), seconds=fit.seconds), fit)


@pytest.mark.parametrize("evidences", [None, np.array([-1.0, -2.0])])
def test_a_posterior(tmp_path, evidences):
    z = np.random.default_rng(0).normal(size=(2, 5, 2))
    stats = {"lp": z[..., 0], "diverging": z[..., 1] > 1.0}
    density = Density(decay())
    found = posterior_of(density, NUTS(samples=5, chains=2, key=KEY), Draws(z, stats, evidences), 0.1)
    save(tmp_path / "posterior", found)
    again = load(tmp_path / "posterior", decay())
    assert_equal(again, found)
    assert again.method == found.method
    assert (again.evidences is None) == (evidences is None)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("numpyro") is None, reason="numpyro is not installed")
def test_a_posterior_that_was_sampled(tmp_path):
    found = sample(decay(), NUTS(warmup=20, samples=10, chains=2, key=KEY))
    save(tmp_path / "posterior", found)
    again = load(tmp_path / "posterior", decay())
    assert_equal(again, found)
    for name, draws in again.parameters.items():
        np.testing.assert_array_equal(draws, found.parameters[name])


def test_a_converged_checkpoint_is_the_fit(tmp_path):
    problem, steps = decay(), []
    first = estimate(problem, checkpoint=tmp_path / "state.npz")
    again = estimate(problem, checkpoint=tmp_path / "state.npz", progress=steps.append)
    assert not steps
    assert_equal(dataclasses.replace(again, seconds=first.seconds), first)


class Mine(SAEM):
    """A method of another package."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    file = tmp_path_factory.mktemp("kept") / "found.fit"
    save(file, estimate(decay()))
    return file


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"values": [9.1, 6.6, 4.7]}, "another one in its experiments"),
        ({"dose": 301.0}, "another one in its experiments"),
        ({"start": 2.0}, "another one in its parameters"),
        ({"dose": 301.0, "start": 2.0}, "another one in its experiments and parameters"),
        ({"V": 50.0, "start": 1.0}, None),
    ],
)
def test_another_problem_is_refused(kept, changed, what):
    problem = decay(**changed)
    if what is None:
        assert load(kept, problem).problem is problem
        return
    with pytest.raises(ValueError, match=f"`problem` must be that of the result found.fit, but is {what}"):
        load(kept, problem)
    assert load(kept, problem, strict=False).problem is problem


def test_other_names_and_kinds_are_refused(kept, tmp_path):
    fewer = decay()
    fewer = Problem(fewer.model, fewer.experiments, fewer.outputs, {"CL": Free(1.0)}, method=QUICK)
    for strict in (True, False):
        with pytest.raises(ValueError, match="with CL, V, but is one with CL"):
            load(kept, fewer, strict=strict)
    with pytest.raises(ValueError, match="must be the Problem of the result found.fit, but is a MixedModel"):
        load(kept, decays(method=QUICK))
    with pytest.raises(ValueError, match="`problem` must be a Problem or a MixedModel"):
        load(kept, None)
    with pytest.raises(ValueError, match="`result` must be what estimate, nlme, sample or profiles has returned"):
        save(tmp_path / "nothing", {})


def test_other_files_are_refused(kept, tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none", decay())
    for name, content in (("text", b"CL = 3"), ("empty", b""), ("cut", kept.read_bytes()[:500])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} must be a saved result of a fit, but cannot be read"):
            load(tmp_path / name, decay())
    np.savez(tmp_path / "arrays.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match="it has no result.json"):
        load(tmp_path / "arrays.npz", decay())
    with zipfile.ZipFile(kept) as archive:
        record = json.loads(archive.read("result.json"))
    for change, message in (
        ({"format": 99, "versions": {"qspjax": "9.1"}}, "written by the later version 9.1 of qspjax"),
        (
            {"versions": {"qspjax": "0.0", "Python": "2.7"}},
            "since qspjax 0.0 and Python 2.7, strict=False reads it",
        ),
    ):
        with zipfile.ZipFile(tmp_path / "changed", "w") as archive:
            archive.writestr("result.json", json.dumps(record | change))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "changed", decay(dose=1.0))
    before = kept.read_bytes()
    with pytest.raises(
        ValueError,
        match="must be found by one of FO, FOCE, FOCEI, Laplace, SAEM, Quadrature, ImportanceSampling, NUTS, SMC",
    ):
        save(kept, fitted(60.0, random=[RandomEffects({"eta": 1.0})], method=Mine(key=KEY)))
    assert kept.read_bytes() == before

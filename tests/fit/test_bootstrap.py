"""Bootstrap: replicates against fits of the resampled data, resume, failures, bad input."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.optimize import minimize

import qspjax as qsp
from qspjax.fit import FO, SAEM, Progress, bootstrap, nlme
from qspjax.fit.mixed._bootstrap import _counts
from tests.systems.mixed import exact, levels

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def population():
    """A fit of the linear model, and its measurements."""
    mixed, values = levels(subjects=20)
    return nlme(mixed, method=FO()), values


def test_a_replicate_is_the_fit_of_its_subjects(population):
    fit, values = population
    result = bootstrap(fit, replicates=3, tolerance=1e-9, key=KEY)
    assert result.converged.all()
    np.testing.assert_array_equal(result.counts.sum(axis=1), 20.0)
    for counts, x, objective in zip(result.counts, result.x, result.objectives, strict=True):
        sample = np.repeat(values, counts.astype(int), axis=0)
        truth = minimize(lambda x, sample=sample: exact(fit.mixed, sample, x), fit.x, method="BFGS")
        np.testing.assert_allclose(objective, truth.fun, atol=1e-5)
        np.testing.assert_allclose(x, truth.x, atol=2e-3)


def test_what_is_summarised(population):
    fit, _ = population
    seen = []
    result = bootstrap(fit, replicates=60, progress=seen.append, key=jax.random.key(1))
    assert seen[-1] == Progress(60, 60, {"converged": 60})
    summary = result.to_dataframe().set_index("name")
    assert list(summary.index) == list(fit.mixed.names)
    np.testing.assert_allclose(summary["bias"], summary["mean"] - summary["estimate"])
    np.testing.assert_allclose(summary["se"], result.values.std(axis=0, ddof=1))
    assert (summary["2.5%"] < summary["50%"]).all()
    # the standard error of the mean level is that of the sandwich, as far as sixty replicates tell
    sandwich = fit.to_dataframe().set_index("name")["se"]
    np.testing.assert_allclose(summary["se"][["mu", "slope"]], sandwich[["mu", "slope"]], rtol=0.3)
    table = result.table()
    np.testing.assert_array_equal(table["mu"], result.values[:, 0])
    axes = qsp.plot.bootstrap(result).axes
    assert [ax.get_title() for ax in axes if ax.get_title()] == list(fit.mixed.names)
    assert sum(patch.get_height() for patch in axes[0].patches) == 60


def test_a_bootstrap_goes_on_from_where_it_was(population, tmp_path):
    fit, _ = population
    file = tmp_path / "replicates.npz"
    whole = bootstrap(fit, replicates=5, key=KEY)
    bootstrap(fit, replicates=2, checkpoint=file, key=KEY)
    seen = []
    later = bootstrap(fit, replicates=5, checkpoint=file, progress=seen.append, key=KEY)
    np.testing.assert_array_equal(later.x, whole.x)
    np.testing.assert_array_equal(later.objectives, whole.objectives)
    assert [one.done for one in seen] == [3, 4, 5]
    with pytest.raises(ValueError, match="must be the checkpoint of this bootstrap, but is that of another one"):
        bootstrap(fit, replicates=5, checkpoint=file, key=jax.random.key(2))


def test_replicates_that_do_not_converge_are_data(population, monkeypatch):
    fit, _ = population
    result = bootstrap(fit, replicates=2, iterations=1, key=KEY)
    assert result.table()["STATUS"].tolist() == ["iterations used up"] * 2
    assert result.to_dataframe()["se"].isna().all()
    assert str(result).startswith("2 replicates, 0 of them converged\n2 not: iterations used up\n")

    def broken(*arguments):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr("qspjax.fit.mixed._nlme.direction", broken)
    result = bootstrap(fit, replicates=1, key=KEY)
    assert result.status == ("broke down: Singular matrix",)
    assert np.isnan(result.x).all()


def test_bad_input(population):
    fit, _ = population
    with pytest.raises(ValueError, match="must be a fit by FOCEI, FOCE, FO or Laplace, but is one by SAEM"):
        bootstrap(dataclasses.replace(fit, method=SAEM(key=KEY)), key=KEY)
    with pytest.raises(ValueError, match="must name a covariate .it has none., but is `SEX`"):
        bootstrap(fit, strata="SEX", key=KEY)
    with pytest.raises(ValueError, match="must be a whole number of at least 1, but is 0"):
        bootstrap(fit, replicates=0, key=KEY)


def test_strata_and_subjects_that_were_left_out():
    sex = np.array([0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    fit = SimpleNamespace(kept=np.array([True, True, True, True, True, False]), placed=SimpleNamespace())
    fit.placed.covariates = {"SEX": sex}
    draws = np.array([_counts(fit, "SEX", KEY, k) for k in range(40)])
    np.testing.assert_array_equal(draws @ (sex == 0.0), 2.0)
    np.testing.assert_array_equal(draws @ (sex == 1.0), 3.0)
    assert (draws[:, 5] == 0).all()
    assert len(np.unique(draws, axis=0)) > 10

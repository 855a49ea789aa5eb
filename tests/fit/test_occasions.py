"""Random effects of occasions: as a linear model has them, in formulas of outputs and of parameters, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

import qspjax as qsp
from qspjax.fit import (
    FO,
    SAEM,
    Additive,
    Change,
    Experiment,
    Free,
    Measurements,
    MixedModel,
    Output,
    RandomEffects,
    nlme,
)
from tests.systems.mixed import Level

KEY = jax.random.key(0)

TIMES = np.array([1.0, 2.0, 4.0, 5.0, 7.0, 8.0])
ENDS = [3.0, 6.0]


def visits(subjects, seed=2):
    """Return subjects whose level has a base and a slope of each visit; the last one misses two visits."""
    rng = np.random.default_rng(seed)
    people = {}
    for i in range(subjects):
        slopes = 0.5 + 0.1 * rng.normal() + 0.2 * rng.normal(size=3)
        bases = 5.0 + rng.normal() + 0.7 * rng.normal(size=3)
        visit = np.searchsorted(ENDS, TIMES)
        inside = np.clip(TIMES[:, None] - np.array([0.0, *ENDS]), 0.0, 3.0) @ slopes
        values = bases[visit] + inside + 0.3 * rng.normal(size=TIMES.size)
        seen = (3.0 if i == subjects - 1 else 9.0) > TIMES
        changes = [Change(at, set={"VISIT": 2.0 + k}) for k, at in enumerate(ENDS)] if i < subjects - 1 else []
        data = Measurements(TIMES[seen], values[seen], output="level")
        people[f"{i}"] = Experiment(data, set={"VISIT": 1.0}, changes=changes)
    return MixedModel(
        Level(base=5.0, slope=0.3),
        people,
        {"level": Output("level + kappa_base", Additive("sigma"))},
        parameters={"mu": Free(4.5, transform=qsp.Identity()), "tslope": Free(0.4), "sigma": Free(0.4)},
        individual={"base": "mu + eta_base", "slope": "tslope + kappa_slope"},
        random=[
            RandomEffects({"eta_base": 1.0}),
            RandomEffects({"kappa_base": 0.5, "kappa_slope": 0.03}, occasion="VISIT"),
        ],
    )


def exact(mixed, x):
    """Return the objective: normal, with what visits have in common and what they do not."""
    known, natural = mixed.values(x), dict(zip(mixed.names, mixed.natural(x), strict=True))
    total = 0.0
    for name in mixed.subjects:
        ((time, value),) = [(one.time, one.value) for one in [mixed.experiments[name].measurements]]
        visit = np.searchsorted(ENDS, time)
        inside = np.clip(time[:, None] - np.array([0.0, *ENDS]), 0.0, [3.0, 3.0, np.inf])
        V = float(natural["var(eta_base)"]) + float(natural["var(kappa_base)"]) * (visit[:, None] == visit)
        V = V + float(natural["var(kappa_slope)"]) * inside @ inside.T + float(known["sigma"]) ** 2 * np.eye(time.size)
        law = stats.multivariate_normal(float(known["mu"]) + float(known["tslope"]) * inside.sum(axis=1), V)
        total += -2.0 * law.logpdf(value) - time.size * np.log(2.0 * np.pi)
    return total


@pytest.mark.slow
def test_effects_of_occasions_are_those_of_the_linear_model():
    mixed = visits(subjects=24)
    assert mixed.effects == (
        "eta_base", "kappa_base@1", "kappa_slope@1", "kappa_base@2", "kappa_slope@2", "kappa_base@3", "kappa_slope@3"
    )  # fmt: skip
    assert mixed.names[-3:] == ("var(eta_base)", "var(kappa_base)", "var(kappa_slope)")
    assert mixed.present.sum(axis=1).tolist() == [7] * 23 + [3]
    fit = nlme(mixed)
    np.testing.assert_allclose(fit.history[0], exact(mixed, mixed.start), rtol=1e-8)
    truth = minimize(lambda x: exact(mixed, x), fit.x, method="BFGS")
    np.testing.assert_allclose(fit.objective, truth.fun, atol=1e-5)
    np.testing.assert_allclose(fit.etas[-1, 3:], 0.0, atol=1e-9)
    assert fit.effects()["kappa_base"][0].size == 23 * 3 + 1
    assert [*fit.shrinkage] == ["eta_base", "kappa_base", "kappa_slope"]


@pytest.mark.slow
def test_saem_has_one_covariance_for_all_occasions():
    mixed = visits(subjects=24)
    fit, sampled = nlme(mixed), nlme(mixed, method=SAEM(exploration=1000, smoothing=1000, key=KEY))
    errors = np.sqrt(np.diag(np.linalg.inv(0.5 * fit.hessian())))
    np.testing.assert_array_less(np.abs(sampled.x - fit.x), 0.25 * errors)


def test_bad_occasions():
    data = Measurements(TIMES, TIMES, output="level")

    def mixed(people):
        return MixedModel(
            Level(base=5.0, slope=0.3),
            people,
            {"level": Output("level", Additive(0.3))},
            parameters={"mu": Free(4.5)},
            individual={"base": "mu + eta + kappa"},
            random=[RandomEffects({"eta": 1.0}), RandomEffects({"kappa": 1.0}, occasion="OCC")],
        )

    once, missing = Experiment(data, set={"OCC": 1.0}), Experiment(data)
    for people, message in (
        ({"anna": once}, "Argument `random` must have several occasions, but `OCC` is 1 throughout."),
        ({"anna": once, "otto": missing}, "Argument `subjects` must all have the occasion `OCC`, but `otto` does not."),
    ):
        with pytest.raises(ValueError) as found:
            mixed(people)
        assert str(found.value) == message
    assert jnp.isfinite(mixed({"anna": once, "otto": Experiment(data, set={"OCC": 2.0})}).start).all()


RECORDS = """ID,TIME,AMT,DV,WT,OCC
1,0,100,.,70,1
1,6,.,2.0,70,1
1,12,.,1.2,105,1
1,24,100,.,105,2
1,30,.,2.2,140,2
1,36,.,1.0,140,2
"""


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", [qsp.LOCF(), qsp.NOCB()], ids=str)
def test_occasions_and_covariates_that_change_within_them(tmp_path, interpolation):
    """The first-order objective is that of the model made linear: with amounts by hand, from record to record."""
    (tmp_path / "data.csv").write_text(RECORDS)
    data = qsp.io.read_nonmem(tmp_path / "data.csv", interpolation=interpolation)
    mixed = MixedModel(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        qsp.io.experiments(data, "c", covariates=["WT", "OCC"]),
        {"c": Output("concentration", Additive(0.2))},
        parameters={"tCL": Free(3.0)},
        individual={"CL": "tCL * WT / 70 * exp(kappa)"},
        random=[RandomEffects({"kappa": 0.09}, occasion="OCC")],
    )

    def predicted(kappa):
        time, weight, visit = data.ts[0], data.varying["WT"][0], data.varying["OCC"][0].astype(int) - 1
        amount, found = 0.0, []
        for i in range(time.size):
            j = max(i - 1, 0) if isinstance(interpolation, qsp.LOCF) else i  # the record whose values hold until i
            amount *= np.exp(-0.1 * weight[j] / 70.0 * np.exp(kappa[visit[j]]) * (time[i] - time[max(i - 1, 0)]))
            amount += 0.0 if np.isfinite(data.dv[0, i]) else 100.0
            found.append(amount / 30.0)
        return np.array(found)[np.isfinite(data.dv[0])]

    slopes = np.stack([(predicted(1e-5 * e) - predicted(-1e-5 * e)) / 2e-5 for e in np.eye(2)], axis=1)
    law = stats.multivariate_normal(predicted(np.zeros(2)), 0.09 * slopes @ slopes.T + 0.04 * np.eye(4))
    expected = -2.0 * law.logpdf(data.dv[0][np.isfinite(data.dv[0])]) - 4.0 * np.log(2.0 * np.pi)
    np.testing.assert_allclose(nlme(mixed, method=FO()).history[0], expected, atol=1e-5)

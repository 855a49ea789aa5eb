"""The bundled trial: typical patients and percentiles of omalizumab and IgE (see io/trials/omalizumab.toml)."""

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.io import bundled_trial, read_trial

# total drug ug/mL, total IgE ng/mL, free IgE ng/mL on days 7, 98 and 112 of the typical patient
TYPICAL = {
    150.0: [[21.2956, 1424.93, 19.0573], [29.2119, 2204.11, 21.3206], [18.8000, 2183.43, 31.4984]],
    300.0: [[42.3638, 1446.83, 10.6158], [59.6058, 2247.20, 11.5980], [38.8455, 2236.76, 16.7839]],
}
# median, 5th and 95th percentile of 20,000 patients
EXPECTED = {
    "150 mg": {"trough": (19.3, 11.2, 30.2), "free": (21.9, 9.5, 53.7)},
    "300 mg": {"trough": (39.6, 22.9, 62.2), "free": (12.0, 5.4, 27.6)},
    "individualised": {"trough": (23.0, 12.5, 52.7), "free": (18.4, 9.4, 32.0)},
}
SHARES = {  # suppression (median), free IgE <= 25 on day 112, <= 14 on day 98, ratio of total IgE to baseline (median)
    "150 mg": (0.920, 0.598, 0.443, 5.3),
    "300 mg": (0.957, 0.927, 0.865, 5.5),
    "individualised": (0.928, 0.812, 0.621, 5.4),
}


@pytest.mark.parametrize("dose", TYPICAL)
def test_typical_patient(dose):
    regimen = qsp.bolus(dose, to="depot").every(28.0, doses=4)
    observed = qsp.simulate(qsp.models.Omalizumab(), regimen, [7.0, 98.0, 112.0]).observed
    got = np.stack([observed[name] for name in ("total_drug", "total_ige", "free_ige")], axis=1)
    np.testing.assert_allclose(got, TYPICAL[dose], rtol=1e-4)


def test_half_lives():
    """Of the drug in the one-compartment phase, and of IgE, from the parameters: 23.28 d and 2.400 d."""
    model = qsp.models.Omalizumab()
    assert float(np.log(2) * model.V / model.CL / 24) == pytest.approx(23.28, abs=0.005)
    assert float(np.log(2) * model.V / model.CLE / 24) == pytest.approx(2.400, abs=0.0005)


@pytest.mark.slow
def test_placebo_gradient_is_finite():
    def free(model):
        return qsp.simulate(model, qsp.no_doses(), [112.0], throw=False).observed["free_ige"][0]

    gradient = jax.jit(jax.grad(free))(qsp.models.Omalizumab())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    dosed = jax.jit(
        jax.grad(
            lambda amount: qsp.simulate(
                qsp.models.Omalizumab(), qsp.bolus(amount, to="depot"), [28.0], throw=False
            ).observed["free_ige"][0]
        )
    )(0.0)
    assert np.isfinite(dosed)


@pytest.fixture(scope="module")
def result():
    file = read_trial(bundled_trial())
    cohort = file.population.sample(key=jax.random.key(file.seed), size=file.patients)
    assert file.patients == 1000
    return qsp.simulate_trial(file.trial, cohort)


@pytest.mark.slow
def test_percentiles_of_the_bundled_trial(result):
    """Medians within 5 %, tails within 10 %, responders within 5 points of 20,000 patients."""
    rows = {(row.arm, row.endpoint): row for row in qsp.summarise(result)}
    names = dict(
        zip(("trough", "free", "suppression", "ratio", "responder", "low"), result.trial.endpoint_names, strict=True)
    )
    for arm, expected in EXPECTED.items():
        for key, (median, p5, p95) in expected.items():
            row = rows[arm, names[key]]
            assert row.median == pytest.approx(median, rel=0.05)
            assert (row.p5, row.p95) == (pytest.approx(p5, rel=0.10), pytest.approx(p95, rel=0.10))
        suppression, responders, low, ratio = SHARES[arm]
        assert rows[arm, names["suppression"]].median == pytest.approx(suppression, rel=0.05)
        assert rows[arm, names["ratio"]].median == pytest.approx(ratio, rel=0.05)
        assert rows[arm, names["responder"]].mean == pytest.approx(responders, abs=0.05)
        assert rows[arm, names["low"]].mean == pytest.approx(low, abs=0.05)
    placebo = {key: rows["placebo", name] for key, name in names.items()}
    assert placebo["trough"].median == 0.0
    assert placebo["free"].median == pytest.approx(257, rel=0.05)
    assert placebo["suppression"].median == pytest.approx(0.086, rel=0.05)
    assert placebo["responder"].mean == placebo["low"].mean == 0.0


@pytest.mark.slow
def test_same_patients_in_every_arm(result):
    for arm in result.arms:
        np.testing.assert_array_equal(arm.members, np.arange(1000))
        assert not arm.solution.failed.any()
    starts = [np.asarray(arm.solution.observed["free_ige"])[:, 0] for arm in result.arms]
    for start in starts[1:]:
        np.testing.assert_array_equal(start, starts[0])

"""How a trial file says that a trial is conducted and judged: every key, its units, and the message for mistakes."""

import re

import jax
import numpy as np
import pytest

from qspjax import io, population
from qspjax.io.trial._judged import judged
from qspjax.population import simulate_trial

BUNDLED = io.bundled_trial("capecitabine").read_text()

SMALL = """
patients = 40
cutoff = "300 d"
[model]
name = "TumourGrowthInhibition"
parameters = { KL = 0.1, KD = 0.3, resistance = 0.05, y0 = 70 }
[population.between]
KD = { cv = 0.5 }
[population.covariates.AGE]
distribution = "uniform"
low = 40
high = 80
[population.covariates.SEX]
distribution = "categorical"
probabilities = { male = 0.4, female = 0.6 }
[arms.treated]
dose = "100 g"
to = "drug"
over = "100 d"
[arms.untreated]
[randomised]
ratio = [1, 3]
strata = [{ covariate = "SEX" }, { covariate = "AGE", edges = [50, 65] }]
[enrolment]
over = "2400 h"
[dropout]
hazard = "0.7 1/week"
[adherence]
missed = "10 %"
late = 0.2
delay = "24 h"
[visits]
times = [0, "6 week", 84, 126]
window = "72 h"
missed = "5 %"
error = "10 %"
[tumour]
output = "diameters"
stable_after = "5 week"
confirmation = 28
detectable = "0.5 cm"
[survival]
cumulative_hazard = "cumulative_hazard"
[power]
of = "survival"
arm = "treated"
reference = "untreated"
sizes = [10, 20]
replicates = 20
[output]
until = "300 d"
every = "6 d"
save = ["change"]
"""


def read(tmp_path, text):
    path = tmp_path / "trial.toml"
    path.write_text(text)
    return io.read_trial(path)


def test_every_key_in_the_units_of_the_model(tmp_path):
    file = read(tmp_path, SMALL)
    conduct, trial = file.conduct, file.trial
    assert (conduct.ratio, conduct.strata) == ((1, 3), (("SEX", ()), ("AGE", (50.0, 65.0))))
    assert float(trial.enrolment.over) == pytest.approx(100.0)
    assert float(trial.dropout.scale) == pytest.approx(10.0)
    assert [float(x) for x in (trial.adherence.missed, trial.adherence.late, trial.adherence.delay)] == [0.1, 0.2, 1.0]
    assert float(trial.cutoff) == 300.0
    np.testing.assert_allclose(conduct.visits.at, [0.0, 42.0, 84.0, 126.0])
    assert [float(x) for x in (conduct.visits.window, conduct.visits.missed, conduct.visits.error)] == [3.0, 0.05, 0.1]
    criteria = conduct.tumour.criteria
    assert [float(x) for x in (criteria.stable_after, criteria.confirmation, criteria.detectable)] == [35.0, 28.0, 5.0]
    assert conduct.power == ("survival", "treated", "untreated", (10, 20), 20)
    assert file.save == ("change", "diameters", "cumulative_hazard")
    weibull = read(tmp_path, SMALL.replace('hazard = "0.7 1/week"', 'scale = "2 week"\nshape = 0.5')).trial.dropout
    assert (float(weibull.scale), float(weibull.shape)) == (14.0, 0.5)


def test_arms_are_alike_within_strata(tmp_path):
    file = read(tmp_path, SMALL.replace("patients = 40", "patients = 400"))
    cohort = file.sample(jax.random.key(0))
    allocation = file.protocol(cohort).allocation
    assert isinstance(allocation, population.Stratified)
    treated = np.isin(np.arange(400), allocation.members(400, 2, key=jax.random.key(1))[0])
    sex, age = (np.asarray(cohort.covariates[name]) for name in ("SEX", "AGE"))
    for code in (0, 1):
        for low, high in ((40.0, 50.0), (50.0, 65.0), (65.0, 80.0)):
            here = (sex == code) & (age >= low) & (age < high)
            assert abs(treated[here].sum() - here.sum() / 4) < 2


def test_a_trial_is_judged_as_the_file_says(tmp_path):
    file = read(tmp_path, SMALL.replace('"0.7 1/week"', '"0.001 1/d"'))
    key = jax.random.key(file.seed)
    cohort = file.sample(key)
    result = simulate_trial(file.protocol(cohort), cohort, key=jax.random.fold_in(key, 1), save=file.save)
    found = judged(file, result, key)
    assert list(found.events) == ["progression", "survival"]
    assert list(found.tables()) == ["responses.csv", "events.csv", "curves.csv", "power.csv"]
    assert [line for line in str(found).splitlines() if line and line[0].isupper()] == [
        *("Best response (RECIST 1.1)", "Progression-free survival", "Overall survival"),
        "Power of the log-rank test",
    ]
    for name, arm in found.responses.arms.items():
        dies = found.events["survival"].deaths(cohort.size)[name][arm.patients]
        last = np.minimum(dies, result.until[arm.patients])
        assert (np.asarray(arm.assessment.time) <= last + 1e-9).all()
        seen = np.isfinite(np.asarray(arm.assessment.change))
        assert not (seen & (arm.times - arm.times[:, :1] > last[:, None])).any()
        assert np.asarray(arm.assessment.event)[np.isfinite(dies)].all()
    tables = found.tables()
    assert set(tables["events.csv"].of) == {"progression", "survival"}
    assert tables["power.csv"].patients.tolist() == [10, 20]


MISTAKES = [
    ("ratio = [1, 3]", "ratio = [1]", "randomised.ratio: must be a list of 2 whole numbers"),
    ("ratio = [1, 3]", "ratio = [1, true]", "randomised.ratio: must be a list of 2 whole numbers"),
    ('covariate = "SEX"', 'covariate = "RACE"', "randomised.strata[1].covariate: must be a covariate"),
    ("edges = [50, 65]", "edges = [65, 50]", "randomised.strata[2].edges: must increase"),
    (", edges = [50, 65]", "", "randomised.strata[2].edges: must be given"),
    ('over = "2400 h"', "over = 0", "enrolment.over: must be positive"),
    ('cutoff = "300 d"', "", "enrolment: must go with `cutoff`"),
    ('cutoff = "300 d"', "cutoff = -1", "cutoff: must be positive"),
    ('hazard = "0.7 1/week"', "shape = 1", "dropout: must have exactly one way to leave"),
    ('hazard = "0.7 1/week"', "hazard = 0", "dropout.hazard: must be positive"),
    ('missed = "10 %"', "missed = 10", "adherence.missed: must be a share between 0 and 1"),
    ('window = "72 h"', 'window = "30 d"', "visits.window: must be less than half the time between visits"),
    ("84, 126]", "84, 400]", "visits: must be within the times of [output]"),
    ('output = "diameters"', 'output = "size"', "tumour.output: must be a value that the model observes"),
    ("stable_after", "stable", "tumour.stable_after: must be given"),
    ("[tumour]", "[tumor]", "tumor: must be a key that is known here"),
    ('[survival]\ncumulative_hazard = "cumulative_hazard"', "", "power.of: must go with [survival]"),
    ('of = "survival"', 'of = "death"', "power.of: must be an event (progression, survival)"),
    ('reference = "untreated"', 'reference = "treated"', "power.reference: must be another arm"),
    ("sizes = [10, 20]", "sizes = [1]", "power.sizes: must be a list of numbers of patients"),
    ("sizes = [10, 20]", "", "power.sizes: must be given"),
]


@pytest.mark.parametrize(("good", "bad", "message"), MISTAKES)
def test_mistakes(tmp_path, good, bad, message):
    assert good in SMALL
    with pytest.raises(io.FileIssues) as caught:
        read(tmp_path, SMALL.replace(good, bad, 1))
    assert any(message in f"{issue.key}: {issue.message}" for issue in caught.value.issues)


def test_mutated_files_have_issues_but_no_traceback(tmp_path):
    lines, path, well = BUNDLED.splitlines(), tmp_path / "trial.toml", 0
    values = ("-1", '"x"', "[]", "{}", "true", "1e300", "[[1]]", "nan")
    keys = [i for i, line in enumerate(lines) if re.match(r"[a-z]", line)]
    for i in keys:
        key = lines[i].partition("=")[0]
        for line in (None, f"{key}= {values[i % 8]}", f"{key}= {values[(i + 3) % 8]}"):
            path.write_text("\n".join([*lines[:i], *([] if line is None else [line]), *lines[i + 1 :]]))
            found = io.validate(path)
            well += not found
            assert all("must" in issue.message for issue in found)
    assert 0 < well < len(keys)

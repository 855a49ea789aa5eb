"""Population files: the bundled one, every kind of target and choice, and the message for every mistake."""

import re
import tomllib

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax import io, population
from qspjax.io._validate import contents

BUNDLED = io.bundled_population().read_text()

SMALL = """
patients = 30
[model]
name = "OneCompartment"
parameters = { CL = 3, V = "30 L" }
[population.between]
CL = { low = 1, high = 10, log = true }
V = { low = "10 L", high = "100 L" }
[population.covariates.WT]
distribution = "normal"
unit = "kg"
mean = 70
sd = 10
[arms.treated]
dose = "100 mg"
to = "central"
[bounds.peak]
value = { output = "concentration", at = 0 }
low = "2 mg/L"
high = "5000 ug/L"
[search]
method = "rejection"
batch = 64
most = 5000
"""


def read(tmp_path, text):
    path = tmp_path / "patients.toml"
    path.write_text(text)
    return io.read_population_file(path)


def issues(tmp_path, text):
    with pytest.raises(io.FileIssues) as caught:
        read(tmp_path, text)
    return [f"{issue.line}: {issue.key}: {issue.message}" for issue in caught.value.issues]


def test_a_file_is_a_call_of_plausible(tmp_path):
    file = read(tmp_path, SMALL)
    between = {"CL": qsp.LogUniform(1.0, 10.0), "V": qsp.Uniform(10.0, 100.0)}
    written = qsp.Population(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        between=between,
        covariates={"WT": qsp.Normal(70.0, sd=10.0)},
    )
    bound = population.Bound(qsp.endpoints.Value("concentration", at=0.0), 2.0, 5.0)
    arms, key = [qsp.Arm("treated", qsp.bolus(100.0, to="central"))], jax.random.key(1)
    rejection = population.Rejection(batch=64)
    expected = population.plausible(written, {"peak": bound}, arms=arms, size=30, key=key, search=rejection)
    found = population.plausible(
        file.population, file.bounds, arms=file.arms, size=file.patients, key=key, search=file.search.method
    )
    np.testing.assert_array_equal(found.points, expected.points)
    assert (file.title, file.search.most, file.times, file.targets) == ("patients", 5000, None, ())
    assert (file.weighting, file.selection) == (None, None)


def test_the_bundled_population():
    file = io.read_population_file(io.bundled_population())
    assert [arm.name for arm in file.arms] == ["100 mg", "300 mg"]
    assert file.population.between_names == ("CL", "V1", "Q", "V2", "kdeg", "kint", "R0")
    assert file.bounds["free target, ratio of doses"].over == "100 mg"
    assert isinstance(file.weighting, population.EntropyBalancing)
    assert file.selection.size == 50
    assert [float(target.value) for target in file.targets] == [140.0, 60.0, 750.0]


TARGETS = """
[[targets]]
mean = { statistic = "peak", value = "3000 ug/L", weight = 2 }
[[targets]]
sd = { statistic = "V", value = "5 L", mean = 30 }
[[targets]]
quantile = { statistic = "WT", level = "50 %", value = "72000 g" }
[[targets]]
histogram = { statistic = "peak", edges = [-inf, 3, "4 mg/L", inf], shares = [0.4, 0.4, 0.2] }
[[targets]]
shares = { statistic = "peak", shares = { "1" = 0.5 } }
[[targets]]
correlation = { first = "CL", second = "V", value = 0.3, means = ["3 L/h", "30 L"], sds = ["1 L/h", "10 L"] }
[[targets]]
survival_curve = { statistic = "peak", times = ["2500 ug/L"], survival = ["80 %"] }
[weights]
method = "least_violation"
tolerance = 0.01
[selection]
method = "density_ratio"
neighbours = 3
logarithmic = true
"""


def test_all_targets_in_the_units_of_their_statistics(tmp_path):
    file = read(tmp_path, SMALL + TARGETS)
    mean, sd, quantile, histogram, shares, correlation, survival = file.targets
    assert (float(mean.value), float(mean.weight)) == (3.0, 2.0)
    assert (sd.statistic, float(sd.value), float(sd.mean)) == ("V", 5.0, 30.0)
    assert (float(quantile.level), float(quantile.value)) == (0.5, 72.0)
    assert histogram.edges == (-np.inf, 3.0, 4.0, np.inf)
    assert shares.shares == {1.0: 0.5}
    assert (correlation.first, correlation.second, correlation.means, correlation.sds) == (
        *("CL", "V"),
        *((3.0, 30.0), (1.0, 10.0)),
    )
    assert (survival.times, survival.survival) == ((2.5,), (0.8,))
    assert float(file.weighting.tolerance) == 0.01
    assert (file.selection.method.neighbours, file.selection.method.logarithmic) == (3, True)


@pytest.mark.parametrize("name", ["screened", "rejection", "metropolis_hastings", "langevin", "optimised"])
def test_searches(tmp_path, name):
    file = read(tmp_path, SMALL.replace('"rejection"\nbatch = 64', f'"{name}"'))
    assert type(file.search.method).__name__.lower() == name.replace("_", "")


MISTAKES = [
    ("low = 1, high = 10, log", "low = 1, high = 10, logs", " population.between.CL.logs: must be a key"),
    ("low = 1, high = 10, log", "low = -1, high = 10, log", " population.between.CL.low: must be positive"),
    ("value = {", "values = {", " bounds.peak.values: must be a key that is known here"),
    ("at = 0", 'at = "0 kg"', " bounds.peak.value.at: must be in h"),
    ('"concentration"', '"conc"', " bounds.peak.value.output: must be a value that the model observes"),
    ('low = "2 mg/L"', 'low = "2 mg"', " bounds.peak.low: must be in mg/L"),
    ('low = "2 mg/L"', 'low = "9 mg/L"', " bounds.peak.high: must be greater than `low`"),
    ('low = "2 mg/L"', 'arm = "b"', " bounds.peak.arm: must be an arm (treated)"),
    ('low = "2 mg/L"', 'over = "treated"', " bounds.peak.over: must be another arm"),
    ('low = "2 mg/L"\nhigh = "5000 ug/L"', "", " bounds.peak: must have low, high or both"),
    (
        'value = { output = "concentration", at = 0 }',
        'cmax = { output = "concentration" }',
        " bounds.peak: must be on",
    ),
    ("[bounds.peak]", "[bounds.CL]", " bounds.CL: must have another name"),
    ("[bounds.peak]", "[bounds.weight]", " bounds.weight: must have another name"),
    ("[bounds.peak]", "[bound.peak]", " bounds: must be given, but is missing."),
    ('"rejection"', '"reject"', " search.method: must be a search (screened, rejection"),
    ("batch = 64", "batch = 0", " search.batch: must be"),
    ("batch = 64", "batch = 0.5", " search.batch: must be a whole number"),
    ("batch = 64", "chains = 64", " search.chains: must be a key that is known here"),
    ("most = 5000", "most = 0", " search.most: must be a whole number of at least 1"),
    ("most = 5000", "[weights]", " weights: must go with [[targets]]"),
    ("patients = 30", "patients = 0", " patients: must be a whole number of at least 1"),
    ("[population.between]\nCL", "[population.betwen]\nCL", " population.betwen: must be a key that is known here"),
]


@pytest.mark.parametrize(("good", "bad", "message"), MISTAKES)
def test_mistakes(tmp_path, good, bad, message):
    assert good in SMALL
    assert any(message in found for found in issues(tmp_path, SMALL.replace(good, bad, 1)))


WRONG_TARGETS = [
    (
        'statistic = "peak", value',
        'statistic = "peek", value',
        "targets[1].mean.statistic: must be a bound,",
    ),
    ('"3000 ug/L"', '"3000 h"', "targets[1].mean.value: must be in mg/L"),
    ("weight = 2", "weight = 0", "targets[1].mean.weight: must be positive"),
    ("mean = 30", "means = 30", "targets[2].sd.mean: must be given, but is missing"),
    ('"50 %"', "50", "targets[3].quantile.level: must be between 0 and 1"),
    ("[-inf, 3", "[-inf, 5", "targets[4].histogram.edges: must be 4 increasing numbers"),
    ('"1" = 0.5', "one = 0.5", "targets[5].shares.shares.one: must be the number of a category in quotes"),
    ("value = 0.3", "value = 3", "targets[6].correlation.value: must be between -1 and 1"),
    ('means = ["3 L/h", "30 L"]', 'means = ["3 L"]', "targets[6].correlation.means: must be a list of 2 numbers"),
    ("survival = [", "surviving = [", "targets[7].survival_curve.survival: must be given"),
    ("sd = {", "variance = {", "targets[2].variance: must be a key that is known here"),
    ('method = "density_ratio"', "", "selection.size: must be given, but is missing"),
    ('method = "density_ratio"', "size = 31", "patients: must be at least the size of the selection (31)"),
    ('"least_violation"', '"best"', "weights.method: must be a way to weigh patients"),
]


@pytest.mark.parametrize(("good", "bad", "message"), WRONG_TARGETS)
def test_mistakes_in_targets(tmp_path, good, bad, message):
    assert good in TARGETS
    text = SMALL + TARGETS.replace(good, bad, 1)
    if "size = 31" in bad:
        text = text.replace("neighbours = 3\nlogarithmic = true\n", "")
    assert any(message in found for found in issues(tmp_path, text))


def test_several_arms_need_the_arm_of_a_bound(tmp_path):
    text = SMALL.replace("[bounds.peak]", '[arms.twice]\ndose = "200 mg"\nto = "central"\n[bounds.peak]')
    (found,) = issues(tmp_path, text)
    assert found.endswith(
        "bounds.peak.arm: must be given where there are several arms (treated, twice), but is missing."
    )
    ratio = text.replace('low = "2 mg/L"', 'arm = "twice"\nover = "treated"\nlow = 1')
    (found,) = issues(tmp_path, ratio)
    assert "bounds.peak.high: must" in found  # a ratio has no unit
    assert read(tmp_path, ratio.replace('"5000 ug/L"', "3")).bounds["peak"].over == "treated"


def mutated(text):
    """Yield the file with each line left out, and each value replaced by one of another kind."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        yield "\n".join(lines[:i] + lines[i + 1 :])
        for value in ("-1", '"x"', "[]", "{}", "true", "1e300", "[[1]]", "nan"):
            key, equals, _ = line.partition("=")
            yield "\n".join([*lines[:i], f"{key}= {value}" if equals else f"[{line.strip('[]')}.x]", *lines[i + 1 :]])
            yield re.sub(r"= (\d[\d.]*|\"[^\"]*\")", f"= {value}", text, count=1 + i % 7)


def test_mutated_files_have_issues_but_no_traceback(tmp_path):
    path, well, texts = tmp_path / "patients.toml", 0, sorted({*mutated(SMALL + TARGETS), *mutated(BUNDLED)})[::4]
    for text in texts:
        path.write_text(text)
        found = io.validate(path)
        well += not found
        assert all("must" in issue.message for issue in found), text
    assert 0 < well < len(texts) / 5


def test_check_says_what_a_population_file_holds(tmp_path):
    path = tmp_path / "patients.toml"
    path.write_text(SMALL)
    assert contents(path).splitlines() == [
        *("Title:    patients", "Patients: 30", "Arms:     treated", "Bounds:   peak", "Targets:  0"),
    ]
    path.write_text(SMALL.replace('"rejection"', '"reject"'))
    assert [issue.key for issue in io.validate(path)] == ["search.method"]
    assert tomllib.loads(BUNDLED)["title"] in contents(io.bundled_population())

"""`qspjax fit` with random effects as a user calls it: files and what is wrong with them, a run and what it writes."""

import csv
from pathlib import Path

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.cli import main
from qspjax.cli._console import ProgressBar
from qspjax.io.fit._mixed_results import MIXED_FILES, Estimates, mixed_summary

FIT = """
title = "Six subjects"
data = "six.csv"

[model]
name = "OneCompartment"
parameters = { CL = 3.0, V = 30.0 }

[parameters]
tCL = { start = 2.0, bounds = [0.1, 50.0] }
tV = { start = 25.0 }
power = { fixed = 0.75 }
cv = { start = 0.2 }

[individual]
CL = "tCL * exp(eta_CL) * (WT / 70)^power"
V = "tV * exp(eta_V)"

[[random]]
effects = ["eta_CL", "eta_V"]
covariance = [[0.09], [0.01, 0.04]]

[outputs.concentration]
error = "proportional"
cv = "cv"

[estimation]
method = "fo"
iterations = 30

[simulation]
replicates = 20
"""


def data():
    rng = np.random.default_rng(2)
    lines = ["ID,TIME,AMT,DV,MDV,WT,SEX"]
    for id in range(1, 7):
        weight, sex = 45.0 + 10.0 * id, "fm"[id % 2]
        CL = 2.6 * (weight / 70.0) ** 0.75 * np.exp(0.3 * rng.normal())
        V = 27.0 * np.exp(0.15 * rng.normal())
        lines.append(f"{id},0,300,.,1,{weight},{sex}")
        for t in (1.0, 4.0, 12.0):
            value = 300.0 / V * np.exp(-CL / V * t) * (1.0 + 0.1 * rng.normal())
            lines.append(f"{id},{t},0,{value:.4f},0,{weight},{sex}")
    return "\n".join(lines) + "\n"


FIT = FIT.replace('data = "six.csv"', 'data = { file = "six.csv", categories = ["SEX"] }')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "fit.toml").write_text(FIT)
    (tmp_path / "six.csv").write_text(data())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_fit_that_is_interrupted_goes_on(folder, capsys, monkeypatch):
    assert main(["fit", "fit.toml", "--out", "whole"]) == 0
    said = capsys.readouterr()
    assert "18 measurements of 6 subjects" in said.out
    assert "iterations in" in said.err
    update = ProgressBar.update

    def interrupted(self, done, **settings):
        update(self, done, **settings)
        if done == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ProgressBar, "update", interrupted)
        assert main(["fit", "fit.toml", "--out", "parts"]) == 130
    assert "The same command goes on from parts.checkpoint.npz." in capsys.readouterr().err
    assert not Path("parts").exists()
    assert main(["fit", "fit.toml", "--out", "parts"]) == 0
    assert "Going on from parts.checkpoint.npz." in capsys.readouterr().err
    assert not list(folder.glob("*.npz"))
    assert (folder / "parts" / "estimates.csv").read_text() == (folder / "whole" / "estimates.csv").read_text()
    assert len(rows(folder / "parts" / "iterations.csv")) == len(rows(folder / "whole" / "iterations.csv"))
    check_written(folder / "whole")
    assert main(["fit", "fit.toml", "--starts", "3"]) == 2
    assert "argument --starts: must be left out for a fit with random effects" in capsys.readouterr().err


def check_written(out):
    """Check that the numbers of all files agree."""
    assert {path.name for path in out.iterdir()} == set(MIXED_FILES)
    estimates = {row["name"]: row for row in rows(out / "estimates.csv")}
    assert [*estimates] == [
        "tCL",
        "tV",
        "cv",
        "power",
        "var(eta_CL)",
        "var(eta_V)",
        "cov(eta_V, eta_CL)",
    ]
    last = rows(out / "iterations.csv")[-1]
    individuals = rows(out / "individuals.csv")
    clearance, typical = estimates["var(eta_CL)"], float(estimates["tCL"]["estimate"])
    kept = qsp.fit.load(out / "result.fit", qsp.io.read_fit("fit.toml").mixed)
    assert kept.parameters["tCL"] == pytest.approx(typical)
    assert all(float(row["lower"]) > 0.0 for name, row in estimates.items() if name.startswith("var("))
    assert float(last["tCL"]) == pytest.approx(typical)
    omega = float(clearance["estimate"])
    assert float(clearance["sd"]) == pytest.approx(np.sqrt(omega))
    assert float(clearance["cv_percent"]) == pytest.approx(100.0 * np.sqrt(np.exp(omega) - 1.0))
    together = omega * float(estimates["var(eta_V)"]["estimate"])
    covariance = estimates["cov(eta_V, eta_CL)"]
    assert float(covariance["correlation"]) == pytest.approx(float(covariance["estimate"]) / np.sqrt(together))
    for row in individuals:
        expected = typical * np.exp(float(row["ETA_eta_CL"])) * (float(row["WT"]) / 70.0) ** 0.75
        assert float(row["CL"]) == pytest.approx(expected)
    assert {row["SEX"] for row in individuals} == {"f", "m"}
    assert sum(float(row["OBJECTIVE"]) for row in individuals) == pytest.approx(float(last["OBJECTIVE"]))
    etas = np.array([float(row["ETA_eta_CL"]) for row in individuals])
    shrinkage = 100.0 * (1.0 - etas.std(ddof=1) / np.sqrt(omega))
    assert float(clearance["shrinkage_sd_percent"]) == pytest.approx(shrinkage)
    assert (estimates["power"]["fixed"], estimates["power"]["se"]) == ("True", "")
    value, error = (float(estimates["tCL"][key]) for key in ("estimate", "se"))
    assert float(estimates["tCL"]["rse_percent"]) == pytest.approx(100.0 * error / value)
    residuals = np.array([float(row["IWRES"]) for row in rows(out / "diagnostics.csv")])
    summary = (out / "summary.txt").read_text()
    assert f"Shrinkage of epsilon of concentration: {100.0 * (1.0 - residuals.std(ddof=1)):.1f} % (SD)" in summary
    assert f"{float(last['OBJECTIVE']):.4f} (-2 log L without n log 2 pi of the 18 normal measurements" in summary
    with (out / "correlation.csv").open() as file:
        correlation = np.array([row[1:] for row in [*csv.reader(file)][1:]], float)
    values = np.linalg.eigvalsh(correlation)
    assert f"condition number of the correlation of estimates {values[-1] / values[0]:.4g}" in summary


def test_check_says_what_a_fit_file_holds(folder, capsys):
    assert main(["check", "fit.toml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Fit:        Six subjects",
        "Data:       18 measurements of 6 subjects",
        "Estimated:  tCL, tV, cv, var(eta_CL), var(eta_V), cov(eta_V, eta_CL)",
        "Covariates: WT",
        "Method:     FO",
    ]
    assert qsp.io.validate("fit.toml") == ()


WRONG = [
    ("WT / 70", "WTT / 70", "16: [individual] CL: must be a formula over parameters, random effects and covariates ("),
    (
        'cv = { start = 0.2 }\n\n[individual]\nCL = "',
        'cv = { start = 0.2 }\npi = { fixed = 7.0 }\n\n[individual]\nCL = "pi * ',
        "[individual] CL: must write `pi` in backticks for what is declared with that name, or rename that, but is ",
    ),
    (
        "[[0.09], [0.01, 0.04]]",
        "[[0.09], [0.9, 0.04]]",
        "21: [random[1]] covariance: must be positive definite, but its",
    ),
    ("[[0.09], [0.01, 0.04]]", "[[0.09, 1]]", "21: [random[1]] covariance: must be 2 rows of numbers, or their lower"),
    (
        'effects = ["eta_CL", "eta_V"]',
        "",
        "must have exactly one kind of random effects (variances, effects), but has none",
    ),
    ('"tCL * exp', '"tCL * * exp', "16: [individual] CL: must be a formula, but: "),
    (
        'CL = "tCL',
        'CLL = "tCL',
        'must be a parameter of the model, or a name that an output uses (CL, V), but is "CLL".',
    ),
    ('method = "fo"', 'method = "foci"', "must be a method (focei, foce, fo, laplace"),
    (
        'cv = "cv"',
        'cv = "cv"\nbelow = "M3"',
        "limit: must be given, unless the values that CENS marks give it, but there are none",
    ),
    ('cv = "cv"', 'cv = "cv"\ndvid = 2', "must be observed, but the data have no observation with DVID 2."),
    ("[individual]", "[set]\n[individual]", "set: must be [individual] in a fit with random effects, but is [set]."),
    ("tV = { start = 25.0 }", "tV = { start = 25.0 }\nb = { start = 1.0 }", "but nothing depends on `b`."),
    ("six.csv", "seven.csv", "seven.csv: must be"),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG)
def test_what_is_wrong_with_a_file(folder, capsys, old, new, said):
    assert old in FIT
    (folder / "fit.toml").write_text(FIT.replace(old, new))
    assert main(["check", "fit.toml"]) == 2
    assert said in capsys.readouterr().err


def test_all_that_is_wrong_is_said_at_once(folder):
    text = FIT.replace("WT / 70", "AGE / 70").replace("start = 25.0", "start = 25.0, bounds = [30, 40]")
    (folder / "fit.toml").write_text(
        text.replace('"fo"', '"fo"\nstandard_errors = "robust"').replace("[[0.09]", "[[-1]")
    )
    (folder / "six.csv").write_text(data() + "7,0,300,.,1,.,f\n")
    found = [(issue.line, issue.key) for issue in qsp.io.validate("fit.toml")]
    assert found == [
        (11, "parameters.tV.start"),
        (21, "random[1].covariance"),
        (29, "estimation.standard_errors"),
        (16, "individual.CL"),
        (3, "data"),
    ]


def test_subjects_that_lack_something(folder):
    (folder / "six.csv").write_text(data() + "7,0,300,.,1,.,f\n")
    first, second = qsp.io.validate("fit.toml")
    assert first.message == "must use covariates that are known for all subjects, but `WT` is missing in subject 7."
    assert second.message == (
        'must have observations of every subject, but has none of subject 7: leave them out with ignore = "ID.EQ.7".'
    )
    text = FIT.replace('categories = ["SEX"]', 'categories = ["SEX"], ignore = "ID.EQ.7"')
    (folder / "fit.toml").write_text(text)
    assert qsp.io.validate("fit.toml") == ()


def test_limits_of_quantification_that_the_data_say(folder):
    text = data().replace("WT,SEX", "WT,SEX,CENS").splitlines()
    lines = [text[0], *(f"{line},0" for line in text[1:])]
    lines[4] = "1,12.0,0,0.01,0,55.0,m,1"
    (folder / "six.csv").write_text("\n".join(lines) + "\n")
    (folder / "fit.toml").write_text(FIT.replace('cv = "cv"', 'cv = "cv"\nbelow = "M3"'))
    file = qsp.io.read_fit("fit.toml")
    assert file.mixed.outputs["concentration"].below == qsp.fit.M3(0.01)
    assert file.mixed.censored.tolist() == [True] + [False] * 5
    # without `below`, the limits of the records themselves; where there are several, below M3 as well
    lines[0] += ",LIMIT"
    lines = [lines[0], *(f"{line},." for line in lines[1:])]
    lines[3], lines[4] = "1,4.0,0,3.5,0,55.0,m,-1,.", "1,12.0,0,0.01,0,55.0,m,1,0.001"
    lines[8] = "2,12.0,0,0.02,0,65.0,f,1,."
    (folder / "six.csv").write_text("\n".join(lines) + "\n")
    for below in ("", '\nbelow = "M3"'):
        (folder / "fit.toml").write_text(FIT.replace('cv = "cv"', f'cv = "cv"{below}'))
        (rows,) = qsp.io.read_fit("fit.toml").mixed.rows
        assert rows.side[[1, 2, 5]].tolist() == [-1, 1, 1]
        assert rows.lower[[1, 2, 5]].tolist() == [3.5, 0.001, -np.inf]
        assert rows.upper[[1, 2, 5]].tolist() == [np.inf, 0.01, 0.02]
    (folder / "fit.toml").write_text(FIT.replace('cv = "cv"', 'cv = "cv"\nlimit = 0.1'))
    (issue, *_) = qsp.io.validate("fit.toml")
    assert issue.message == 'must be that of below = "M1", "M3" or "M4", but below is missing.'


def test_limits_of_quantification_that_the_data_do_not_say(folder):
    text = data().replace("WT,SEX", "WT,SEX,CENS").splitlines()
    lines = [text[0], *(f"{line},0" for line in text[1:])]
    lines[4], lines[8] = "1,12.0,0,.,.,55.0,m,1", "2,12.0,0,0.02,.,65.0,f,1"

    def issues(below):
        (folder / "six.csv").write_text("\n".join(lines) + "\n")
        (folder / "fit.toml").write_text(FIT.replace('cv = "cv"', f'cv = "cv"\n{below}'))
        return [issue.message for issue in qsp.io.validate("fit.toml")]

    # that of the other record
    assert issues('below = "M3"') == []
    (rows,) = qsp.io.read_fit("fit.toml").mixed.rows
    assert rows.upper[rows.censored].tolist() == [0.02, 0.02]
    assert "18 measurements of 6 subjects, 2 below the limit" in str(qsp.io.read_fit("fit.toml"))
    # of several there is none
    lines[12] = "3,12.0,0,0.03,.,75.0,m,1"
    (issue,) = issues('below = "M3"')
    assert "must be given, since 1 of the values that CENS marks have no DV, and the others have several" in issue
    assert issues('below = "M3"\nlimit = 0.01') == []
    (issue,) = issues("")
    assert "there is none in record 3 of experiment `1`: output `concentration` at time 12" in issue


def test_kinds_of_observations_without_an_output(folder):
    text = data().splitlines()
    lines = [f"{text[0]},DVID", *(f"{line},{1 + k % 2}" for k, line in enumerate(text[1:]))]
    (folder / "six.csv").write_text("\n".join(lines) + "\n")
    (folder / "fit.toml").write_text(FIT.replace('cv = "cv"', 'cv = "cv"\ndvid = 1'))
    (issue, *_) = qsp.io.validate("fit.toml")
    assert issue.message == (
        "must have an output for every kind of observation, but has none for the 12 observations with DVID 2."
    )


def test_the_file_of_the_examples():
    path = Path(__file__).resolve().parents[1] / "examples" / "data" / "theophylline.toml"
    file = qsp.io.read_fit(path)
    assert str(file).splitlines()[1] == "Data:       132 measurements of 12 subjects"


def test_a_subject_that_fails_is_named_in_the_summary(folder):
    text = data().replace(",105.0,f", ",-1.0,f")
    assert text != data()
    (folder / "six.csv").write_text(text)
    file = qsp.io.read_fit("fit.toml")
    found = qsp.fit.nlme(file.mixed, method=file.method, iterations=0)
    summary = mixed_summary(file, found, Estimates.of(found, file.covariance), None)
    assert "Left out, since they have no likelihood at the start: 6\nSubject `6`: failed at time" in summary
    assert 'Standard errors of kind "sandwich" are of no use with 5 subjects for 6 estimates' in summary
    assert "FO: iterations used up; 0 iterations" in summary
    assert found.coefficients_of_variation.keys() == {"eta_CL", "eta_V"}


def test_effects_of_occasions_and_saem(folder):
    text = FIT.replace("eta_V)", "eta_V + kappa)").replace('"fo"\niterations = 30', '"saem"\nchains = 3')
    block = '[[random]]\nvariances = { kappa = 0.02 }\noccasion = "VISIT"\n\n[outputs'
    (folder / "fit.toml").write_text(text.replace("[outputs", block))
    lines = [f"{line},{'VISIT' if k == 0 else 1 + (k - 1) % 4 // 2}" for k, line in enumerate(data().splitlines())]
    (folder / "six.csv").write_text("\n".join(lines) + "\n")
    file = qsp.io.read_fit("fit.toml")
    assert file.mixed.effects == ("eta_CL", "eta_V", "kappa@1", "kappa@2")
    assert file.mixed.present.all()
    assert file.method == qsp.fit.SAEM(chains=3, key=jax.random.key(0))
    (folder / "fit.toml").write_text(text.replace("[outputs", block.replace("VISIT", "VISITS")))
    (issue,) = qsp.io.validate("fit.toml")
    assert (issue.key, issue.message.split("(")[0]) == ("random[2].occasion", "must be a column of the data ")


def test_one_mistake_is_one_issue(folder):
    """What refers to data that cannot be read, or belongs to a method that is misspelt, is not at fault."""
    text = FIT.replace('"fo"\niterations = 30', '"sam"\nchains = 3').replace("six.csv", "none.csv")
    (folder / "fit.toml").write_text(text.replace("covariance = ", 'occasion = "VISIT"\ncovariance = '))
    messages = [issue.message for issue in qsp.io.validate("fit.toml")]
    assert len(messages) == 2
    assert messages[0].startswith("must be a method (focei, foce, fo, laplace, saem)")
    assert messages[1] == "must be a file, but does not exist."


def test_covariates_that_change_between_records(folder):
    lines = data().splitlines()
    lines[2] = lines[2].replace(",55.0,", ",60.0,")
    (folder / "six.csv").write_text("\n".join(lines) + "\n")
    mixed = qsp.io.read_fit("fit.toml").mixed
    assert [*mixed.individuals.stages.varying] == ["CL"]
    linear = FIT.replace('"six.csv",', '"six.csv", interpolation = "linear",')
    (folder / "fit.toml").write_text(linear)
    (issue,) = qsp.io.validate("fit.toml")
    assert (issue.key, issue.line) == ("data", 3)
    assert issue.message.startswith(
        "must have covariates that change in steps, NOCB() or LOCF(), in a fit, but is linear"
    )


MIXTURE = """
data = "levels.csv"
model = { name = "OneCompartment", parameters = { CL = 3.0, V = 30.0 } }
parameters = { fast = { start = 3.0 }, slow = { start = 0.6 } }

[individual]
CL = "piecewise(slow, poor > 0, fast) * exp(eta)"

[[random]]
variances = { eta = 0.05 }

[subpopulations]
extensive = 0.7
poor = 0.3

[outputs.concentration]
error = "proportional"
cv = 0.1

[estimation]
method = "fo"
iterations = 12

[simulation]
replicates = 50
"""


def bimodal():
    """Return data of 14 subjects, the last four of which clear slowly."""
    rng = np.random.default_rng(4)
    lines = ["ID,TIME,AMT,DV"]
    for id in range(1, 15):
        CL = (2.6 if id < 11 else 0.5) * np.exp(0.2 * rng.normal())
        lines.append(f"{id},0,300,.")
        lines += [f"{id},{t},.,{10.0 * np.exp(-CL / 30.0 * t) * (1.0 + 0.1 * rng.normal()):.4f}" for t in (4.0, 20.0)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def divided(tmp_path, monkeypatch):
    (tmp_path / "mixture.toml").write_text(MIXTURE)
    (tmp_path / "levels.csv").write_text(bimodal())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_mixture_says_where_subjects_belong(divided, capsys):
    assert main(["check", "mixture.toml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Fit:        mixture",
        "Data:       28 measurements of 14 subjects",
        "Estimated:  fast, slow, P(extensive), var(eta)",
        "Covariates: none",
        "Mixture:    extensive, poor",
        "Method:     FO",
    ]
    file = qsp.io.read_fit("mixture.toml")
    found = qsp.fit.nlme(file.mixed, method=file.method)
    estimates = Estimates.of(found, qsp.fit.Hessian())
    assert estimates.table["name"].tolist() == ["fast", "slow", "P(extensive)", "P(poor)", "var(eta)"]
    assert estimates.table["kind"].tolist() == ["parameter"] * 2 + ["probability"] * 2 + ["variance"]
    share, rest = estimates.table["estimate"][2:4]
    assert share == pytest.approx(found.memberships["extensive"].mean(), abs=1e-3)
    assert share + rest == pytest.approx(1.0)
    assert estimates.table["se"][2] == pytest.approx(estimates.table["se"][3])
    belong = found.individuals()["SUBPOPULATION"].tolist()
    assert belong == ["extensive"] * 10 + ["poor"] * 4
    summary = mixed_summary(file, found, estimates, None)
    assert "28 measurements of 14 subjects" in summary
    least = np.floor(1000.0 * found.memberships["poor"][10:].min()) / 1000.0
    assert f"poor: most probably that of 4 subjects, each with a probability of at least {least:g}\n" in summary


@pytest.mark.slow
def test_a_mixture_that_is_interrupted_goes_on(divided, capsys, monkeypatch):
    integrated = '"fo"\nlikelihood = "quadrature"\npoints = 3'
    (divided / "mixture.toml").write_text(MIXTURE.replace('"fo"', integrated))
    assert main(["fit", "mixture.toml", "--out", "whole"]) == 0
    update = ProgressBar.update

    def interrupted(self, done, **settings):
        update(self, done, **settings)
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ProgressBar, "update", interrupted)
        assert main(["fit", "mixture.toml", "--out", "parts"]) == 130
    assert main(["fit", "mixture.toml", "--out", "parts"]) == 0
    said = capsys.readouterr()
    assert "Going on from parts.checkpoint.npz." in said.err
    assert "by Quadrature, in place of the objective" in said.out
    whole, parts = divided / "whole", divided / "parts"
    for name in ("estimates.csv", "individuals.csv", "vpc.csv"):
        assert (parts / name).read_text() == (whole / name).read_text()
    assert {path.name for path in whole.iterdir()} == {*MIXED_FILES} - {"covariates.png"}
    for row in rows(whole / "individuals.csv"):
        assert float(row["P_extensive"]) + float(row["P_poor"]) == pytest.approx(1.0)
        assert float(row[f"P_{row['SUBPOPULATION']}"]) > 0.5
    measured = [float(row["DV"]) for row in rows(whole / "diagnostics.csv") if row["TIME"] == "20.0"]
    high = rows(whole / "vpc.csv")[-1]
    # all have one typical prediction, so that there is nothing to correct
    assert float(high["OBSERVED"]) == pytest.approx(np.quantile(measured, 0.95))
    assert float(high["LOWER"]) < float(high["OBSERVED"]) < float(high["UPPER"])


MISTAKEN = [
    (
        "poor = 0.3",
        "poor = 0.4",
        "12: subpopulations: must have probabilities that add up to 1, but their sum is 1.1.",
    ),
    ("poor = 0.3", "poor = -0.3", "14: [subpopulations] poor: must be positive, but is -0.3."),
    ("poor = 0.3", 'poor = "few"', "14: [subpopulations] poor: must be"),
    ("extensive = 0.7\n", "", "12: subpopulations: must be at least two, but there is 1."),
    ("extensive = 0.7\npoor = 0.3", "", "12: subpopulations: must be at least two, but there are none."),
    (
        "poor > 0",
        "fast > 0",
        "12: subpopulations: must be distinguished by formulas, but none uses extensive or poor.",
    ),
    ("extensive = 0.7", "extensive = 0.3\nmedium = 0.4", "but none uses extensive or medium."),
    (
        "extensive =",
        "eta =",
        "13: [subpopulations] eta: must have a name that means nothing else, but it is also that of a random effect",
    ),
    (
        "extensive =",
        "V =",
        "V: must have a name that means nothing else, but it is also that of a parameter of the model",
    ),
    (
        "extensive =",
        "ID =",
        "ID: must have a name that means nothing else, but it is also that of a column of the results",
    ),
    (
        '"fo"',
        '"saem"',
        '[estimation] method: must be focei, foce, fo or laplace for a mixture of subpopulations, but is "saem".',
    ),
    ("[subpopulations]", "[subpopulation]", 'is "subpopulation". Did you mean `subpopulations`?'),
    ("poor > 0", "pour > 0", '(fast, slow, eta, extensive, poor, CL, V), but is "pour".'),
    (
        '* exp(eta)"\n\n[[random]]\nvariances = { eta = 0.05 }',
        '"',
        "must have at least one random effect, but has none.",
    ),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKEN)
def test_what_is_wrong_with_subpopulations(divided, capsys, old, new, said):
    assert old in MIXTURE
    (divided / "mixture.toml").write_text(MIXTURE.replace(old, new))
    assert main(["check", "mixture.toml"]) == 2
    assert said in capsys.readouterr().err


def test_all_that_is_wrong_with_a_mixture_is_said_at_once(divided):
    text = MIXTURE.replace("poor = 0.3", "fast = 0.4").replace('"fo"', '"saem"').replace("poor > 0", "extensive > 0")
    (divided / "mixture.toml").write_text(text.replace("start = 0.6", "start = 0.6, bounds = [1, 2]"))
    found = [(issue.line, issue.key) for issue in qsp.io.validate("mixture.toml")]
    assert found == [
        (4, "parameters.slow.start"),
        (12, "subpopulations"),
        (14, "subpopulations.fast"),
        (21, "estimation.method"),
    ]

"""Trial files: the bundled trial, every way to write a part of one, and the message for every mistake."""

import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax import io
from qspjax._units import convert
from qspjax.io.toml._model import available_models
from qspjax.io.toml._table import lines_of

BUNDLED = io.bundled_trial().read_text()

SMALL = """
patients = 3
[model]
name = "OneCompartment"
parameters = { CL = 3, V = "30 L" }
[population.covariates.WT]
distribution = "normal"
unit = "kg"
mean = 70
sd = "5000 g"
[population.covariates.HT]
distribution = "uniform"
unit = "cm"
low = 150
high = "2 m"
[population.covariates.SEX]
distribution = "categorical"
probabilities = { male = 0.4, female = 0.6 }
[arms.A]
dose = "100 mg"
to = "central"
[endpoints.peak]
cmax = { output = "concentration" }
[output]
until = "1 d"
every = "6 h"
"""


def read(tmp_path, text):
    path = tmp_path / "trial.toml"
    path.write_text(text)
    return io.read_trial(path)


def small(tmp_path, old, new):
    assert old in SMALL
    return read(tmp_path, SMALL.replace(old, new))


def doses(regimen, covariates=None):
    regimen = regimen.prescribe({name: np.asarray(value) for name, value in (covariates or {}).items()})
    return np.asarray(regimen.amount)


def test_the_bundled_trial_is_the_published_one():
    E, L = qsp.endpoints, qsp.LogNormal
    cvs = {"ka": 0.399, "CL": 0.203, "dCL": 0.349, "V": 0.13, "VC": 0.25, "CLE": 0.253, "P": 0.231}
    written = qsp.Population(
        qsp.models.Omalizumab(),
        between={name: L(cv=cv) for name, cv in cvs.items()},
        covariates={
            "WT": qsp.Truncated(qsp.Normal(60.5, sd=10.2), 42.0, 101.0),
            "IgE0": qsp.Truncated(L.from_mean(373.0, sd=317.0), 53.0, 1316.0),
        },
        effects=[
            qsp.Power("CL", "WT", exponent=0.911, reference=61.1),
            qsp.Power("V", "WT", exponent=0.658, reference=61.1),
            qsp.Power("CLE", "IgE0", exponent=-0.281, reference=482.4),
            qsp.Power("P", "IgE0", exponent=0.657, reference=482.4),
            qsp.SetBy("IgE0", "IgE0"),
        ],
        correlation={("CLE", "P"): 0.968},
    )
    file = io.read_trial(io.bundled_trial())
    key = jax.random.key(file.seed)
    expected, found = (population.sample(key=key, size=16) for population in (written, file.population))
    for name in expected.varying:
        np.testing.assert_allclose(qsp.at(found.model, name).get(), qsp.at(expected.model, name).get(), rtol=1e-12)
    assert [arm.name for arm in file.trial.arms] == ["placebo", "150 mg", "300 mg", "individualised"]
    individual = file.trial.arms[3].regimen
    np.testing.assert_allclose(individual.time, [0.0, 28.0, 56.0, 84.0])
    np.testing.assert_allclose(doses(individual, {"WT": 70.0, "IgE0": 484.0}), 225.0)  # 0.016 x 70 x 200 = 224
    np.testing.assert_allclose(doses(individual, {"WT": 50.0, "IgE0": 60.0}), 150.0)
    assert isinstance(file.trial.endpoints[4], E.Responder)
    assert file.endpoint_units["drug trough, day 112"] == "ug/mL"
    assert (file.patients, file.seed, file.trial.ts.shape) == (1000, 1, (113,))
    assert file.panels[0] == {"output": "free_ige", "label": "free IgE", "log": True, "lines": (25.0, 14.0)}


def test_units_reach_the_model(tmp_path):
    file = small(tmp_path, "parameters = { CL = 3,", 'parameters = { CL = "50 mL/min",')
    assert float(file.population.model.CL) == pytest.approx(3.0)
    np.testing.assert_allclose(file.trial.ts, [0, 6, 12, 18, 24])
    weight, height = file.population.covariates[:2]
    assert float(weight.sd) == pytest.approx(5.0)
    assert float(height.high) == pytest.approx(200.0)
    assert (file.title, file.seed, file.save) == ("trial", 1, ("concentration",))


@pytest.mark.parametrize(
    ("dose", "amount"),
    [
        ('"0.1 g"', 100.0),
        ("100", 100.0),
        ('"2 mg/kg"', 140.0),
        ('"10 ug/g"', None),
        ('"100 mg/m2"', 100.0 * (70.0 * 180.0 / 3600.0) ** 0.5),
        ('{ amount = "2 mg/kg", at_most = "120 mg" }', 120.0),
        ('{ amount = "2 mg/kg", round_to = "100 mg" }', 100.0),
        ('{ amount = "2 mg/kg", round_up_to = "100 mg" }', 200.0),
        ('{ amount = "2 mg", per = { WT = "500 g" }, at_least = 300 }', 300.0),
        ('{ table = { covariate = "WT", edges = ["50 kg", "70000 g"], amounts = [1, "2 mg", "0.003 g"] } }', 3.0),
    ],
)
def test_doses(tmp_path, dose, amount):
    text = ("[arms.A]\ndose = ", f"[arms.A]\ndose = {dose} #")
    if amount is None:
        with pytest.raises(io.FileIssues, match="dose: must be in mg or a unit of the same dimension"):
            small(tmp_path, *text)
    else:
        regimen = small(tmp_path, *text).trial.arms[0].regimen
        np.testing.assert_allclose(doses(regimen, {"WT": 70.0, "HT": 180.0}), amount)


def test_regimens(tmp_path):
    combined = """[[arms.A.regimen]]
dose = "100 mg"
to = "central"
over = "30 min"
[[arms.A.regimen]]
dose = "50 mg"
to = "central"
start = "12 h"
every = "0.5 d"
doses = 2
[[arms.A.regimen]]
dose = "10 mg"
to = "central"
rate = "48 mg/d"
"""
    regimen = small(tmp_path, '[arms.A]\ndose = "100 mg"\nto = "central"\n', combined).trial.arms[0].regimen
    np.testing.assert_allclose(regimen.time, [0.0, 12.0, 24.0, 0.0])
    np.testing.assert_allclose(regimen.amount, [100.0, 50.0, 50.0, 10.0])
    assert (float(regimen.duration[0]), float(regimen.rate[3])) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{ cv = "30 %" }', qsp.LogNormal(cv=0.3)),
        ("{ omega = 0.3, median = 2 }", qsp.LogNormal(2.0, omega=0.3)),
        ('{ sd = "5 mL/min" }', qsp.Normal(sd=0.3)),
        ("{ low = 1, high = 2 }", qsp.Uniform(1.0, 2.0)),
        ("{ sd = 1, mean = 3, truncate = [1, 5] }", qsp.Truncated(qsp.Normal(3.0, sd=1.0), 1.0, 5.0)),
    ],
)
def test_distributions(tmp_path, written, expected):
    file = small(tmp_path, "[arms.A]\n", f"[population.between]\nCL = {written}\n[arms.A]\n")
    (found,) = file.population.between
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    np.testing.assert_allclose(jax.tree.leaves(found), jax.tree.leaves(expected), rtol=1e-12)


def test_effects(tmp_path):
    effects = """
[[population.effects]]
allometric = { clearances = ["CL"], volumes = ["V"] }
[[population.effects]]
category = { parameter = "CL", covariate = "SEX", factors = { male = 1, female = 0.8 } }
[arms.A]
"""
    allometric, category = small(tmp_path, "[arms.A]\n", effects).population.effects
    assert float(allometric("CL", 1.0, {"WT": 35.0})) == pytest.approx(0.5**0.75)
    assert float(category("CL", 1.0, {"SEX": 0})) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        ('cmin = { output = "concentration", between = ["1 h", "0.5 d"] }', "mg/L"),
        ('tmax = { output = "concentration" }', "h"),
        ('auc = { output = "concentration" }', "mg/L*h"),
        ('half_life = { output = "concentration", points = 3 }', "h"),
        ('time_above = { output = "concentration", threshold = "1 ug/mL" }', "h"),
        ('accumulation = { output = "concentration", first = [0, 12], last = [12, 24] }', ""),
        ('relative_change = { output = "concentration", at = 6, baseline = 0 }', ""),
        ('auc_infinity = { output = "concentration" }\nresponder = { at_least = "1 mg/L*d" }', ""),
    ],
)
def test_endpoints(tmp_path, written, unit):
    file = small(tmp_path, 'cmax = { output = "concentration" }', written)
    assert file.endpoint_units == {"peak": unit}
    if "responder" in written:
        assert float(file.trial.endpoints[0].at_least) == pytest.approx(24.0)


MISTAKES = tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text())["mistake"]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake["message"].split(":")[1].strip() for mistake in MISTAKES])
def test_every_mistake_has_its_message(tmp_path, mistake):
    assert mistake["good"] in BUNDLED
    with pytest.raises(io.FileIssues) as caught:
        read(tmp_path, BUNDLED.replace(mistake["good"], mistake["bad"], 1))
    path = tmp_path / "trial.toml"
    message = mistake["message"].replace("{models}", ", ".join(available_models())).replace("{file}", str(path))
    assert str(caught.value) == f"{path}:{message}"


def test_all_mistakes_are_reported_at_once(tmp_path):
    text = BUNDLED.replace('"7.32 mL/h"', '"7.32 kg"').replace('to = "depot"', 'to = "skin"').replace("until", "untill")
    with pytest.raises(io.FileIssues) as caught:
        read(tmp_path, text)
    assert [issue.key for issue in caught.value.issues] == [
        "model.parameters.CL",
        'arms."150 mg".to',
        'arms."300 mg".to',
        "arms.individualised.to",
        "output.until",
        "output.untill",
    ]
    assert [issue.line for issue in caught.value.issues] == [16, 68, 74, 85, 109, 110]


def test_missing_parts(tmp_path):
    with pytest.raises(io.FileIssues) as caught:
        read(tmp_path, "title = 'nothing'")
    path = tmp_path / "trial.toml"
    assert str(caught.value).splitlines() == [
        f"{path}: {key}: must be given, but is missing." for key in ("model", "arms", "output")
    ]
    with pytest.raises(io.FileIssues, match="model.parameters. CL: must be given, but is missing"):
        small(tmp_path, "{ CL = 3, ", "{ ")
    with pytest.raises(io.FileIssues, match="arms: must have at least one arm"):
        small(tmp_path, '[arms.A]\ndose = "100 mg"\nto = "central"', "[arms]")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(io.FileIssues, match="none.toml: must be a file, but does not exist"):
        io.read_trial(tmp_path / "none.toml")
    with pytest.raises(io.FileIssues, match="must be a file, but is a directory"):
        io.read_trial(str(tmp_path))
    (tmp_path / "latin.toml").write_bytes("# ok\ntitle = 'caf\u00e9'".encode("latin-1"))
    with pytest.raises(io.FileIssues, match="latin.toml:2: must be text in UTF-8, but is not"):
        io.read_trial(tmp_path / "latin.toml")


def test_a_missing_table_is_one_issue(tmp_path):
    with pytest.raises(io.FileIssues) as caught:
        read(tmp_path, SMALL.partition("[output]")[0])
    assert str(caught.value) == f"{tmp_path / 'trial.toml'}: output: must be given, but is missing."


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "trial.toml").write_bytes(b"\xef\xbb\xbf" + SMALL.lstrip().replace("\n", "\r\n").encode())
    assert io.read_trial(tmp_path / "trial.toml").patients == 3


@pytest.mark.parametrize("name", ["arm", "patient", "result", "last_time", "state"])
def test_endpoints_are_not_called_like_other_columns(tmp_path, name):
    with pytest.raises(io.FileIssues, match=f"endpoints. {name}: must have another name"):
        small(tmp_path, "[endpoints.peak]", f"[endpoints.{name}]")


@pytest.mark.parametrize(
    ("between", "place"),
    [
        ("[population.between]\nCL = { sd = 300 }", "20: [population.between] CL: must be positive, but is -"),
        (
            '[[population.effects]]\npower = { parameter = "CL", covariate = "X", exponent = 1, reference = 1 }',
            "19: [population.effects[1]] CL: must be positive, but is -",
        ),
    ],
)
def test_a_parameter_outside_its_range_is_to_be_truncated(tmp_path, between, place):
    covariate = '[population.covariates.X]\ndistribution = "normal"\nmean = 0\nsd = 1\n'
    file = small(tmp_path, "[arms.A]", f"{between}\n{covariate if 'X' in between else ''}[arms.A]")
    with pytest.raises(io.FileIssues, match="in a sampled patient. Truncate .*truncate = .low, high.") as caught:
        file.sample(jax.random.key(1))
    assert str(caught.value).startswith(f"{tmp_path / 'trial.toml'}:{place}")


@pytest.mark.parametrize("text", ["a = " + "[" * 3000, "patients = " + "9" * 6000])
def test_absurd_files(tmp_path, text):
    with pytest.raises(io.FileIssues, match="must be TOML, but has a number or a nesting too long to read"):
        read(tmp_path, text)


def test_lines_of_a_file():
    text = 'a = 1\n["b c".d]\ne."f g" = 2 # x = 3\n[[h]]\n[[h]]\n"i=j" = 4\n'
    assert lines_of(text) == {
        ("a",): 1,
        ("b c", "d"): 2,
        ("b c", "d", "e"): 3,
        ("b c", "d", "e", "f g"): 3,
        ("h[1]",): 4,
        ("h[2]",): 5,
        ("h[2]", "i=j"): 6,
    }


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("1 h", "min", 60.0),
        ("1 d", "h", 24.0),
        ("1 L", "mL", 1e3),
        ("1 ug/mL", "mg/L", 1.0),
        ("1 \u00b5g/mL", "mg/L", 1.0),
        ("1 nM", "nmol/L", 1.0),
        ("1 M", "mol/L", 1.0),
        ("24 mL/d", "mL/h", 1.0),
        ("1 kIU/L", "IU/mL", 1.0),
        ("1 mg/m2", "mg/m^2", 1.0),
        ("1e2%", "", 1.0),
        (" -2.5E-1 mg ", "mg", -0.25),
        ("1 1/nM/d", "1/nM/h", 1.0 / 24.0),
    ],
)
def test_units_are_those_of_pharmacology(text, unit, value):
    assert convert(text, to=unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["mg", "", "1e999 mg", "1 mg**999999", "1 __import__('os')", "1 (mg", "1 mg/0", "nan"])
def test_nothing_else_is_a_quantity(text):
    with pytest.raises(ValueError, match="Argument `dose` must"):
        convert(text, to="mg", argument="dose")

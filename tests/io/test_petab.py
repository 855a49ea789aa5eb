"""PEtab problems: the official suite where it is there, a small one of our own, what is wrong with files."""

import jax
import numpy as np
import pytest
import yaml
from scipy import stats

import qspjax as qsp
from qspjax._expression import PETAB, as_number, evaluate, parse
from qspjax.io import FileIssues, read_petab, write_sbml
from qspjax.models import MassAction, Network, Reaction
from tests.systems.data import data_folder, needs_data

DATA = data_folder()
SUITE = None if DATA is None else DATA / "petab-test-suite" / "cases"
CASES = [] if SUITE is None else sorted([*SUITE.glob("v1*/sbml/*"), *SUITE.glob("v2*/sbml/*")])
FEW = ("v1.0.0/sbml/0006", "v1.0.0/sbml/0016", "v2.0.0/sbml/0010", "v2.0.0/sbml/0021")


def judged(case):
    expected = yaml.safe_load((case / f"_{case.name}_solution.yaml").read_text())
    problem = read_petab(case / f"_{case.name}.yaml")
    x = problem.point(problem.reference)
    table = problem.table(x)
    assert float(jax.jit(problem.log_likelihood)(x)) == pytest.approx(expected["llh"], abs=expected["tol_llh"])
    assert np.sum(table["residual"] ** 2) == pytest.approx(expected["chi2"], abs=expected["tol_chi2"])


@needs_data
@pytest.mark.parametrize("name", FEW)
def test_cases_of_the_suite(name):
    judged(SUITE / name)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parts[-3]}-{case.name}")
def test_the_suite(case):
    judged(case)


@needs_data
def test_mathematics():
    cases = yaml.safe_load((SUITE / "v2.0.0" / "math" / "math_tests.yaml").read_text())["cases"]
    for case in cases:
        found = as_number(evaluate([parse(str(case["expression"]), PETAB)], {"a": 2.0, "b": 3.0}, 0.0)[0])
        expected = 6.0 if case["expected"] == "a * b" else float(case["expected"])
        assert float(found) == pytest.approx(expected), case["expression"]


VERSION_1 = {
    "problem.yaml": "format_version: 1\nparameter_file: parameters.tsv\nproblems:\n- sbml_files: [model.xml]\n"
    "  condition_files: [conditions.tsv]\n  measurement_files: [measurements.tsv]\n"
    "  observable_files: [observables.tsv]\n",
    "conditions.tsv": "conditionId\tk1\tA\nc0\t0.8\t\nc1\tk1_b\t2.0\n",
    "observables.tsv": "observableId\tobservableFormula\tnoiseFormula\tobservableTransformation\n"
    "obs\tscale * A + observableParameter1_obs\tsigma\tlog10\n",
    "measurements.tsv": "observableId\tsimulationConditionId\ttime\tmeasurement\tobservableParameters\n"
    "obs\tc0\t1\t0.7\t0.1\nobs\tc1\t1\t0.4\toffset\nobs\tc1\t2\t0.3\toffset\n",
    "parameters.tsv": "parameterId\tparameterScale\tlowerBound\tupperBound\tnominalValue\testimate\n"
    "k1_b\tlog10\t0.01\t10\t0.5\t1\nscale\tlin\t0\t10\t1.5\t1\noffset\tlin\t-1\t1\t0.2\t1\nsigma\tlog\t0.01\t9\t0.3\t0\n",
}


def network():
    return Network(
        species={"A": 1.0, "B": 0.0},
        parameters={"k1": 0.8, "k2": 0.6},
        reactions={"r": Reaction("A -> B", MassAction("k1", reverse="k2"))},
    )


def written(folder, files=VERSION_1, **changed):
    for name, text in (files | changed).items():
        (folder / name).write_text(text)
    (folder / "model.xml").write_text(write_sbml(network()))
    return folder / "problem.yaml"


def amount(t, k1, start):
    return start * (0.6 + k1 * np.exp(-(k1 + 0.6) * t)) / (k1 + 0.6)


def test_a_problem_by_hand(tmp_path):
    problem = read_petab(written(tmp_path))
    predicted = np.array([
        1.5 * amount(1.0, 0.8, 1.0) + 0.1, 1.5 * amount(1.0, 0.5, 2.0) + 0.2, 1.5 * amount(2.0, 0.5, 2.0) + 0.2
    ])  # fmt: skip
    x = problem.point(problem.reference)
    y = np.array([0.7, 0.4, 0.3])
    np.testing.assert_allclose(problem.table(x)["prediction"], predicted, rtol=1e-9)
    expected = stats.norm(np.log10(predicted), 0.3).logpdf(np.log10(y)) - np.log(y * np.log(10.0))
    np.testing.assert_allclose(problem.log_likelihood(x), expected.sum(), rtol=1e-9)
    assert problem.names == ("k1_b", "scale", "offset")
    assert isinstance(problem.free["k1_b"].transform, qsp.Log)
    assert "3 of 1 outputs" in qsp.io.contents(tmp_path / "problem.yaml")


def test_starts_are_drawn_by_their_own_priors(tmp_path):
    table = VERSION_1["parameters.tsv"].splitlines()
    columns = "initializationPriorType\tinitializationPriorParameters"
    own = (columns, "parameterScaleNormal\t-1;0.2", "normal\t5;1", "\t", "\t")
    rows = [f"{row}\t{more}" for row, more in zip(table, own, strict=True)]
    problem = read_petab(written(tmp_path, **{"parameters.tsv": "\n".join(rows) + "\n"}))
    k1, scale, offset = qsp.fit.MultiStart(400, seed=1).points(problem).T
    np.testing.assert_allclose([k1.mean(), k1.std()], [-1.0, 0.2], atol=0.01)
    np.testing.assert_allclose([scale.mean(), scale.std()], [5.0, 1.0], atol=0.03)
    np.testing.assert_allclose([offset.min(), offset.max()], [-1.0, 1.0], atol=0.01)
    text = "\n".join(rows).replace("normal\t5;1", "normal\t5")
    with pytest.raises(FileIssues, match="initializationPriorParameters: must have 2 numbers, but has 1"):
        read_petab(written(tmp_path, **{"parameters.tsv": text}))


def issues(path):
    with pytest.raises(FileIssues) as caught:
        read_petab(path)
    return [str(issue) for issue in caught.value.issues]


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("measurements.tsv", "obs\tc0\t1", "obs\tc9\t1",
         "measurements.tsv:2: simulationConditionId: must be a condition (c0, c1), but is c9."),
        ("measurements.tsv", "obs\tc0\t1", "nothing\tc0\t1",
         "measurements.tsv:2: observableId: must be an observable (obs), but is nothing."),
        ("measurements.tsv", "0.7\t0.1", "x\t0.1", "measurements.tsv:2: measurement: must be a number, but is x."),
        ("measurements.tsv", "0.7\t0.1", "0.7\t",
         "measurements.tsv:2: observableParameters: must have a value for each of 1 placeholders of obs,"),
        ("observables.tsv", "scale * A", "scale * (A",
         "observables.tsv:2: observableFormula: must be a formula, but: In `scale * (A + observableParameter1_obs` "
         "there must be an operator or `)` at character 38, but there is its end."),
        ("observables.tsv", "sigma\tlog10", "noise\tlog10",
         "problem.yaml: Argument `noise` must name an observed value, a state or a parameter, in output `obs`"),
        ("parameters.tsv", "lin\t0\t10", "lin\t10\t0",
         "parameters.tsv:3: lowerBound: must be less than the upper bound 0, but is 10."),
        ("parameters.tsv", "parameterId\t", "id\t", "parameters.tsv: must have a column parameterId, but has id,"),
        ("problem.yaml", "format_version: 1", "format_version: 7",
         "problem.yaml: format_version: must be 1 or 2, but is 7."),
        ("problem.yaml", "[model.xml]", "[other.xml]", "problem.yaml: must name a model that is there, but "),
        ("problem.yaml", "[conditions.tsv]", "[other.tsv]", "other.tsv: must be a file, but does not exist."),
        ("problem.yaml", "format_version: 1", "format_version: [", "problem.yaml:"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_a_line(tmp_path, name, old, new, expected):
    assert old in VERSION_1[name]
    path = written(tmp_path, **{name: VERSION_1[name].replace(old, new)})
    assert any(line.startswith(expected) for line in issues(path)), issues(path)


VERSION_2 = {
    "problem.yaml": "format_version: 2.0.0\nparameter_files: [parameters.tsv]\nmodel_files:\n  m: {location: model.xml,"
    " language: sbml}\nobservable_files: [observables.tsv]\ncondition_files: [conditions.tsv]\n"
    "experiment_files: [experiments.tsv]\nmeasurement_files: [measurements.tsv]\n",
    "conditions.tsv": "conditionId\ttargetId\ttargetValue\nslow\tk1\tk1_b\nmore\tA\tA + 1\n",
    "experiments.tsv": "experimentId\ttime\tconditionId\ne1\t0\tslow\ne1\t2\tmore\n",
    "observables.tsv": "observableId\tobservableFormula\tnoiseFormula\nobs\tA\t0.1\n",
    "measurements.tsv": "observableId\texperimentId\ttime\tmeasurement\nobs\te1\t1\t0.7\nobs\te1\t3\t1\nobs\t\t1\t1\n",
    "parameters.tsv": "parameterId\tlowerBound\tupperBound\tnominalValue\testimate\tpriorDistribution"
    "\tpriorParameters\nk1_b\t0.01\t10\t0.5\ttrue\tnormal\t0.4;0.2\n",
}


def test_version_2_by_hand(tmp_path):
    problem = read_petab(written(tmp_path, VERSION_2))
    x = problem.point(problem.reference)
    a, b = amount(2.0, 0.5, 1.0) + 1.0, 1.0 - amount(2.0, 0.5, 1.0)
    rest = 0.6 * (a + b) / 1.1
    expected = [amount(1.0, 0.5, 1.0), rest + (a - rest) * np.exp(-1.1), amount(1.0, 0.8, 1.0)]
    np.testing.assert_allclose(problem.table(x)["prediction"], expected, rtol=1e-8)
    normal = stats.norm(0.4, 0.2)
    mass = normal.cdf(10.0) - normal.cdf(0.01)
    np.testing.assert_allclose(problem.log_prior(x), np.log(normal.pdf(0.5) / mass), rtol=1e-9)

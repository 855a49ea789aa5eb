"""PEtab problems: the official suite where it is there, a small one of our own, what is wrong with files."""

import jax
import numpy as np
import pytest
import yaml
from scipy import stats

import qspjax as qsp
from qspjax._expression import PETAB, as_number, evaluate, parse
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
from qspjax.io import FileIssues, read_petab, write_petab, write_sbml
from qspjax.io._validate import contents
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
    assert "3 of 1 outputs" in contents(tmp_path / "problem.yaml")


def test_measurements_of_one_moment_have_parameters_of_their_own(tmp_path):
    rows = "".join(f"obs\tc1\t1\t0.4\t{own}\n" for own in ("0.1", "offset", "-0.3"))
    table = VERSION_1["measurements.tsv"].splitlines()[0] + "\n" + rows
    problem = read_petab(written(tmp_path, **{"measurements.tsv": table}))
    found = problem.table(problem.point(problem.reference))["prediction"]
    np.testing.assert_allclose(found, 1.5 * amount(1.0, 0.5, 2.0) + np.array([0.1, 0.2, -0.3]), rtol=1e-8)


def test_starts_are_drawn_by_their_own_priors(tmp_path):
    table = VERSION_1["parameters.tsv"].splitlines()
    columns = "initializationPriorType\tinitializationPriorParameters"
    own = (columns, "parameterScaleNormal\t-1;0.2", "normal\t5;1", "\t", "\t")
    rows = [f"{row}\t{more}" for row, more in zip(table, own, strict=True)]
    problem = read_petab(written(tmp_path, **{"parameters.tsv": "\n".join(rows) + "\n"}))
    k1, scale, offset = qsp.fit.MultiStart(400, key=jax.random.key(1)).points(problem).T
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
         "observables.tsv:2: noiseFormula: must use ids of the model and of the tables, but noise is none."),
        ("parameters.tsv", "lin\t0\t10", "lin\t10\t0",
         "parameters.tsv:3: lowerBound: must be less than the upper bound 0, but is 10."),
        ("parameters.tsv", "parameterId\t", "id\t", "parameters.tsv: must have a column parameterId, but has id,"),
        ("problem.yaml", "format_version: 1", "format_version: 7",
         "problem.yaml: format_version: must be 1 or 2, but is 7."),
        ("problem.yaml", "[model.xml]", "[other.xml]", "problem.yaml: must name a model that exists, but "),
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


OBSERVABLES_1, PARAMETERS_1 = VERSION_1["observables.tsv"], VERSION_1["parameters.tsv"]
MEASUREMENTS_1, CONDITIONS_1 = VERSION_1["measurements.tsv"], VERSION_1["conditions.tsv"]
REFUSED_1 = [
    ("conditions.tsv", "\tk1\t", "\tkk1\t", "conditions.tsv:2: kk1: must be an id of the model, but kk1 is none."),
    ("conditions.tsv", "\tk1\tA", "\tk1\t", "conditions.tsv: must have a name for each column, but column 3 has none."),
    ("conditions.tsv", "\tk1\tA", "\tk1\tk1",
     "conditions.tsv: must have columns with different names, but has k1 twice."),
    ("conditions.tsv", "k1_b", "k9",
     "conditions.tsv:3: k1: must use ids of the model and of the tables, but k9 is none."),
    ("conditions.tsv", "c1\t", "c0\t",
     "conditions.tsv:3: conditionId: must occur once, but c0 is in line 2 too."),
    ("conditions.tsv", "c1\t", "c 1\t",
     "conditions.tsv:3: conditionId: must be an id (letters, digits and _), but is c 1."),
    ("conditions.tsv", "\tk1\t", "\tscale\t",
     "conditions.tsv:2: scale: must not be in the table of parameters too, but scale is."),
    ("observables.tsv", "obs\tscale", "obs\tA\t1\t\nobs\tscale",
     "observables.tsv:3: observableId: must occur once, but obs is in line 2 too."),
    ("observables.tsv", "obs\tscale", "A\tB\t1\t\nobs\tscale",
     "observables.tsv:2: observableId: must be an id of its own, but A is a species of the model."),
    ("observables.tsv", "obs\tscale", "sigma\tB\t1\t\nobs\tscale",
     "observables.tsv:2: observableId: must be an id of its own, but sigma is a parameter too."),
    ("observables.tsv", "sigma\tlog10", "\tlog10", "observables.tsv:2: noiseFormula: must be a formula, but: "),
    ("observables.tsv", "sigma\tlog10", "-1\tlog10", "observables.tsv:2: noiseFormula: must be positive, but is -1."),
    ("observables.tsv", "observableTransformation", "observableTranformation",
     "observables.tsv: must have columns of PEtab, but has observableTranformation: did you mean observableTransf"),
    ("measurements.tsv", "0.7\t0.1", "\t0.1", "measurements.tsv:2: measurement: must be a number, but is empty."),
    ("measurements.tsv", "0.7\t0.1", "-0.7\t0.1",
     "measurements.tsv:2: measurement: must be positive for a logarithm to be taken, but is -0.7."),
    ("measurements.tsv", "0.7\t0.1", "0_7\t0.1", "measurements.tsv:2: measurement: must be a number, but is 0_7."),
    ("measurements.tsv", "c0\t1\t0.7", "c0\t\t0.7",
     "measurements.tsv:2: time: must be a number, or inf for a steady state, but is empty."),
    ("measurements.tsv", "0.7\t0.1", "0.7\tk2",
     "measurements.tsv:2: observableParameters: must be numbers or ids of the table of parameters, but k2 is a "),
    ("measurements.tsv", "obs\tc0", '"obs\tc0',
     "measurements.tsv:2: must be a table whose cells are separated by tabs,"),
    ("parameters.tsv", "offset\tlin", "scale\tlin",
     "parameters.tsv:4: parameterId: must occur once, but scale is in line 3 too."),
    ("parameters.tsv", "offset\tlin", "A\tlin",
     "parameters.tsv:4: parameterId: must be a parameter, but A is a species of"),
    ("parameters.tsv", "sigma\tlog", "unused\tlin\t0\t1\t1\t0\nsigma\tlog",
     "parameters.tsv:5: parameterId: must be an id that the model or a table uses, but unused is none."),
    ("parameters.tsv", "0.01\t10", "0\t10",
     "parameters.tsv:2: lowerBound: must be positive on the scale log10, but is 0."),
    ("parameters.tsv", "0.01\t10", "\t10",
     "parameters.tsv:2: lowerBound: must be a number for a parameter that is estimated, but is empty."),
    ("parameters.tsv", "1.5\t1", "1.5\tyes", "parameters.tsv:3: estimate: must be 1 or 0, but is yes."),
    ("parameters.tsv", "scale\tlin", "scale\tlinear",
     "parameters.tsv:3: parameterScale: must be lin, log or log10, but is linear."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "expected"), REFUSED_1)
def test_what_the_standard_refuses(tmp_path, name, old, new, expected):
    assert VERSION_1[name].count(old) >= 1
    path = written(tmp_path, **{name: VERSION_1[name].replace(old, new, 1)})
    assert any(line.startswith(expected) for line in issues(path)), issues(path)


REFUSED_2 = [
    ("conditions.tsv", "slow\tk1\t", "slow\tkk\t",
     "conditions.tsv:2: targetId: must be an id of the model, but kk is none."),
    ("conditions.tsv", "more\tA", "slow\tk1",
     "conditions.tsv:3: targetId: must be set once by a condition, but k1 is again by slow."),
    ("conditions.tsv", "k1_b", "A",
     "conditions.tsv:2: targetValue: must use ids of the table of parameters at the start"),
    ("conditions.tsv", "k1_b", "", "conditions.tsv:2: targetValue: must be a formula, but: "),
    ("experiments.tsv", "2\tmore", "2\tless",
     "experiments.tsv:3: conditionId: must be a condition (slow, more), but is less."),
    ("experiments.tsv", "2\tmore", "\tmore", "experiments.tsv:3: time: must be a number, or -inf, but is empty."),
    ("experiments.tsv", "2\tmore", "0\tslow",
     "experiments.tsv:3: conditionId: must set what nothing else sets at that time, but sets k1 again."),
    ("observables.tsv", "obs\tA\t0.1", "k2\tA\t0.1\nobs\tA\t0.1",
     "observables.tsv:2: observableId: must be an id of its own, but k2 is a parameter of the model."),
    ("measurements.tsv", "e1\t3", "e9\t3", "measurements.tsv:3: experimentId: must be an experiment (e1), but is e9."),
    ("measurements.tsv", "0.7", "nan", "measurements.tsv:2: measurement: must be a number, but is empty."),
    ("parameters.tsv", "true", "1", "parameters.tsv:2: estimate: must be true or false, but is 1."),
    ("parameters.tsv", "0.4;0.2", "0.4;-0.2",
     "parameters.tsv:2: priorParameters: must have a positive number at position 2, but is 0.4;-0.2."),
    ("problem.yaml", "format_version: 2.0.0", "format_version: 2.0.0\nformat_version: 2.0.0",
     "problem.yaml:1: must be YAML, but has the key format_version twice."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "expected"), REFUSED_2)
def test_what_the_standard_refuses_in_version_2(tmp_path, name, old, new, expected):
    assert VERSION_2[name].count(old) >= 1
    path = written(tmp_path, VERSION_2, **{name: VERSION_2[name].replace(old, new, 1)})
    assert any(line.startswith(expected) for line in issues(path)), issues(path)


def test_placeholders_are_names_of_one_observable_alone(tmp_path):
    """A placeholder called like a parameter of the model, of the tables or of another observable captures none."""
    path = written(
        tmp_path,
        VERSION_2,
        **{
            "observables.tsv": "observableId\tobservableFormula\tnoiseFormula\tobservablePlaceholders"
            "\tnoisePlaceholders\nobs\tk2 * A + lambda\tsd\tk2;lambda\tsd\nother\tk2 * A\tsd\t\tsd\n"
            "third\tk2 * concentration\tsd\t\t\n",
            "measurements.tsv": "observableId\texperimentId\ttime\tmeasurement\tobservableParameters\tnoiseParameters\n"
            "obs\t\t1\t1\t2;7\t0.1\nother\t\t1\t1\t\t0.2\nother\t\t1\t1\t\tk1_b\nthird\t\t1\t1\t\t\n",
            "parameters.tsv": VERSION_2["parameters.tsv"] + "sd\t\t\t0.4\tfalse\t\t\nconcentration\t\t\t3\tfalse\t\t\n",
        },
    )
    problem = read_petab(path)
    x = problem.point(problem.reference)
    a = amount(1.0, 0.8, 1.0)
    table = problem.table(x)
    np.testing.assert_allclose(table["prediction"], [2 * a + 7, 0.6 * a, 0.6 * a, 1.8], rtol=1e-8)
    scale = (1.0 - table["prediction"]) / table["residual"]
    np.testing.assert_allclose(scale, [0.1, 0.2, 0.5, 0.4], rtol=1e-8)


def test_ids_that_pandas_takes_for_nothing_or_python_for_a_word(tmp_path):
    names = ("na", "lambda", "e", "t", "sd", "concentration", "none", "values")
    formula = " + ".join(names)
    rows = "".join(f"{name}\tlin\t0\t9\t{i}\t0\n" for i, name in enumerate(names))
    files = {
        "observables.tsv": OBSERVABLES_1 + f"sum\t{formula} + time + k2\t1\tlin\none\tna\tlambda\tlin\n",
        "measurements.tsv": MEASUREMENTS_1 + "sum\tc0\t2\t0\t\none\tc0\t2\t0\t\n",
        "parameters.tsv": PARAMETERS_1 + rows,
    }
    problem = read_petab(written(tmp_path, **files))
    table = problem.table(problem.point(problem.reference))
    found = dict(zip(table["output"], table["prediction"], strict=True))
    assert found["sum"] == pytest.approx(28 + 2.0 + 0.6)
    assert found["one"] == 0.0


def named_like(folder, name, files):
    path = written(folder, files)
    (folder / "model.xml").write_text(write_sbml(network().add(species={name: 10.0})))
    return path


def test_ids_are_no_constants_unless_the_standard_reserves_them(tmp_path):
    table = OBSERVABLES_1.replace("scale * A", "scale * A + pi")
    problem = read_petab(named_like(tmp_path, "pi", VERSION_1 | {"observables.tsv": table}))
    expected = 10.0 + 0.1 + 1.5 * amount(1.0, 0.8, 1.0)
    assert problem.table(problem.point(problem.reference))["prediction"][0] == pytest.approx(expected, rel=1e-7)
    table = VERSION_2["observables.tsv"].replace("obs\tA", "obs\tA + pi")
    problem = read_petab(named_like(tmp_path, "pi", VERSION_2 | {"observables.tsv": table}))
    expected = 10.0 + amount(1.0, 0.5, 1.0)
    assert problem.table(problem.point(problem.reference))["prediction"][0] == pytest.approx(expected, rel=1e-7)
    again = read_petab(write_petab(problem, tmp_path / "again"))
    assert again.table(again.point(again.reference))["prediction"][0] == pytest.approx(expected, rel=1e-7)
    for name in ("time", "inf", "true"):
        files = VERSION_2 | {"observables.tsv": table.replace("pi", name)}
        assert issues(named_like(tmp_path, name, files)) == [
            f"observables.tsv:2: observableFormula: must not use {name}, which PEtab reserves, "
            f"but {name} is a species of the model: rename it."
        ]


def test_the_local_parameter_of_a_reaction_is_named(tmp_path):
    files = VERSION_1 | {
        "conditions.tsv": "conditionId\nc\n",
        "observables.tsv": "observableId\tobservableFormula\tnoiseFormula\nobs\tA\t0.1\n",
        "measurements.tsv": "observableId\tsimulationConditionId\ttime\tmeasurement\nobs\tc\t1\t0.4\n",
        "parameters.tsv": "parameterId\tparameterScale\tlowerBound\tupperBound\tnominalValue\testimate\n"
        "k\tlog10\t0.01\t10\t0.3\t1\n",
    }
    path = written(tmp_path, files)
    local = Network(species={"A": 2.0}, parameters={"r.k": 1.0}, reactions={"r": Reaction("A ->", "`r.k` * A")})
    (tmp_path / "model.xml").write_text(write_sbml(local))
    assert "<localParameter" in (tmp_path / "model.xml").read_text()
    (issue,) = issues(path)
    assert issue == (
        "parameters.tsv:2: parameterId: must be an id that the model or a table uses, but k is none; "
        "parameters of one reaction alone are called r.k."
    )
    (tmp_path / "parameters.tsv").write_text(files["parameters.tsv"].replace("k\tlog10", "r.k\tlog10"))
    problem = read_petab(path)
    np.testing.assert_allclose(problem.table(problem.start)["prediction"], 2.0 * np.exp(-0.3), rtol=1e-8)


@pytest.mark.parametrize(("times", "method"), [(2, qsp.solve.MatrixExponential), (3, qsp.solve.Rosenbrock)])
def test_a_linear_problem_is_solved_exactly_where_that_is_cheaper(tmp_path, times, method):
    names = [f"s{k}" for k in range(6)]
    steps = {
        f"r{k}": qsp.models.Reaction(f"{a} -> {b}", f"k * {a}")
        for k, (a, b) in enumerate(zip(names[:-1], names[1:], strict=True))
    }
    species = {name: 9.0 if name == "s0" else 0.0 for name in names}
    network = qsp.models.Network(species=species, parameters={"k": 0.1}, reactions=steps)
    data = Experiment(Measurements(np.arange(1.0, 1.0 + times), np.full(times, 5.0), output="s0"))
    problem = Problem(network, data, {"s0": Output("s0", Additive(0.5))}, {"k": Free(0.1)})
    read = qsp.io.read_petab(qsp.io.write_petab(problem, tmp_path / "petab"))
    assert isinstance(read.method, method)
    assert float(read.log_density(read.start)) == pytest.approx(float(problem.log_density(problem.start)), abs=1e-6)

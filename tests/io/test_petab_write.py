"""Problems written as PEtab 2: read again they are the same, the package petab finds nothing, the rest is refused."""

import jax
import numpy as np
import pytest

pytest.importorskip("libsbml")
pytest.importorskip("petab")

import qspjax as qsp
from qspjax.fit import (
    M3,
    Additive,
    BoxCoxError,
    Change,
    Combined,
    Correlated,
    DoubleExponential,
    Experiment,
    Free,
    LogitNormalError,
    LogNormalError,
    Measurements,
    Output,
    Poisson,
    Problem,
    Proportional,
    StudentT,
)
from qspjax.io import read_petab, write_petab
from qspjax.io.petab import lint
from qspjax.models import MassAction, Network, Reaction
from qspjax.models.network import Compartment, Species


def network():
    return Network(
        compartments={"plasma": Compartment(3.0, unit="L"), "cell": 1.5},
        species={
            "drug": Species(30.0, "plasma"),
            "target": Species(5.0, "plasma", is_amount=False),
            "complex": Species(0.0, "plasma"),
            "inside": Species(0.2, "cell"),
        },
        parameters={"kon": 0.1, "koff": 0.02, "loss.k": 0.3, "pi": 0.5, "back": 0.1},
        reactions={
            "binding": Reaction("drug + target -> complex", MassAction("kon", reverse="koff")),
            "loss": Reaction("complex -> inside", "`loss.k` * complex"),
            "out": Reaction("inside -> drug", "`pi` * back * inside"),
        },
        rules={"total": "target + complex"},
        time_unit="h",
    )


def problem(**changed):
    """Return a problem with all that PEtab has words for."""
    rng = np.random.default_rng(3)
    ts = [0.5, 1.0, 2.0, 3.0, 4.0]

    def data(output, **more):
        return Measurements(ts * 2, rng.uniform(1.0, 5.0, 10), output=[output] * 5 + ["total"] * 5, **more)

    doses = qsp.bolus(12.0, to="drug", at=1.0).every(1.5, doses=2) + qsp.bolus(6.0, to="drug")
    experiments = {
        "first one": Experiment(data("drug"), doses, set={"kon": "kon_mutant"}),
        "second": Experiment(
            data("inside", given={"scale": ["s1", 2.0, "s1", "s1 * 2", 1.5] * 2}),
            qsp.bolus(9.0, to="target", at=2.0),
            put={"inside": "s1"},
            changes=[Change(2.0, set={"koff": 0.5}, put={"drug": "drug / 2"}), Change(2.5, set={"kon": "kon"})],
        ),
        "third": Experiment(data("log"), equilibrated=Change(0.0, set={"koff": 1.0, "back": 0.3}), start=-0.5),
    }
    outputs = {
        "drug": Output("drug", Combined("a", "b")),
        "total": Output(
            "offset + total", Additive("sqrt(a^2 + 0.01 * prediction^2)", distribution=DoubleExponential())
        ),
        "inside": Output("scale * inside", Proportional("b")),
        "log": Output("log(3, 1 + complex) + root(3, 1 + inside) + `pi`", LogNormalError("a", base=10.0)),
    }
    parameters = {
        "kon": Free(0.2, bounds=(1e-3, 10.0), prior=qsp.LogNormal(0.1, omega=0.5)),
        "kon_mutant": Free(0.05, prior=qsp.Truncated(qsp.Normal(0.05, sd=0.1), 0.0, 1.0)),
        "loss.k": Free(0.4, bounds=(0.01, 5.0), prior=qsp.Uniform(0.01, 5.0)),
        "drug": Free(25.0),
        "target": 6.0,
        "plasma": Free(2.5),
        "s1": Free(1.2),
        "offset": Free(0.1, bounds=(-1.0, 1.0)),
        "a": Free(0.5),
        "b": 0.3,
        "unused": 7.0,
    }
    parts = {"model": network(), "experiments": experiments, "outputs": outputs, "parameters": parameters} | changed
    method = qsp.solve.Rosenbrock(rtol=1e-8, atol=1e-12)
    return Problem(*(parts[name] for name in ("model", "experiments", "outputs", "parameters")), method=method)


def test_a_problem_comes_back(tmp_path):
    before = problem()
    path = write_petab(before, tmp_path / "problem")
    assert lint(path) == ()
    after = read_petab(path)
    names = {"loss.k": "loss_k", "drug": "drug_initial", "plasma": "plasma_size"}
    assert after.names == tuple(names.get(name, name) for name in before.names)
    x = before.start
    np.testing.assert_allclose(after.natural(after.start), before.natural(x), rtol=1e-14)
    moved = dict(zip(before.names, np.asarray(before.natural(x)) * 1.1, strict=True))
    both = jax.jit(before.log_likelihood), jax.jit(after.log_likelihood)
    for values in ({}, moved):
        there = {names.get(name, name): value for name, value in values.items()}
        found = both[1](after.point(there))
        np.testing.assert_allclose(found, both[0](before.point(values)), rtol=1e-9)
    for name, one in before.free.items():
        other = after.free[names.get(name, name)]
        assert (other.lower, other.upper) == (one.lower, one.upper) or one.prior is not None
        if one.prior is not None:  # the same but for a constant
            slopes = [jax.grad(each.log_prior)(one.start * 1.2) for each in (one, other)]
            np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-9, atol=1e-12)
    assert after.free["kon_mutant"].upper == 1.0
    assert not any(part.name.startswith(".") for part in tmp_path.iterdir())
    assert write_petab(after, tmp_path / "problem") == path
    (tmp_path / "problem" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="but holds notes.txt"):
        write_petab(after, tmp_path / "problem")


def small(**changed):
    data = Measurements([1.0, 2.0], [8.0, 5.0], output="drug")
    parts = {
        "experiments": Experiment(data),
        "outputs": {"drug": Output("drug", Additive(0.5))},
        "parameters": {"kon": Free(0.1)},
    } | changed
    return Problem(network(), parts["experiments"], parts["outputs"], parts["parameters"])


DATA = Measurements([1.0, 2.0], [8.0, 5.0], output="drug")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"experiments": Experiment(DATA, qsp.infusion(5.0, to="drug", over=1.0))},
         "boluses only to be written as PEtab, but `experiment` has an infusion at 0."),
        ({"experiments": Experiment(DATA, qsp.bolus(1.0, to="drug").every(1.0, doses=3).at_steady_state())},
         "have boluses of known amounts"),
        ({"experiments": Experiment(Measurements([1.0, 2.0], [8.0, 5.0], output="drug", order=[0.0, 1.0]))},
         "have measurements that come after all else of their time"),
        ({"outputs": {"drug": Output("drug", Poisson())}},
         "normal, Laplace or log-normal to be written as PEtab, but that of `drug` is Poisson."),
        ({"outputs": {"drug": Output("drug", Additive(0.5, StudentT()))}}, "but that of `drug` is StudentT."),
        ({"outputs": {"drug": Output("drug", BoxCoxError(0.5, 0.5))}}, "but that of `drug` is BoxCoxError."),
        ({"outputs": {"drug": Output("drug", LogitNormalError(0.5))}}, "but that of `drug` is LogitNormalError."),
        ({"outputs": {"drug": Output("drug", Correlated(Additive(0.5), time=1.0))}}, "of `drug` is Correlated."),
        ({"outputs": {"drug": Output("drug", Additive(0.5), below=M3(6.0))}},
         "have no measurements below or above a limit"),
        ({"outputs": {"drug": Output("ceil(drug)", Additive(0.5))}},
         "have formulas of what PEtab knows to be written as PEtab, but one uses ceil."),
        ({"parameters": {"kon": Free(0.1, prior=qsp.Normal(-1.0, sd=1.0), prior_scaled=True)}},
         "that of `kon` is one of the transformed value."),
        ({"parameters": {"kon": Free(0.1, prior=lambda x: -x)}},
         "have priors that PEtab knows, with numbers of their own"),
    ],
)  # fmt: skip
def test_what_petab_has_no_words_for(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        write_petab(small(**changed), tmp_path / "problem")
    assert not [*tmp_path.iterdir()]


def test_only_problems_of_networks(tmp_path):
    pk = Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        Experiment(Measurements([1.0], [8.0], output="concentration"), qsp.bolus(300.0, to="central")),
        {"concentration": Output("concentration", Additive(0.5))},
        {"CL": Free(3.0)},
    )
    with pytest.raises(
        ValueError, match=r"Argument `problem.model` must be a network \(models.Network\), but is of type"
    ):
        write_petab(pk, tmp_path / "problem")


def test_formulas_of_changes_come_back(tmp_path):
    network = Network(
        species={"drug": 10.0}, parameters={"k": 0.1, "m": 1.0}, reactions={"loss": Reaction("drug ->", "k * m * drug")}
    )
    changes = [
        Change(2.0, set={"k": "k2", "m": 2.0}),
        Change(3.0, set={"m": "m * drug"}),
        Change(5.0, put={"drug": "100 * k2 * m"}),
        Change(5.5, set={"m": "m / 2"}, put={"drug": "drug + k + time"}),
    ]
    one = Experiment(Measurements([4.0, 5.0, 6.0], [8.0, 5.0, 3.0], output="o"), changes=changes)
    problem = Problem(network, one, {"o": Output("drug", Additive(1.0))}, {"k": Free(0.1), "k2": Free(0.2)})
    found = problem.table(problem.start)["prediction"]
    at3 = 10.0 * np.exp(-0.2 - 0.4)
    m = 2.0 * at3
    put = (20.0 * m * np.exp(-0.1 * m) + 0.1 + 5.5) * np.exp(-0.05 * m)
    np.testing.assert_allclose(found, [at3 * np.exp(-0.2 * m), 20.0 * m, put], rtol=1e-6)
    again = read_petab(write_petab(problem, tmp_path / "petab"))
    np.testing.assert_allclose(again.table(again.point({"k": 0.1, "k2": 0.2}))["prediction"], found, rtol=1e-6)
    later = [Change(2.0, put={"drug": 2.0}), Change(2.0, put={"drug": "drug * m"})]
    both = Problem(
        network,
        Experiment(one.measurements, changes=later),
        {"o": Output("drug", Additive(1.0))},
        {"k": Free(0.1)},
    )
    with pytest.raises(ValueError, match="no change of observed values after another one at the same time"):
        write_petab(both, tmp_path / "both")

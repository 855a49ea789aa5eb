"""A learned function becomes a formula of the network, out as SBML, and is fitted to the data in its place."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.discover import Form, Library, confirm, distil, into, visited
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, Weights, estimate
from qspjax.models import AbstractTerm, Network, Reaction

FORMS = (Form("x", name="linear"), Form("x / (Km + x)", {"Km": 1}, coefficient="Vmax", name="Michaelis-Menten"))
TIMES = np.array([0.5, 1.0, 2.0, 4.0, 6.0, 9.0, 12.0, 16.0])


class Saturation(AbstractTerm):
    """What stands for a network here: a function with two weights."""

    most: jax.Array
    half: jax.Array
    inputs: int = eqx.field(static=True, default=1)

    def __call__(self, *inputs):
        return self.most * jnp.tanh(inputs[0] / self.half)


def hybrid():
    return Network(
        species={"depot": 0.0, "drug": 0.0},
        parameters={"ka": 1.0, "Km": 3.0},
        reactions={
            "absorption": Reaction("depot -> drug", "ka * depot"),
            "loss": Reaction("drug ->", "uptake(drug) + 0 * Km"),
        },
        functions={"uptake": Saturation(jnp.array(2.0), jnp.array(10.0))},
    )


@pytest.fixture(scope="module")
def fitted():
    truth = hybrid().replace("loss", rate="2 * drug / (5 + drug)").drop("uptake")
    draw, experiments = np.random.default_rng(0), {}
    for dose in (5.0, 20.0):
        regimen = qsp.bolus(dose, to="depot")
        exact = np.asarray(qsp.simulate(truth, regimen, TIMES).observed["drug"])
        data = Measurements(TIMES, exact * (1.0 + 0.02 * draw.normal(size=exact.size)), output="drug")
        experiments[f"dose {dose:g}"] = Experiment(data, regimen)
    parameters = {"ka": Free(0.8), "uptake": Weights()}
    problem = Problem(hybrid(), experiments, {"drug": Output("drug", Additive(0.1))}, parameters)
    return estimate(problem)


def test_from_a_trained_function_to_a_formula_that_fits(fitted, tmp_path):
    support = visited(fitted.problem, fitted.x, ["drug"])
    term = fitted.problem.fitted_model(jnp.asarray(fitted.x)).functions["uptake"]
    found = distil(term, support, library=Library(FORMS, terms=1))
    assert str(found.best.expression) == "Vmax * drug / (Km + drug)"
    confirmed = confirm(found, fitted, "uptake", most=2)
    assert confirmed.candidates[0] == found.best
    assert {*confirmed.fits[0].parameters} == {"ka", "Vmax", "uptake_Km"}  # the network has a Km already
    assert confirmed.fits[0].parameters["uptake_Km"] == pytest.approx(5.0, rel=0.3)
    assert confirmed.fits[0].log_density > fitted.log_density
    assert confirmed.table()["evidence"][1] > 100.0
    assert "evidence ratio" in str(confirmed)
    qsp.io.write_sbml(confirmed.network, tmp_path / "found.xml")
    again = qsp.io.read_sbml(tmp_path / "found.xml")
    old, new = (
        qsp.simulate(one, qsp.bolus(10.0, to="depot"), TIMES).observed["drug"] for one in (confirmed.network, again)
    )
    np.testing.assert_allclose(new, old, rtol=1e-5)


def test_the_formula_takes_the_arguments_of_each_call():
    found = distil(lambda c: 2.0 * c / (5.0 + c), {"c": np.linspace(0.1, 20.0, 30)}, library=Library(FORMS, terms=1))
    network = into(found, hybrid().replace("loss", rate="2 * uptake(drug + depot)"), "uptake")
    assert network.equations().rates[1] == "loss = 2 * (Vmax * (drug + depot) / (uptake_Km + (drug + depot)))"
    assert not network.functions
    with pytest.raises(ValueError, match="Argument `function` must name a learned function of the network"):
        into(found, hybrid(), "growth")
    with pytest.raises(ValueError, match=r"Argument `candidate` must be the number of a candidate"):
        into(found, hybrid(), "uptake", candidate=99)
    two = distil(lambda c, r: c * r, {"c": (0.0, 1.0), "r": (1.0, 2.0)}, library=Library(FORMS, terms=1))
    with pytest.raises(ValueError, match=r"Argument `function` must have the inputs of the formula \(c, r\)"):
        into(two, hybrid(), "uptake")

"""Fingerprints: the same for the same model, another one for every change that the result depends on."""

import functools
import inspect

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax._fingerprint import fingerprint
from qspjax.fit import (
    FO,
    FOCEI,
    M3,
    Additive,
    Change,
    Combined,
    Experiment,
    Free,
    Measurements,
    MixedModel,
    Output,
    RandomEffects,
)


class Decay(qsp.AbstractModel):
    """A drug that decays."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="Its rate.", above=None)

    def initial(self):
        return {"drug": 0.0}

    def vector_field(self, t, y):
        return {"drug": -self.k * y["drug"]}

    def observe(self, t, y):
        return {"drug": y["drug"]}


def made(**changed):
    """Return a small problem, with something changed."""
    of = {
        "model": Decay(k=0.1),
        "data": ([1.0, 3.0], [9.0, 7.0]),
        "dose": 10.0,
        "weight": 70.0,
        "changes": [],
        "error": Additive("sigma"),
        "below": None,
        "free": Free(0.1, bounds=(0.01, 1.0), prior=qsp.LogNormal(0.1, cv=0.5)),
        "power": 0.75,
        "formula": "rate * exp(eta) * (WT / 70)^power",
        "random": RandomEffects({"eta": 0.1}),
        "method": None,
    } | changed
    data = Measurements(*of["data"], output="drug")
    dose = qsp.bolus(of["dose"], to="drug")
    return MixedModel(
        of["model"],
        {"one": Experiment(data, dose, set={"WT": of["weight"]}, changes=of["changes"])},
        {"drug": Output("drug", of["error"], below=of["below"])},
        parameters={"rate": of["free"], "sigma": Free(0.1), "power": of["power"]},
        individual={"k": of["formula"]},
        random=[of["random"]],
        method=of["method"],
    )


CHANGES = {
    "number of the model": {"model": Decay(k=0.2)},
    "class of the model": {
        "model": type("Decay", (Decay,), {"observe": lambda self, t, y: {"drug": 2 * y["drug"]}})(0.1)
    },
    "measurement": {"data": ([1.0, 3.0], [9.0, 7.1])},
    "time": {"data": ([1.0, 4.0], [9.0, 7.0])},
    "dose": {"dose": 11.0},
    "covariate": {"weight": 71.0},
    "change of a covariate": {"changes": [Change(2.0, set={"WT": 80.0})]},
    "error model": {"error": Combined("sigma", 0.1)},
    "formula of an error": {"error": Additive("2 * sigma")},
    "limit": {"below": M3(0.1)},
    "start": {"free": Free(0.2, bounds=(0.01, 1.0), prior=qsp.LogNormal(0.1, cv=0.5))},
    "bound": {"free": Free(0.1, bounds=(0.01, 2.0), prior=qsp.LogNormal(0.1, cv=0.5))},
    "prior": {"free": Free(0.1, bounds=(0.01, 1.0), prior=qsp.LogNormal(0.1, cv=0.6))},
    "prior as a function": {"free": Free(0.1, bounds=(0.01, 1.0), prior=lambda value: -value)},
    "fixed number": {"power": 1.0},
    "formula": {"formula": "rate * exp(eta) * (WT / 80)^power"},
    "variance": {"random": RandomEffects({"eta": 0.2})},
    "fixed variance": {"random": RandomEffects({"eta": 0.1}, fixed=True)},
    "tolerance": {"method": qsp.solve.Rosenbrock(rtol=1e-7)},
}


def test_every_change_is_seen():
    same = [fingerprint(made().content()) for _ in range(2)]
    assert same[0] == same[1]
    marks = {name: fingerprint(made(**changed).content()) for name, changed in CHANGES.items()}
    assert len({same[0], *marks.values()}) == 1 + len(CHANGES)
    assert fingerprint(FO()) != fingerprint(FOCEI())


def scaled(factor):
    return lambda x: factor * x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (scaled(2.0), scaled(3.0)),
        (functools.partial(pow, 2), functools.partial(pow, 3)),
        ({"a", "b"}, {"a", "c"}),
        (np.zeros(2), np.zeros((1, 2))),
        (qsp.solve, qsp.population),
        ([1, [2]], [1, 2]),
        (0.0, -0.0),
    ],
)
def test_values_are_told_apart(one, other):
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


FACTOR = 2.0


def helped(x):
    return FACTOR * x


def helper(x):
    return helped(x)


def test_numbers_and_functions_of_the_module_belong_to_a_function(monkeypatch):
    before = fingerprint(helper)
    monkeypatch.setattr(f"{__name__}.FACTOR", 3.0)
    assert fingerprint(helper) != before


def test_a_model_is_the_same_in_another_file():
    source = inspect.getsource(Decay)
    spaces = [{"jax": jax, "qsp": qsp, "__name__": name} for name in ("__main__", "models")]
    for space in spaces:
        exec(source, space)
    one, other = (fingerprint(space["Decay"](k=0.1)) for space in spaces)
    assert one == other
    exec(source.replace("-self.k", "-2 * self.k"), spaces[1])
    assert fingerprint(spaces[1]["Decay"](k=0.1)) != one


def test_use_changes_nothing():
    def network():
        reactions = {"J": qsp.models.Reaction("S -> P", "k * S")}
        return qsp.models.Network(
            compartments={"cell": 1.0}, species={"S": 10.0, "P": 0.0}, parameters={"k": 0.1}, reactions=reactions
        )

    model = network()
    before = fingerprint(model)
    qsp.simulate(model, qsp.no_doses(), [1.0])
    assert fingerprint(model) == before == fingerprint(network())


def test_what_holds_itself():
    class Ring:
        pass

    ring = Ring()
    ring.next = ring
    assert fingerprint(ring) == fingerprint(ring)
    assert fingerprint(scaled(2.0)) == fingerprint(scaled(2.0))

"""Error models in fit files."""

import pytest

from qspjax.fit import AbstractErrorModel
from qspjax.io.fit._parts import ERRORS, read_output
from qspjax.io.toml._table import Table

READ = {
    "additive": ({"error": "additive", "sd": "sigma"}, {"sigma"}),
    "log10-normal": ({"error": "lognormal", "sd": 0.1, "base": 10.0}, set()),
    "boxcox": ({"error": "boxcox", "sd": "sigma", "shape": "lambda"}, {"sigma", "lambda"}),
    "logitnormal": ({"error": "logitnormal", "sd": "sigma", "upper": 100.0}, {"sigma"}),
    "poisson": ({"error": "poisson"}, set()),
    "correlated": (
        {"error": "proportional", "cv": "cv", "correlated": {"time": "tau", "between": {"parent": "rho"}}},
        {"cv", "tau", "rho"},
    ),
}


def read(values):
    issues = []
    return read_output(Table(values, ("outputs", "c"), issues), "c"), issues


@pytest.mark.parametrize("name", READ)
def test_each_is_read_by_its_word_and_its_fields(name):
    values, names = READ[name]
    output, issues = read(values)
    assert issues == []
    assert output.names() == {"c", *names}
    kind = type(output.error.error if name == "correlated" else output.error)
    assert kind is ERRORS[values["error"]]
    assert issubclass(kind, AbstractErrorModel)


@pytest.mark.parametrize(
    ("values", "place", "said"),
    [
        ({"error": "boxcox", "sd": 0.1}, ("shape",), "must be given, but is missing."),
        ({"error": "logitnormal", "sd": 0.1, "lower": 2.0}, (), "must be greater than lower (2), but is 1"),
        ({"error": "additive", "sd": 0.0}, ("sd",), "must be positive, but is 0."),
        ({"error": "additive", "sd": 0.1, "shape": 1.0}, ("shape",), "must be a key that is known here"),
        ({"error": "additive", "sd": 0.1, "correlated": {"tau": 1.0}}, ("correlated", "tau"), "must be a key that is"),
        ({"error": "poisson", "correlated": {"time": 1.0}}, ("correlated",), "must be an error model with a location"),
        ({"error": "box-cox"}, ("error",), "must be an error model (additive, binary, boxcox, combined, logitnormal,"),
    ],
)
def test_what_is_wrong_with_one(values, place, said):
    output, issues = read(values)
    assert output is None
    assert issues[0][0] == ("outputs", "c", *place)
    assert said in issues[0][1]

"""Units that are misspelt are named when they are declared; what is counted, and units in brackets, are known."""

import typing
import warnings

import equinox as eqx
import pytest

import qspjax as qsp
from qspjax._unit_words import unknown_words
from qspjax._units import check_unit, convert
from qspjax.models import Network, Parameter, Species


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("mgg/L", "`unit` must be a known unit, but `mgg` in `mgg/L` is not known. Did you mean `mg/L`?"),
        ("MG", "but `MG` is not known. Did you mean `mg`?"),
        ("1/Day", "but `Day` in `1/Day` is not known. Did you mean `1/day`?"),
        ("celll/mL", "Did you mean `cell/mL`?"),
        (
            "furlong/h",
            "`furlong` in `furlong/h` is not known. A unit of your own is written in brackets: `[furlong]`.",
        ),
    ],
)
def test_a_misspelt_unit_of_a_parameter_warns_where_it_stands(unit, message):
    with pytest.warns(UserWarning, match="must be a known unit") as found:

        class Part(eqx.Module):
            k: float = qsp.parameter(unit=unit, doc="rate")

    assert [warning.filename for warning in found] == [__file__]
    assert message in str(found[0].message)


@pytest.mark.parametrize(
    "unit",
    ["", "%", "L/h/kg", "[effect]", "1/[time]/[response]", "10^6 cells/mL", "1e9/L", "subject", "patients", "event"]
    + [
        "copies/mL",
        "molecules",
        "mIU/mL",
        "µg/mL",
        "ug*h/mL",
        "mg/m2",
        "kDa",
        "mmHg",
        "mEq/L",
        "percent",
        "wk",
        "nM^-1",
    ],
)
def test_units_of_the_field_are_known(unit):
    assert unknown_words(unit) == []


def test_other_places_that_have_units():
    class Own(qsp.models.OneCompartment):
        units: typing.ClassVar = qsp.Units(time="hh", dose="mg", observed={"concentration": "[level]"})

    with pytest.warns(UserWarning, match="`time` must be a known unit, but `hh` is not known") as found:
        Own(CL=1.0, V=2.0)
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Own(CL=3.0, V=2.0)
    with pytest.warns(UserWarning, match="must be a known unit") as found:
        network = Network(species={"A": Species(1.0, unit="nmoll")}, parameters={"k": Parameter(1.0, unit="1/[time]")})
    assert [str(warning.message) for warning in found] == [
        "Argument `A` must be a known unit, but `nmoll` is not known. Did you mean `nmol`?"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert qsp.at(network, "k").set(2.0).units.of_state("A") == "nmoll"


def test_squares_counts_and_units_of_ones_own_are_converted():
    pytest.importorskip("pint")
    for text, unit, value in (
        ("1 cm2", "m2", 1e-4),
        ("2 mm2", "m^2", 2e-6),
        ("1 km2", "m2", 1e6),
        ("5 cm3", "mL", 5.0),
    ):
        assert convert(text, to=unit) == pytest.approx(value, rel=1e-12)
    for text, unit, value in (("3 cells/uL", "cell/mL", 3000.0), ("2 wk", "d", 14.0), ("3 mEq/L", "Eq/L", 3e-3)):
        assert convert(text, to=unit) == pytest.approx(value, rel=1e-12)
    check_unit("[effect]/h")
    with pytest.raises(ValueError, match=r'must be in \[effect\] or a unit of the same dimension, but is "5 mg"'):
        convert("5 mg", to="[effect]")
    with pytest.raises(ValueError, match=r'must have a known unit, but is "5 mgg". Did you mean `mg`\?'):
        convert("5 mgg", to="mg")
    with pytest.raises(ValueError, match="must be in mg"):
        convert("5 cells", to="mg")

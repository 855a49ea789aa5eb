"""Parameters by dotted name: listed, read, replaced with conversion and checks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import qspjax as qsp


class Rates(qsp.AbstractModel):
    k: jax.Array = qsp.parameter(unit="1/h", doc="rates")
    organ: qsp.models.OneCompartment

    def initial(self):
        return {"b": jnp.zeros(2), "a": 0.0}

    def vector_field(self, t, y):
        return y

    def observe(self, t, y):
        return {}


class Organ(eqx.Module):
    V: jax.Array = qsp.parameter(unit="L", doc="volume")


class Plain(Rates):
    k: jax.Array = eqx.field(default=None)
    organ: Organ = eqx.field(default=None)
    CL: float = 1.0


@pytest.fixture
def model():
    return Rates(k=[1, 2], organ=qsp.models.OneCompartment(CL=3, V=30))


def test_names_units_and_meaning(model):
    listed = qsp.names(model)
    assert [name.name for name in listed] == ["k", "organ.CL", "organ.V"]
    assert [name.unit for name in listed] == ["1/h", "L/h", "L"]
    assert listed[0].doc == "rates"


def test_values_are_strong_floats(model):
    for leaf in jax.tree.leaves(model):
        assert leaf.dtype == jnp.float64
        assert not leaf.aval.weak_type


def test_read_and_replace(model):
    assert float(qsp.at(model, "organ.CL").get()) == 3.0
    changed = qsp.at(model, "organ.CL").set(6)
    assert changed.organ.CL.dtype == jnp.float64
    assert (float(changed.organ.CL), float(model.organ.CL)) == (6.0, 3.0)
    assert qsp.at(model, "k[1]").set(9.0).k.tolist() == [1.0, 9.0]
    assert float(qsp.at(model, "k[1]").get()) == 2.0


def test_replacing_checks_again(model):
    with pytest.raises(ValueError, match="Argument `V` must be positive, but is -1."):
        qsp.at(model, "organ.V").set(-1.0)


@pytest.mark.parametrize("name", ["CL", "organ", "k[2]", "organ.V[0]x", ""])
def test_unknown_name(model, name):
    with pytest.raises(
        ValueError, match=r"Argument `name` must name a parameter of the model \(k, organ.CL, organ.V\)"
    ):
        qsp.at(model, name)


def test_nested_parameters_are_checked():
    with pytest.raises(ValueError, match="Argument `organ.V` must be positive, but is -30."):
        Rates(k=[1.0], organ=Organ(V=-30.0))


def test_plain_fields_are_refused():
    with pytest.raises(ValueError, match="Argument `CL` must be declared with `parameter"):
        Plain(CL=3.0)


def test_prints_values_and_units():
    lines = str(qsp.models.OneCompartment(CL=3, V=30)).splitlines()
    assert [line.split() for line in lines] == [
        ["OneCompartment", "value", "unit"],
        ["CL", "3", "L/h", "clearance"],
        ["V", "30", "L", "volume", "of", "distribution"],
    ]


def test_replacing_works_under_transformations(model):
    assert jax.grad(lambda v: qsp.at(model, "organ.CL").set(v).organ.CL ** 2)(3.0) == 6.0
    batch = jax.vmap(lambda v: qsp.at(model, "organ.CL").set(v))(jnp.ones(4))
    assert batch.organ.CL.shape == (4,)


def test_a_model_can_be_built_inside_jit_and_is_not_checked_there():
    built = eqx.filter_jit(lambda v: qsp.models.OneCompartment(CL=v, V=30.0))(-1.0)
    assert float(built.CL) == -1.0


def test_cohort_of_values():
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [10.0, 20.0]}, covariates={"WT": [1, 2]})
    assert (cohort.size, cohort.varying) == (2, ("V",))
    assert float(cohort.patient(1).V) == 20.0
    assert cohort.take([1, 1, 0]).model.V.tolist() == [20.0, 20.0, 10.0]
    assert cohort.take([1]).covariates["WT"].tolist() == [2]


@pytest.mark.parametrize("some", [[True, False, True], slice(0, 3, 2), jnp.array([0, 2]), [0, -1]])
def test_some_of_a_cohort(some):
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [10.0, 20.0, 30.0]}).take(some)
    assert (cohort.size, cohort.model.V.tolist()) == (2, [10.0, 30.0])


def test_a_cohort_is_indexed_under_transformations():
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [10.0, 20.0]})
    assert float(jax.jit(lambda i: cohort.patient(i).V)(1)) == 20.0
    assert jax.jit(lambda i: cohort.take(i).model.V)(jnp.array([1])).tolist() == [20.0]


def test_a_cohort_of_a_series():
    series = pytest.importorskip("pandas").Series([10.0, 20.0], index=[7, 8])
    cohort = qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": series}, covariates={"V": [1.0, 2.0]})
    assert (cohort.model.V.tolist(), cohort.covariates["V"].tolist()) == ([10.0, 20.0], [1.0, 2.0])


PLACES = "Argument `indices` must be numbers of patients (0 to 1) or a mask of 2, but"
INDEX_ERRORS = {
    "patient": (lambda c: c.patient(99), "Argument `i` must be the number of a patient (0 to 1), but is 99."),
    "numbers": (lambda c: c.take([0, 99]), f"{PLACES}: index 99 is out of bounds"),
    "mask": (lambda c: c.take([True]), f"{PLACES}: boolean index did not match"),
    "nobody": (lambda c: c.take([False, False]), f"{PLACES} is an empty selection."),
}


@pytest.mark.parametrize("case", INDEX_ERRORS)
def test_cohort_index_errors(case):
    call, message = INDEX_ERRORS[case]
    with pytest.raises(ValueError) as error:
        call(qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), {"V": [10.0, 20.0]}))
    assert str(error.value).startswith(message)


def test_a_cohort_varies_whole_arrays_of_a_model(model):
    assert qsp.Cohort.of(model, {"k": [[1, 2], [3, 4]]}).patient(1).k.tolist() == [3.0, 4.0]
    with pytest.raises(
        ValueError, match=r"Argument `k\[0\]` must vary as a whole array \(`k`\), but is a single element\."
    ):
        qsp.Cohort.of(model, {"k[0]": [1.0, 2.0]})
    with pytest.raises(ValueError, match="Argument `model` must be a model, but is of type float"):
        qsp.Cohort.of(3.0, {})


COHORT_ERRORS = {
    "scalar": ({"CL": 1.0}, "Argument `CL` must have one element per patient (1), but is of shape ()."),
    "nobody": ({"CL": []}, "Argument `size` must be at least 1, but there are no patients."),
    "text": ({"CL": ["a"]}, "Argument `CL` must hold numbers, but is a list with the text `a`."),
    "name": ({"Vd": [1.0]}, "Argument `name` must name a parameter of the model (CL, V), but is `Vd`."),
    "size": (
        {"CL": [1.0, 2.0], "V": [1.0]},
        "Argument `V` must have one element per patient (2), but is of shape (1,).",
    ),
    "value": ({"V": [1.0, -2.0]}, "Argument `V` must be positive, but is -2."),
}


@pytest.mark.parametrize("case", COHORT_ERRORS)
def test_cohort_errors(case):
    values, message = COHORT_ERRORS[case]
    with pytest.raises(ValueError) as error:
        qsp.Cohort.of(qsp.models.OneCompartment(CL=3.0, V=30.0), values)
    assert str(error.value) == message

"""Names of before still answer, and say what they are called now."""

import warnings

import pytest

import qspjax as qsp
from qspjax import fit

RENAMED = {
    "AbstractTails": "AbstractResidualDistribution",
    "Laplacian": "Laplace",
    "Mixed": "MixedModel",
    "Random": "RandomEffects",
}


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_of_fit_is_the_new_one_with_a_warning(old):
    with pytest.warns(DeprecationWarning, match=rf"`qspjax.fit.{old}` is now `qspjax.fit.{RENAMED[old]}`") as found:
        assert getattr(fit, old) is getattr(fit, RENAMED[old])
    assert [warning.filename for warning in found] == [__file__]


def test_an_old_name_that_is_imported_warns_once_and_where_it_stands():
    with pytest.warns(DeprecationWarning, match="`qspjax.fit.Mixed` is now `qspjax.fit.MixedModel`") as found:
        from qspjax.fit import Mixed
    assert Mixed is fit.MixedModel
    assert [warning.filename for warning in found] == [__file__]


def test_other_names_are_missing_as_ever():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hasattr(fit, "__path_of_nothing__")
        with pytest.raises(AttributeError, match=r"'qspjax.fit' has no attribute 'MixdModel'. Did you mean `MixedMo"):
            fit.MixdModel  # noqa: B018
        with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
            from qspjax.fit import Nothing  # noqa: F401


def test_methods_that_are_functions_now():
    data = qsp.io.NonmemData.of(qsp.bolus(100.0, to=1), [2.0, 8.0], observed=[3.5, 2.0])
    with pytest.warns(DeprecationWarning, match=r"experiments\(...\)` is now `io.experiments\(data, ...\)`"):
        subjects = data.experiments("c")
    assert subjects["1"].measurements.rows == 2
    outputs = {"c": fit.Output("concentration", fit.Additive("sd"))}
    model, free = qsp.models.OneCompartment(CL=1.0, V=30.0), {"CL": fit.Free(1.0), "sd": fit.Free(1.0)}
    problem = fit.Problem(model, subjects, outputs, free)
    with pytest.warns(DeprecationWarning, match=r"is now `analytic.solving\(problem\)`"):
        assert problem.solving(fit.Analytic()).solver is not None


def test_an_attribute_of_another_name():
    regimen = qsp.bolus(100.0, to=1)
    with pytest.warns(DeprecationWarning, match="`Regimen.extent` is now `Regimen.static_shape`"):
        assert regimen.extent is regimen.static_shape

"""Gradients by the adjoint and by forward sensitivities: equal, chosen by what they cost, and explained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import (
    LBFGS,
    Additive,
    Adjoint,
    Analytic,
    Change,
    Experiment,
    ForwardSensitivities,
    Free,
    LogNormalError,
    Measurements,
    MixedModel,
    Output,
    Problem,
    RandomEffects,
    estimate,
)
from qspjax.fit.data._colours import Colours
from qspjax.models import Network, Reaction

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 12.0])
CHAIN = Network(
    species={"A": 10.0, "B": 0.0, "C": 1.0},
    parameters={"k": 1.0, "m": 0.5, "v": 2.0, "K": 1.5},
    reactions={
        "bind": Reaction("A -> B", "k * A"),
        "use": Reaction("B -> C", "v * B / (K + B)"),
        "lose": Reaction("C -> ", "m * C"),
    },
)
WAYS = (Adjoint(), ForwardSensitivities())


def measured(level=1.0):
    return Measurements(TIMES, level * (2.0 + np.sin(TIMES)), output="y")


def chain(**parameters):
    """Three experiments, one with a change: some parameters are all experiments' own, some those of one."""
    experiments = {
        "one": Experiment(measured(), set={"m": "m_one"}),
        "two": Experiment(measured(1.5), qsp.bolus(3.0, to="A"), set={"m": "m_two"}),
        "three": Experiment(measured(0.7), set={"m": 0.4}, changes=[Change(3.0, set={"m": "m_one"}, put={"A": 5.0})]),
    }
    free = {"k": Free(1.1), "m_one": Free(0.6), "m_two": Free(0.3), "s": Free(1.2), "sigma": Free(0.5)}
    outputs = {"y": Output("s * C", LogNormalError("sigma"))}
    return Problem(CHAIN, experiments, outputs, free | parameters)


def by(problem, gradient):
    return dataclasses.replace(problem, gradient=gradient)


def test_both_ways_agree():
    problem = chain(v=Free(2.0, prior=qsp.LogNormal(1.8, cv=0.3)), K=Free(1.5))
    x = problem.start + 0.05
    value, expected = jax.jit(jax.value_and_grad(problem.log_density))(x)
    for way in WAYS:
        found, gradient = jax.jit(by(problem, way).value_and_gradient)(x)
        np.testing.assert_allclose(found, value, rtol=1e-12)
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_both_ways_agree_where_parameters_are_solved_for():
    outputs = {"y": Output("s * C", Additive("sigma"))}
    problem = Problem(CHAIN, Experiment(measured()), outputs, {"k": Free(1.1), "s": Free(1.2), "sigma": Free(0.5)})
    solved = Analytic().solving(problem)
    assert dataclasses.replace(solved, gradient=Adjoint()).solver is solved.solver
    adjoint, forward = (by(solved, way).sloped(problem.start) for way in WAYS)
    for one, other in zip(adjoint, forward, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_a_failing_start_leaves_the_others_alone(way):
    growing = Network(species={"A": 1.0}, parameters={"k": 1.0}, rates={"A": "k * A * A"})
    data = Measurements([0.5, 1.0], [1.2, 2.1], output="y")
    problem = by(Problem(growing, Experiment(data), {"y": Output("A", Additive(0.1))}, {"k": Free(0.4)}), way)
    starts = jnp.asarray([problem.point({"k": k}) for k in (0.4, 5.0, 0.5)])  # the second is infinite at 0.2
    values, gradients = jax.jit(jax.vmap(problem.value_and_gradient))(starts)
    assert np.isneginf(values[1])
    assert np.asarray(gradients[1]).tolist() == [0.0]
    for k in (0, 2):
        value, gradient = jax.value_and_grad(problem.log_density)(starts[k])
        np.testing.assert_allclose(values[k], value, rtol=1e-9)
        np.testing.assert_allclose(gradients[k], gradient, rtol=1e-9)


def test_an_evaluation_costs_what_was_chosen():
    many, few = chain(v=Free(2.0), K=Free(1.5)), chain(k=1.0)
    assert isinstance(many.differentiated_by, Adjoint)
    assert isinstance(few.differentiated_by, ForwardSensitivities)  # `m_one` and `m_two` share a direction
    assert by(few, Adjoint()).differentiated_by == Adjoint()
    assert many.costs.directions > few.costs.directions


def test_directions_do_not_count_parameters_of_other_experiments():
    experiments = {f"e{i}": Experiment(measured(), set={"k": f"k{i}"}) for i in range(6)}
    free = {f"k{i}": Free(1.0 + 0.1 * i) for i in range(6)}
    problem = Problem(CHAIN, experiments, {"y": Output("C", Additive(0.5))}, free)
    assert problem.costs.directions == 1
    assert isinstance(problem.differentiated_by, ForwardSensitivities)
    adjoint, forward = (by(problem, way).value_and_gradient(problem.start)[1] for way in WAYS)
    np.testing.assert_allclose(adjoint, forward, rtol=1e-9)


def test_what_belongs_to_the_number_of_a_group():
    uses = np.array([[True, True, False], [True, False, True]])
    colours = Colours.of(uses, np.ones(3, bool))
    values = jnp.asarray([10.0, 20.0, 30.0])
    assert {tuple(row) for row in np.asarray(colours.responsible(values)).T} == {(10.0, 10.0), (20.0, 30.0)}
    assert colours.responsible(jnp.ones((3, 4))).shape == (2, 2, 4)


def test_searches_find_the_same_in_both_ways():
    outputs = {"y": Output("C", Additive(0.5))}
    bounds = {name: Free(value, bounds=(0.01, 10.0)) for name, value in {"k": 1.0, "m": 0.5}.items()}
    problem = Problem(CHAIN, Experiment(measured()), outputs, bounds)
    adjoint, forward = (estimate(by(problem, way), method=LBFGS()).log_density for way in WAYS)
    np.testing.assert_allclose(adjoint, forward, rtol=1e-8)


def test_a_problem_is_explained():
    text = str(qsp.explain(chain(v=Free(2.0), K=Free(1.5))))
    assert text.startswith("3 experiments, side by side, in 2 stages one after the other: Rodas5P at rtol 1e-06")
    assert "3 states: native code." in text
    assert "Gradient: by the adjoint, about" in text
    assert "along 4 directions" in text
    explained = qsp.explain(by(chain(k=1.0), Adjoint()))
    assert "as was chosen" in str(explained)
    assert explained.simulations.native
    assert explained.chosen
    outputs = {"y": Output("s * C", Additive(0.5))}
    assert "No simulation depends on what is estimated" in str(
        qsp.explain(Problem(CHAIN, Experiment(measured()), outputs, {"s": Free(1.0)}))
    )


def test_the_reason_for_xla_is_explained(monkeypatch):
    monkeypatch.setenv("QSPJAX_BACKEND", "xla")
    assert "QSPJAX_BACKEND is xla" in str(qsp.explain(chain()))


def mixed():
    subjects = {name: Experiment(measured(), qsp.bolus(1.0, to="A")) for name in ("anna", "otto")}
    return MixedModel(
        CHAIN,
        subjects,
        {"y": Output("C", Additive(0.2))},
        parameters={"tk": Free(1.0), "m": Free(0.5)},
        individual={"k": "tk * exp(eta)"},
        random=[RandomEffects({"eta": 0.1})],
    )


def test_a_mixed_effects_model_is_explained():
    explained = qsp.explain(mixed())
    assert (explained.subjects, explained.numbers, explained.effects) == (2, 2, 1)
    assert "2 subjects, side by side: Rodas5P" in str(explained)
    assert "along 2 numbers of each subject" in str(explained)


def test_nothing_else_is_said_about_a_problem():
    with pytest.raises(ValueError, match="Argument `method` must not be given with a problem"):
        qsp.explain(chain(), method=qsp.solve.Rosenbrock())
    with pytest.raises(ValueError, match="Argument `subject` must be a model or a problem, but is of type Cohort"):
        qsp.explain(qsp.Cohort.of(CHAIN, {}, size=2))


def test_a_way_is_an_object():
    with pytest.raises(ValueError, match="Argument `gradient` must be a way such as Adjoint"):
        dataclasses.replace(chain(), gradient="adjoint")

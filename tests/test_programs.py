"""How many programs are compiled: few for a first result, and none for other numbers."""

import contextlib
import gc

import jax
import numpy as np

import qspjax as qsp
from qspjax._collection import seldom_collected
from qspjax.fit.search._search import quickly_compiled


@contextlib.contextmanager
def compiled():
    """Count the programs that are compiled meanwhile."""
    counts = []

    def listen(event, _, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            counts.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def first_result(CL, regimen, ts):
    patient = qsp.models.OneCompartmentOral(CL=CL, V=30.0, ka=1.2)
    return np.asarray(qsp.simulate(patient, regimen, ts).observed["concentration"])


def test_a_first_result_takes_few_programs_and_other_numbers_take_none():
    jax.clear_caches()
    with compiled() as counts:
        first_result(3.0, qsp.bolus(200.0, to="depot").every(24.0, doses=3), [0.0, 2.0, 24.0])
    assert len(counts) <= 8
    with compiled() as counts:
        later = qsp.bolus(100.0, to="depot", at=2.0).every(12.0, doses=2) + qsp.bolus(50.0, to="depot")
        first_result(4.0, later, [1.0, 5.0, 48.0])
        first_result(2.0, qsp.bolus(100.0, to=1), np.array([1.0, 3.0, 7.0]))
    assert len(counts) == 0


def test_other_numbers_of_a_fit_take_no_program():
    power = quickly_compiled(lambda x, n: x**n)
    with compiled() as counts:
        results = [float(power(np.array(3.0), n)) for n in (2, 3, 60)]
    assert results == [9.0, 27.0, 3.0**60]
    assert len(counts) == 1


def test_cohorts_of_a_class_of_sizes_take_one_program():
    patient, dose = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2), qsp.bolus(200.0, to="depot")
    values = np.linspace(2.0, 5.0, 100)

    def result(size):
        cohort = qsp.Cohort.of(patient, {"CL": values[:size]})
        solution = qsp.simulate_cohort(cohort, dose, [1.0, 24.0], method=qsp.solve.Explicit())
        return np.asarray(solution.observed["concentration"])

    everyone = result(100)
    _ = result(99)  # what is counted is what is new
    with compiled() as counts:
        for size in (98, 80, 65):
            assert result(size).tobytes() == everyone[:size].tobytes()
    assert len(counts) == 0


def test_what_depends_on_the_structure_alone_is_looked_up():
    linear, effect = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.models.Emax(E0=1.0, Emax=2.0, EC50=3.0)
    regimen, ts = qsp.bolus(100.0, to="central"), [1.0]
    for CL in (1.0, 2.0):  # the values are those of the model that is asked, not of the one that was remembered
        value = qsp.simulate(qsp.models.OneCompartment(CL=CL, V=30.0), regimen, ts).observed["concentration"]
        np.testing.assert_allclose(value, 100.0 / 30.0 * np.exp(-CL / 30.0), rtol=1e-12)
    coupled = qsp.models.Coupled(linear, effect)
    assert set(qsp.simulate(coupled, regimen, ts).observed) > set(qsp.simulate(linear, regimen, ts).observed)


def test_a_network_with_many_reactions_takes_few_programs():
    names = [f"S{k}" for k in range(60)]
    reactions = {
        f"r{k}": qsp.models.Reaction(f"{a} -> {b}", f"k * {a} * {b}")
        for k, (a, b) in enumerate(zip(names, names[1:], strict=False))
    }
    network = qsp.models.Network(species=dict.fromkeys(names, 1.0), parameters={"k": 0.1}, reactions=reactions)
    with compiled() as counts:
        _ = qsp.simulate(network, qsp.no_doses(), [0.0, 1.0])
    assert len(counts) <= 8


def test_garbage_is_looked_for_as_before_once_a_program_is_compiled():
    usual = gc.get_threshold()
    _ = first_result(3.1, qsp.bolus(20.0, to="depot"), [0.0, 2.0, 24.0, 48.0, 49.0])
    assert gc.get_threshold() == usual
    with seldom_collected():
        during = gc.get_threshold()
        with seldom_collected():
            assert gc.get_threshold() == during
        assert gc.get_threshold() == during != usual
    assert gc.get_threshold() == usual

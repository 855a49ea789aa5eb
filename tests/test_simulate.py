"""simulate and simulate_cohort: transformations, failures, exact stops, what is kept, and errors in words."""

from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp

TS = np.linspace(0.0, 48.0, 13)


class Amount(NamedTuple):
    central: jax.Array


class Growth(qsp.AbstractModel):
    """y' = k y^2 from 1: infinite at t = 1/k; k = 0 stays. The time of its traces is counted."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="rate", above=None)

    def initial(self):
        return Amount(1.0)

    def vector_field(self, t, y):
        TRACES.append(1)
        return Amount(self.k * y.central**2)

    def observe(self, t, y):
        return {"amount": y.central}


TRACES: list[int] = []


class Decay(qsp.AbstractModel):
    """y' = -k y, which has no value after `end`; its logarithm is observed."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="rate")
    end: jax.Array = qsp.parameter(unit="h", doc="when it ends")

    def initial(self):
        return Amount(1.0)

    def vector_field(self, t, y):
        return Amount(-self.k * y.central + 0.0 * jnp.sqrt(self.end - t))

    def observe(self, t, y):
        return {"log": jnp.log(y.central)}


@pytest.fixture(scope="module")
def patient():
    return qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2, tlag=0.3)


@pytest.fixture(scope="module")
def regimen():
    return qsp.bolus(200.0, to="depot").every(12.0, doses=3) + qsp.infusion(50.0, to="central", over=2.0, at=5.0)


@pytest.fixture(scope="module")
def cohort(patient):
    clearances = jnp.exp(jnp.linspace(-1.0, 1.0, 11)) * 3.0
    return qsp.Cohort.of(patient, {"CL": clearances, "ka": jnp.linspace(0.5, 2.0, 11)})


def concentration(model, regimen, ts=TS):
    return qsp.simulate(model, regimen, ts, throw=False).observed["concentration"]


class TestTransformations:
    def test_vmap_is_loop_is_cohort(self, cohort, regimen):
        loop = np.stack([concentration(cohort.patient(i), regimen) for i in range(cohort.size)])
        whole = qsp.simulate_cohort(cohort, regimen, TS).observed["concentration"]
        axes = jax.tree.map(lambda varies: 0 if varies else None, cohort.axes_mask())
        mapped = jax.vmap(lambda model: concentration(model, regimen), in_axes=(axes,))(cohort.model)
        np.testing.assert_allclose(whole, loop, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(mapped, loop, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("size", [1, 4, 11, 16])
    def test_chunked_is_whole(self, cohort, regimen, size):
        whole = qsp.simulate_cohort(cohort, regimen, TS)
        seen = []
        chunked = qsp.execute.Chunked(size, progress=lambda done, chunk: seen.append(done))
        parts = qsp.simulate_cohort(cohort, regimen, TS, executor=chunked)
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            np.testing.assert_array_equal(one, other)
        width = min(size, 11)
        assert seen == [min(n, 11) for n in range(width, 11 + width, width)]

    def test_jit(self, patient, regimen):
        jitted = eqx.filter_jit(concentration)(patient, regimen)
        np.testing.assert_allclose(jitted, concentration(patient, regimen), rtol=1e-12)

    def test_derivatives_agree_in_every_composition(self, cohort, regimen):
        """Forward, reverse, linearised; a map of gradients and the gradient of a map; one against the other."""
        model = cohort.patient(0)

        def one(values):
            changed = qsp.at(qsp.at(model, "CL").set(values[0]), "ka").set(values[1])
            return concentration(changed, regimen).sum()

        values = jnp.stack([cohort.model.CL, cohort.model.ka], axis=1)[:3]
        gradients = jax.jit(jax.vmap(jax.grad(one)))(values)
        np.testing.assert_allclose(jax.vmap(jax.jacfwd(one))(values), gradients, rtol=1e-9)
        np.testing.assert_allclose(jax.grad(lambda v: jax.vmap(one)(v).sum())(values), gradients, rtol=1e-9)
        _, linear = jax.linearize(one, values[0])
        np.testing.assert_allclose(linear(jnp.array([1.0, 0.0])), gradients[0, 0], rtol=1e-9)
        moved = jax.jvp(one, (values[0],), (jnp.array([0.0, 1.0]),))[1]
        np.testing.assert_allclose(moved, gradients[0, 1], rtol=1e-9)

    @pytest.mark.slow
    def test_hessian_is_symmetric_and_both_ways(self, patient, regimen):
        def one(values):
            changed = qsp.at(qsp.at(patient, "CL").set(values[0]), "V").set(values[1])
            return concentration(changed, regimen).sum()

        at = jnp.array([3.0, 30.0])
        hessian = jax.hessian(one)(at)
        np.testing.assert_allclose(hessian, hessian.T, rtol=1e-8)
        np.testing.assert_allclose(hessian, jax.jacfwd(jax.jacfwd(one))(at), rtol=1e-8)

    def test_gradient_of_initial_state(self, patient):
        def total(amount):
            start = type(patient.initial())(depot=0.0, central=amount)
            return qsp.simulate(patient, qsp.no_doses(), [0.0, 10.0], initial=start).observed["concentration"][-1]

        assert jax.grad(total)(100.0) == pytest.approx(np.exp(-1.0) / 30.0, rel=1e-6)

    def test_another_regimen_of_the_same_padded_shape_does_not_retrace(self):
        model = Growth(0.0)
        # one program for regimens without infusions, one for those with
        qsp.simulate(model, qsp.bolus(1.0, to="central"), TS)
        qsp.simulate(model, qsp.infusion(1.0, to="central", rate=0.5), TS)
        before = len(TRACES)
        qsp.simulate(model, qsp.bolus(2.0, to=1, at=3.0).every(7.0, doses=4), TS + 1.0)
        qsp.simulate(Growth(0.001), qsp.infusion(2.0, to="central", over=3.0), TS)
        assert len(TRACES) - before <= 2  # whether the model is linear is asked for, nothing is compiled


class TestFailures:
    def test_failing_patients_change_no_bit_of_the_others(self):
        size, failing = 1000, np.array([0, 3, 500, 999])
        good = np.linspace(0.0, 0.015, size)
        cohort = qsp.Cohort.of(Growth(0.0), {"k": good})
        regimen = qsp.bolus(0.1, to="central").every(12.0, doses=4)
        reference = qsp.simulate_cohort(cohort, regimen, TS)
        assert not reference.failed.any()

        bad = good.copy()
        bad[failing] = [np.nan, 1.0, np.inf, 0.5]
        sick = eqx.tree_at(lambda c: c.model.k, cohort, jnp.asarray(bad))
        solution = qsp.simulate_cohort(sick, regimen, TS)
        assert np.flatnonzero(solution.failed).tolist() == failing.tolist()
        healthy = ~np.asarray(solution.failed)
        for kept in ("observed", "states", "stats"):
            for one, other in zip(
                jax.tree.leaves(getattr(reference, kept)), jax.tree.leaves(getattr(solution, kept)), strict=True
            ):
                assert np.array_equal(np.asarray(one)[healthy], np.asarray(other)[healthy])
        assert "4 of 1000 failed" in str(solution)

        failures = solution.failures()
        assert [failure.patient for failure in failures] == failing.tolist()
        assert {failure.state for failure in failures} == {"central"}
        assert failures[0].time == 0.0
        assert "NaN or infinity" in failures[0].reason
        assert failures[1].time == pytest.approx(1 / 1.1, rel=1e-6)  # 1.1 after the first dose, infinite at 1/1.1
        assert np.isnan(solution.observed["amount"][3, 1:]).all()
        assert np.isfinite(solution.observed["amount"][3, 0])

    def test_a_failed_patient_contributes_a_zero_gradient(self):
        def total(k):
            cohort = qsp.Cohort.of(Growth(0.0), {"k": jnp.zeros(3)})
            cohort = eqx.tree_at(lambda c: c.model.k, cohort, k)
            return jnp.nansum(qsp.simulate_cohort(cohort, qsp.no_doses(), TS).observed["amount"])

        gradient = jax.grad(total)(jnp.array([0.01, 1.0, jnp.nan]))
        alone = (TS / (1 - 0.01 * TS) ** 2).sum()
        np.testing.assert_allclose(gradient, [alone, 0.0, 0.0], rtol=1e-5)

    @pytest.mark.parametrize(
        ("outer", "inner"),
        [
            (jax.jacfwd, jax.jacrev),
            pytest.param(jax.jacrev, jax.jacrev, marks=pytest.mark.slow),
            pytest.param(jax.jacrev, jax.jacfwd, marks=pytest.mark.slow),
        ],
    )
    def test_a_failed_patient_and_second_derivatives(self, outer, inner):
        """The failed patient is out of each."""

        def total(k):
            cohort = qsp.Cohort.of(Decay(k, 10.0), {"end": jnp.array([10.0, 1.5, 10.0])})
            solution = qsp.simulate_cohort(cohort, qsp.no_doses(), jnp.array([0.1, 1.0, 2.0]))
            return jnp.where(solution.failed[:, None], 0.0, solution.observed["log"]).sum()

        np.testing.assert_allclose(jax.jit(outer(inner(total)))(jnp.asarray(0.4)), 0.0, atol=1e-6)
        np.testing.assert_allclose(jax.grad(total)(jnp.asarray(0.4)), -2 * 3.1, rtol=1e-6)

    def test_padded_times_and_a_singular_observable(self):
        """log(0) at the initial state, observed for padding, must not reach the derivative."""

        def total(k, ts):
            start = Amount(0.0)
            dosed = qsp.simulate(Decay(k, 99.0), qsp.bolus(5.0, to="central"), ts, initial=start, throw=False)
            return jnp.where(jnp.isfinite(ts), dosed.observed["log"], 0.0).sum()

        for ts in ([1.0, 2.0], [1.0, 2.0, jnp.inf]):
            assert jax.grad(total)(0.3, jnp.array(ts)) == pytest.approx(-3.0, rel=1e-6)

    @pytest.mark.parametrize("change", [{"tlag": jnp.nan}, {"F": jnp.nan}])
    def test_an_unknown_lag_or_bioavailability_is_a_failure(self, change):
        def failed(value):
            (name,) = change
            model = qsp.models.OneCompartmentOral(**({"CL": 3.0, "V": 30.0, "ka": 1.2} | {name: value}))
            solution = qsp.simulate(model, qsp.infusion(5.0, to="depot", rate=1.0), TS, throw=False)
            return solution.failed, solution.stats["culprit"]

        assert jax.jit(failed)(jnp.nan) == (True, 0)
        assert not jax.jit(failed)(0.5)[0]

    def test_maximum_steps(self, patient, regimen):
        method = qsp.solve.Diffrax(max_steps=20)
        solution = qsp.simulate(patient, regimen, TS, method=method, throw=False)
        (failure,) = solution.failures()
        assert "maximum number of solver steps" in failure.reason
        assert 0.0 < failure.time < 48.0

    def test_throw(self):
        with pytest.raises(RuntimeError, match=r"failed at time 1, in state `central`\. The step size shrank"):
            qsp.simulate(Growth(1.0), qsp.no_doses(), TS)

    def test_throw_inside_jit(self):
        with pytest.raises(Exception, match="The step size shrank to rounding error"):
            jax.block_until_ready(eqx.filter_jit(lambda k: qsp.simulate(Growth(k), qsp.no_doses(), TS).observed)(1.0))


class TestDoses:
    def test_an_output_at_a_dose_is_after_the_dose(self):
        solution = qsp.simulate(Growth(0.0), qsp.bolus(2.0, to="central", at=24.0), [0.0, 23.9, 24.0, 24.1])
        np.testing.assert_array_equal(solution.observed["amount"], [1.0, 1.0, 3.0, 3.0])

    def test_a_dose_that_rounding_puts_after_its_output(self):
        third = 0.1 + 0.2  # 0.30000000000000004
        solution = qsp.simulate(Growth(0.0), qsp.bolus(2.0, to="central", at=third), [0.0, 0.3])
        np.testing.assert_array_equal(solution.observed["amount"], [1.0, 3.0])

    def test_two_doses_at_one_instant_are_their_sum(self, patient):
        twice = qsp.bolus(60.0, to="depot", at=3.0) + qsp.bolus(40.0, to="depot", at=3.0)
        once = qsp.bolus(100.0, to="depot", at=3.0)
        np.testing.assert_allclose(concentration(patient, twice), concentration(patient, once), rtol=1e-6, atol=1e-12)

    def test_rows_in_any_order(self, patient, regimen):
        order = jnp.array([3, 1, 0, 2])
        shuffled = jax.tree.map(lambda column: column[order] if column.ndim else column, regimen)
        np.testing.assert_array_equal(concentration(patient, shuffled), concentration(patient, regimen))

    def test_lag_moves_a_dose_past_another(self):
        """A lagged oral dose at 0 arrives after an intravenous dose at 1."""
        model = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2, tlag=2.0)
        both = qsp.bolus(100.0, to="depot") + qsp.bolus(50.0, to="central", at=1.0)
        first, second = qsp.bolus(100.0, to="depot"), qsp.bolus(50.0, to="central", at=1.0)
        np.testing.assert_allclose(
            concentration(model, both), concentration(model, first) + concentration(model, second), atol=1e-6
        )

    def test_overlapping_infusions_end_exactly(self):
        """The rate is exactly zero after the last of overlapping infusions, whatever the rounding of the sums."""
        regimen = qsp.infusion(0.3, to="central", over=3.0) + qsp.infusion(0.7, to="central", over=7.1, at=0.1)
        solution = qsp.simulate(Growth(0.0), regimen, [0.0, 8.0, 1000.0])
        assert float(solution.observed["amount"][1]) == float(solution.observed["amount"][2])
        assert float(solution.observed["amount"][1]) == pytest.approx(2.0, rel=1e-12)

    def test_a_thousand_doses(self, patient):
        solution = qsp.simulate(patient, qsp.bolus(100.0, to="depot").every(24.0, doses=1000), [0.0, 24000.0])
        k, ka, lag = 0.1, 1.2, 0.3
        peak = [100 / 30 * ka / (ka - k) * np.exp(-r * (24 - lag)) / (1 - np.exp(-r * 24)) for r in (k, ka)]
        assert float(solution.observed["concentration"][-1]) == pytest.approx(peak[0] - peak[1], rel=1e-5)

    def test_doses_before_time_zero(self, patient):
        late = concentration(patient, qsp.bolus(100.0, to="depot", at=10.0), TS + 10.0)
        early = concentration(patient, qsp.bolus(100.0, to="depot", at=-10.0), TS - 10.0)
        np.testing.assert_allclose(early, late, rtol=1e-6, atol=1e-9)

    def test_bioavailability_scales_rate_or_duration(self):
        model = qsp.models.OneCompartmentOral(CL=1e-9, V=1.0, ka=1e-9, F=0.5)
        over = qsp.simulate(model, qsp.infusion(100.0, to="depot", over=4.0), [0.0, 2.0, 4.0, 8.0])
        rate = qsp.simulate(model, qsp.infusion(100.0, to="depot", rate=25.0), [0.0, 2.0, 4.0, 8.0])
        np.testing.assert_allclose(over.states.depot, [0.0, 25.0, 50.0, 50.0], rtol=1e-6)
        np.testing.assert_allclose(rate.states.depot, [0.0, 50.0, 50.0, 50.0], rtol=1e-6)

    @pytest.mark.parametrize(
        ("model", "targets"),
        [
            (qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2, F=0.5, tlag=0.5), ("depot", 1)),
            (
                qsp.models.TransitAbsorption(CL=3.0, V=30.0, ka=1.2, mtt=1.0, transits=2, F=0.5),
                ("oral", "transit[0]", 1),
            ),
            (
                qsp.models.Coupled(
                    qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2, F=0.5, tlag=0.5),
                    qsp.models.Emax(E0=1.0, Emax=2.0, EC50=1.0),
                ),
                ("depot", "pk.depot", 1),
            ),
            (
                qsp.models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=1.0, kdeg=1.0, kint=1.0, R0=1.0),
                ("central", 1),
            ),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_a_state_by_any_name_is_dosed_through_its_delivery(self, model, targets):
        solutions = [qsp.simulate(model, qsp.bolus(100.0, to=target), TS) for target in targets]
        for solution in solutions[1:]:
            np.testing.assert_array_equal(solution.observed["concentration"], solutions[0].observed["concentration"])


class LateNaN(qsp.AbstractModel):
    """`first` is fine, `second` has no slope after t = 1."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="rate")

    def initial(self):
        return {"first": 1.0, "second": 2.0}

    def vector_field(self, t, y):
        return {"first": -self.k * y["first"], "second": jnp.sqrt(1.0 - t)}

    def observe(self, t, y):
        return {"sum": y["first"] + y["second"]}


@pytest.mark.parametrize(
    "solver", [qsp.solve.Rodas5P(), diffrax.Tsit5(), diffrax.Kvaerno5()], ids=lambda s: type(s).__name__
)
def test_the_state_to_blame(solver):
    method = qsp.solve.Diffrax(solver)
    (failure,) = qsp.simulate(LateNaN(1.0), qsp.no_doses(), [0.0, 2.0], method=method, throw=False).failures()
    assert failure.state == "second"
    assert failure.time == pytest.approx(1.0, rel=1e-6)
    start = {"first": 1.0, "second": jnp.nan}
    solution = qsp.simulate(LateNaN(1.0), qsp.no_doses(), [0.5], initial=start, method=method, throw=False)
    assert [(failure.state, failure.time) for failure in solution.failures()] == [("second", 0.0)]


class TestResults:
    def test_per_patient_times_and_amounts(self, cohort):
        ts = np.tile(TS, (11, 1))
        ts[4, 6:] = np.inf
        values = {name: getattr(cohort.model, name) for name in cohort.varying}
        cohort = qsp.Cohort.of(cohort.model, values, covariates={"WT": jnp.linspace(50.0, 100.0, 11)})
        regimen = qsp.bolus(qsp.Proportional(2.0, "WT"), to="depot")
        solution = qsp.simulate_cohort(cohort, regimen, ts)
        alone = concentration(cohort.patient(4), qsp.bolus(150 - 10.0, to="depot"), TS[:6])
        np.testing.assert_allclose(solution.observed["concentration"][4, :6], alone, rtol=1e-6, atol=1e-9)
        assert np.isnan(solution.observed["concentration"][4, 6:]).all()
        assert not solution.failed.any()
        assert len(solution.to_dataframe()) == 11 * 13 - 7

    def test_save_and_reduce(self, cohort, regimen):
        solution = qsp.simulate_cohort(
            cohort, regimen, TS, save=("central",), reduce=lambda one: one.observed["concentration"].max()
        )
        assert solution.observed == {}
        assert solution.states.depot is None
        assert solution.states.central.shape == (11, 13)
        np.testing.assert_allclose(solution.reduced, solution.states.central.max(1) / 30.0, rtol=1e-12)
        assert qsp.simulate_cohort(cohort, regimen, TS, save=()).states is None

    def test_start_later_from_a_given_state(self, patient):
        whole = qsp.simulate(patient, qsp.bolus(100.0, to="depot"), [0.0, 6.0, 12.0])
        middle = jax.tree.map(lambda leaf: leaf[1], whole.states)
        rest = qsp.simulate(patient, qsp.no_doses(), [12.0], initial=middle, t0=6.0)
        np.testing.assert_allclose(rest.observed["concentration"][0], whole.observed["concentration"][2], rtol=1e-6)

    def test_initial_state_for_each_patient(self, cohort, patient):
        start = type(patient.initial())(depot=0.0, central=jnp.linspace(0.0, 100.0, 11))
        solution = qsp.simulate_cohort(cohort, qsp.no_doses(), [0.0, 1.0], initial=start)
        np.testing.assert_allclose(solution.observed["concentration"][:, 0], np.linspace(0.0, 100.0, 11) / 30.0)

    def test_tables(self, patient, cohort, regimen):
        one = qsp.simulate(patient, regimen, TS)
        frame = one.to_dataframe()
        assert list(frame.columns) == ["time", "concentration", "depot", "central"]
        np.testing.assert_array_equal(frame["concentration"], one.observed["concentration"])
        many = qsp.simulate_cohort(cohort, regimen, TS)
        data = many.to_xarray()
        assert data["concentration"].dims == ("patient", "time")
        assert data["concentration"].attrs["units"] == "mg/L"
        np.testing.assert_array_equal(data["central"], many.states.central)
        np.testing.assert_array_equal(many.to_dataframe()["depot"].to_numpy().reshape(11, 13), many.states.depot)

    def test_says_how_it_was_solved(self, patient, regimen):
        assert str(qsp.simulate(patient, regimen, TS)).startswith(
            "Solution of concentration, depot, central at 13 times; MatrixExponential, exact;"
        )
        assert "; Rodas5P at rtol 1e-06, atol 1e-09;" in str(
            qsp.simulate(patient, regimen, TS, method=qsp.solve.Rosenbrock())
        )


class Wrong(LateNaN):
    """A model whose parts can be replaced by wrong ones."""

    observed: object = eqx.field(default=None, static=True)
    slope: object = eqx.field(default=None, static=True)

    def vector_field(self, t, y):
        return self.slope

    def observe(self, t, y):
        return self.observed


ERRORS = {
    "method": (
        lambda m: qsp.simulate(m, qsp.no_doses(), TS, method=qsp.solve.Rodas5P()),
        "Argument `method` must be a method such as Diffrax(Rodas5P(), rtol=1e-6), but is of type Rodas5P.",
    ),
    "executor": (
        lambda m: qsp.simulate_cohort(qsp.Cohort.of(m, {}), qsp.no_doses(), TS, executor=qsp.execute.Vmap),
        "Argument `executor` must be an executor such as Vmap() or Chunked(1024), but is the class Vmap.",
    ),
    "one name to save": (
        lambda m: qsp.simulate(m, qsp.no_doses(), TS, save="concentration"),
        "Argument `save` must be a sequence of names, but is `concentration`.",
    ),
    "one time": (
        lambda m: qsp.simulate(m, qsp.no_doses(), 24),
        "Argument `ts` must have shape (times,), but is of shape ().",
    ),
    "times as text": (
        lambda m: qsp.simulate(m, qsp.no_doses(), "24 h"),
        "Argument `ts` must be a number, but is 24 h.",
    ),
    "rows of doses for one patient": (
        lambda m: qsp.simulate(m, qsp.bolus(1.0, to="depot", at=[0.0, 24.0]), TS),
        "Argument `regimen` must be that of one patient (for several doses use `.every(24.0, doses=2)`, or add them "
        "with `+`), but is one with a row for each of several patients.",
    ),
    "initial of a wrong shape": (
        lambda m: qsp.simulate(m, qsp.no_doses(), TS, initial=m.initial()._replace(central=np.zeros(3))),
        "Argument `initial` must have the structure of the model's state (depot, central), "
        "but is of shape (3,) in `central`, whose shape is ().",
    ),
    "initial of a wrong structure": (
        lambda m: qsp.simulate(m, qsp.no_doses(), TS, initial=(1.0, 2.0, 3.0)),
        "Argument `initial` must have the structure of the model's state (depot, central), but is of type tuple.",
    ),
    "number in a dict": (
        lambda m: qsp.simulate(LateNaN(1.0), qsp.bolus(1.0, to=1), TS),
        "Argument `to` must be a name for a model whose state is a dict, which has no order, but is 1.",
    ),
    "observes no dict": (
        lambda m: qsp.simulate(Wrong(1.0, observed=(1.0,), slope=Wrong(1.0).initial()), qsp.no_doses(), TS),
        "Argument `model` must observe a dict of numbers by name, but is one that observes a tuple.",
    ),
    "slope of a wrong structure": (
        lambda m: qsp.simulate(Wrong(1.0, observed={}, slope=(1.0, 2.0)), qsp.no_doses(), TS),
        "Argument `model` must return dy/dt with the structure of its state (first, second), "
        "but is one that returns a tuple.",
    ),
    "parameter as text": (
        lambda m: qsp.models.OneCompartment(CL="3 L/h", V=30.0),
        "Argument `CL` must be a number, but is 3 L/h.",
    ),
    "negative lag": (
        lambda m: qsp.Delivery("central", lag=-1.0),
        "Argument `lag` must be at least 0, but is -1.",
    ),
    "unknown target": (
        lambda m: qsp.simulate(m, qsp.bolus(1.0, to="gut"), TS),
        "Argument `to` must name a dose target of the model (depot, central), but is `gut`.",
    ),
    "compartment number": (
        lambda m: qsp.simulate(m, qsp.bolus(1.0, to=3), TS),
        "Argument `to` must be a compartment number from 1 to 2 (1 depot, 2 central), but is 3.",
    ),
    "negative volume": (
        lambda m: qsp.models.OneCompartment(CL=3.0, V=-30.0),
        "Argument `V` must be positive, but is -30.",
    ),
    "decreasing times": (
        lambda m: qsp.simulate(m, qsp.no_doses(), [0.0, 2.0, 1.0]),
        "Argument `ts` must not decrease, but is 1 after 2, at position 2.",
    ),
    "NaN times": (
        lambda m: qsp.simulate(m, qsp.no_doses(), [np.nan, 2.0]),
        "Argument `ts` must hold numbers, but is NaN or -inf at position 0.",
    ),
    "no times": (
        lambda m: qsp.simulate(m, qsp.no_doses(), []),
        "Argument `ts` must have at least one time, but is of shape (0,).",
    ),
    "late start": (
        lambda m: qsp.simulate(m, qsp.no_doses(), [0.0, 2.0], t0=1.0),
        "Argument `t0` must not be after the first of `ts` (0), but is 1.",
    ),
    "not a model": (
        lambda m: qsp.simulate(3.0, qsp.no_doses(), TS),
        "Argument `model` must be a model (an instance of AbstractModel), but is of type float.",
    ),
    "not a regimen": (
        lambda m: qsp.simulate(m, 100.0, TS),
        "Argument `regimen` must be a Regimen (from bolus, infusion or no_doses), but is of type float.",
    ),
    "unknown name to save": (
        lambda m: qsp.simulate(m, qsp.no_doses(), TS, save=("plasma",)),
        "Argument `save` must name observed values or states (concentration, depot, central), but is `plasma`.",
    ),
    "covariate missing": (
        lambda m: qsp.simulate_cohort(qsp.Cohort.of(m, {}), qsp.bolus(qsp.Proportional(1.0, "WT"), to="depot"), TS),
        "Argument `covariate` must name a covariate of the patients (it has none), but is `WT`.",
    ),
    "rows of times": (
        lambda m: qsp.simulate_cohort(qsp.Cohort.of(m, {"CL": jnp.ones(3)}), qsp.no_doses(), np.tile(TS, (2, 1))),
        "Argument `ts` must have one row per patient (3), but is of shape (2, 13).",
    ),
    "amount by covariate for one patient": (
        lambda m: qsp.simulate(m, qsp.bolus(qsp.Proportional(1.0, "WT"), to="depot"), TS),
        "Argument `regimen` must have amounts that are numbers, but some depend on covariates: "
        "call regimen.prescribe({'WT': 70.0, ...}) first.",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_in_words(case, patient):
    call, message = ERRORS[case]
    with pytest.raises(ValueError) as error:
        call(patient)
    assert str(error.value) == message


def test_a_model_without_states():
    """Rules alone: there is nothing to solve."""

    class Rule(qsp.AbstractModel):
        k: jax.Array = qsp.parameter(unit="1/h", doc="slope")

        def initial(self):
            return {}

        def vector_field(self, t, y):
            return {}

        def observe(self, t, y):
            return {"line": self.k * t}

    solution = qsp.simulate(Rule(k=2.0), qsp.no_doses(), [0.0, 1.0, 3.0])
    np.testing.assert_array_equal(solution.observed["line"], [0.0, 2.0, 6.0])
    assert solution.result == qsp.RESULTS.successful


def test_programs_that_jax_interprets():
    """A debugger steps through the model; the solves are programs all the same."""
    model, doses = qsp.models.OneCompartment(CL=3.0, V=30.0), qsp.bolus(100.0, to="central")
    for method in (None, qsp.solve.Rosenbrock()):
        usual = qsp.simulate(model, doses, [1.0, 2.0], method=method).observed["concentration"]
        with jax.disable_jit():
            found = qsp.simulate(model, doses, [1.0, 2.0], method=method).observed["concentration"]
        np.testing.assert_allclose(found, usual, rtol=1e-12)

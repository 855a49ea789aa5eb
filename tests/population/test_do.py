"""Interventions: what is set overrides what determined it, everything else stays, and results say so."""

import json
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.models import Coupled, InhibitionOfProduction, MassAction, Network, Reaction

MODEL = qsp.models.OneCompartment(CL=3.0, V=30.0)
DOSE = qsp.bolus(100.0, to="central")
KEY = jax.random.key(5)
BETWEEN = {"CL": qsp.LogNormal(cv=0.3), "V": qsp.LogNormal(cv=0.2)}
COVARIATES = {"CRCL": qsp.Uniform(30.0, 120.0), "SEX": qsp.Categorical({"male": 0.4, "female": 0.6})}
EFFECTS = [
    qsp.Power("CL", "CRCL", exponent=1.0, reference=100.0),
    qsp.ByCategory("V", "SEX", factors={"male": 1.0, "female": 0.8}),
]
POPULATION = qsp.Population(
    MODEL, between=BETWEEN, covariates=COVARIATES, effects=EFFECTS, correlation={("CL", "V"): 0.5}
)


def network():
    return Network(
        species={"drug": 10.0, "metabolite": 0.0},
        parameters={"k": 0.1, "kout": 0.05},
        reactions={
            "turnover": Reaction("drug -> metabolite", "k * drug"),
            "loss": Reaction("metabolite ->", "kout * metabolite"),
        },
        rules={"total": "drug + metabolite", "effect": "total / 10"},
    )


def after_ten(model):
    return qsp.simulate(model, qsp.no_doses(), [10.0]).observed


class TestModels:
    def test_a_number_is_that_of_the_model_and_the_result_says_so(self):
        done = qsp.do(MODEL, CL=2.0, V=20)
        assert type(done) is type(MODEL)
        assert float(done.CL) == 2.0
        assert done.V.dtype == jnp.float64
        solution = qsp.simulate(done, DOSE, [0.0, 10.0])
        np.testing.assert_allclose(solution.observed["concentration"], [5.0, 5.0 * np.exp(-1.0)])
        assert str(solution.interventions) == "do(CL=2, V=20)"
        assert "failed; do(CL=2, V=20)" in str(solution)
        assert solution.to_xarray().attrs["interventions"] == "do(CL=2, V=20)"
        assert qsp.simulate(MODEL, DOSE, [0.0]).interventions is None
        assert str(qsp.simulate(qsp.do(done, CL=1.0), DOSE, [0.0]).interventions) == "do(CL=1, V=20)"

    def test_a_part_of_a_model(self):
        response = InhibitionOfProduction(kin=10.0, kout=0.5, Imax=0.8, IC50=2.0)
        coupled = Coupled(MODEL, response)
        by_end, in_full = qsp.do(coupled, CL=2.0), qsp.do(coupled, **{"pk.CL": 2.0})
        before = Coupled(qsp.do(MODEL, CL=2.0), response)
        for done in (by_end, in_full, before):
            solution = qsp.simulate(done, DOSE, [10.0])
            assert str(solution.interventions) == "do(pk.CL=2)"
            assert float(solution.observed["concentration"][0]) == pytest.approx(np.exp(-2.0 / 3.0) / 0.3)

    def test_derivatives_by_the_value_and_by_what_is_cut(self):
        def concentration(CL, model):
            return qsp.simulate(qsp.do(model, CL=CL), DOSE, [10.0]).observed["concentration"][0]

        exact = np.exp(-20.0 / 30.0) / 0.3
        slope, of_model = eqx.filter_jit(eqx.filter_grad(lambda both: concentration(*both)))((jnp.asarray(2.0), MODEL))
        assert float(slope) == pytest.approx(-10.0 / 30.0 * exact)
        assert float(of_model.CL) == 0.0
        assert float(of_model.V) == pytest.approx(exact * (20.0 / 30.0**2 - 1.0 / 30.0))
        many = jax.vmap(lambda CL: concentration(CL, MODEL))(jnp.array([1.0, 2.0]))
        np.testing.assert_allclose(many, np.exp(-np.array([1.0, 2.0]) / 3.0) / 0.3)

    def test_jit_knows_what_was_set_and_its_value(self):
        simulated = eqx.filter_jit(lambda model: qsp.simulate(model, DOSE, [1.0]))
        assert str(simulated(qsp.do(MODEL, CL=2.0)).interventions) == "do(CL=2)"
        assert str(simulated(qsp.do(MODEL, CL=4.0)).interventions) == "do(CL=4)"
        assert simulated(MODEL).interventions is None

    def test_mistakes_are_named(self):
        with pytest.raises(ValueError, match=r"a parameter of the model \(CL, V\), but is `CLR`. Did you mean `CL`\?"):
            qsp.do(MODEL, CLR=2.0)
        with pytest.raises(ValueError, match="Argument `CL` must be positive, but is -1"):
            qsp.do(MODEL, CL=-1.0)
        with pytest.raises(ValueError, match=r"Argument `CL` must have shape \(\), but is of shape \(2,\)"):
            qsp.do(MODEL, CL=[1.0, 2.0])
        with pytest.raises(ValueError, match="`CL` must be a number, since formulas replace mechanisms of a `Network`"):
            qsp.do(MODEL, CL="2 * V")
        with pytest.raises(ValueError, match="must be given what to set"):
            qsp.do(MODEL)
        with pytest.raises(ValueError, match="must be a model, a cohort or a population, but is of type Regimen"):
            qsp.do(DOSE, CL=1.0)


class TestNetworks:
    @pytest.mark.parametrize(
        "rate", ["k * drug^2", lambda k, drug: k * drug**2, Reaction("drug -> metabolite", "k*drug^2")]
    )
    def test_a_rate_law(self, rate):
        done = qsp.do(network(), turnover=rate)
        assert float(after_ten(done)["drug"][0]) == pytest.approx(10.0 / (1.0 + 0.1 * 10.0 * 10.0), rel=1e-5)
        assert str(qsp.simulate(done, qsp.no_doses(), [1.0]).interventions) == "do(turnover: k * drug^2)"

    def test_a_reaction_that_stops(self):
        done = qsp.do(network(), loss=0.0)
        assert float(after_ten(done)["total"][0]) == pytest.approx(10.0)
        assert done.interventions == (("loss", "0"),)
        assert qsp.do(network(), loss=MassAction("k")).interventions == (("loss", "k * metabolite"),)

    def test_a_rule_is_cut_and_what_follows_it_follows_the_value(self):
        observed = after_ten(qsp.do(network(), total=3.0))
        assert float(observed["effect"][0]) == pytest.approx(0.3)
        assert float(observed["drug"][0]) == pytest.approx(10.0 * np.exp(-1.0))
        slope = jax.grad(lambda total: after_ten(qsp.do(network(), total=total))["effect"][0])(3.0)
        assert float(slope) == pytest.approx(0.1)

    def test_a_clamped_species_acts_but_is_not_acted_on(self):
        observed = after_ten(qsp.do(network(), drug="5"))
        assert float(observed["drug"][0]) == 5.0
        assert float(observed["metabolite"][0]) == pytest.approx(10.0 * (1.0 - np.exp(-0.5)), rel=1e-5)
        assert float(after_ten(qsp.do(network(), drug=5.0))["drug"][0]) == pytest.approx(5.0 * np.exp(-1.0))

    def test_later_edits_keep_what_was_set(self):
        done = qsp.do(network(), k=0.3, turnover="k * drug * kout")
        renamed = done.rename({"k": "rate", "turnover": "step"})
        assert renamed.interventions == (("rate", ""), ("step", "rate * drug * kout"))
        assert renamed.replace("step", rate="rate * drug").interventions == (("rate", ""), ("step", "rate * drug"))
        assert renamed.replace("step", rate="drug").drop("rate").interventions == (("step", "drug"),)
        assert qsp.do(done, k="0.1 * kout").interventions == (("k", "0.1 * kout"), ("turnover", "k * drug * kout"))
        assert qsp.do(network(), k=0.3).replace("k", rule="kout").interventions == (("k", "kout"),)

    def test_a_network_in_a_model(self):
        response = InhibitionOfProduction(kin=10.0, kout=0.5, Imax=0.8, IC50=2.0)
        done = qsp.do(Coupled(network(), response, "drug"), **{"pk.turnover": "0", "pd.kout": 1.0})
        solution = qsp.simulate(done, qsp.no_doses(), [10.0])
        assert float(solution.observed["drug"][0]) == pytest.approx(10.0)
        assert str(solution.interventions) == "do(pd.kout=1, pk.turnover: 0)"

    def test_mistakes_are_named(self):
        with pytest.raises(ValueError, match="`turnovr` is none; did you mean `turnover`"):
            qsp.do(network(), turnovr="k * drug")
        with pytest.raises(ValueError, match="`turnover` must use ids of the network, but uses `kk`"):
            qsp.do(network(), turnover="kk * drug")


class TestCohorts:
    def test_all_patients_have_the_value_and_stay_the_same_otherwise(self):
        cohort = POPULATION.sample(key=KEY, size=20)
        done = qsp.do(cohort, CL=2.0)
        np.testing.assert_array_equal(done.model.CL, np.full(20, 2.0))
        np.testing.assert_array_equal(done.model.V, cohort.model.V)
        assert done.varying == cohort.varying
        solution = qsp.simulate_cohort(done, DOSE, [10.0])
        V = np.asarray(cohort.model.V)
        np.testing.assert_allclose(solution.observed["concentration"][:, 0], 100.0 / V * np.exp(-20.0 / V), rtol=1e-12)
        assert str(solution.interventions) == "do(CL=2)"

    def test_each_patient_has_his_own(self):
        cohort = qsp.Cohort.of(MODEL, {"V": [20.0, 30.0]})
        done = qsp.do(cohort, CL=np.array([1.0, 2.0]))
        assert done.varying == ("V", "CL")
        assert float(done.patient(1).CL) == 2.0
        assert str(qsp.simulate_cohort(done.take([1]), DOSE, [1.0]).interventions) == "do(CL=2)"
        assert str(done.interventions()) == "do(CL=1 to 2)"
        assert qsp.do(cohort, CL=2.0).varying == ("V",)
        with pytest.raises(ValueError, match=r"`CL` must have shape \(\) or \(2,\), but is of shape \(3,\)"):
            qsp.do(cohort, CL=np.ones(3))

    def test_mechanisms_of_patients(self):
        cohort = qsp.Cohort.of(network(), {"k": np.array([0.1, 0.2])})
        done = qsp.do(cohort, turnover="k * drug^2", total=np.array([1.0, 2.0]))
        observed = qsp.simulate_cohort(done, qsp.no_doses(), [10.0]).observed
        np.testing.assert_allclose(observed["drug"][:, 0], [10.0 / 11.0, 10.0 / 21.0], rtol=1e-5)
        np.testing.assert_allclose(observed["effect"][:, 0], [0.1, 0.2])
        assert qsp.do(cohort, k="0.1 * kout").varying == ()

    def test_a_trial_says_what_was_set(self):
        cohort = POPULATION.sample(key=KEY, size=10)
        trial = qsp.Trial(
            [qsp.Arm("100 mg", DOSE)], [0.0, 10.0], endpoints={"Cmax": qsp.endpoints.Cmax("concentration")}
        )
        result = qsp.simulate_trial(trial, qsp.do(cohort, V=10.0))
        assert str(result).endswith("do(V=10)")
        assert "\ndo(V=10)\n" in qsp.summary_text(result)
        assert "do(" not in str(qsp.simulate_trial(trial, cohort))

    def test_a_store_says_what_was_set(self, tmp_path):
        pytest.importorskip("zarr", reason="needs the extra `data`")
        pytest.importorskip("pyarrow", reason="needs the extra `data`")
        cohort, stored = POPULATION.sample(key=KEY, size=10), qsp.execute.Stored(tmp_path, qsp.execute.Chunked(4))
        solution = qsp.simulate_cohort(qsp.do(cohort, V=10.0), DOSE, [0.0], executor=stored)
        assert json.loads((tmp_path / "manifest.json").read_text())["note"] == "do(V=10)"
        np.testing.assert_array_equal(solution.observed["concentration"][:, 0], np.full(10, 10.0))
        with pytest.raises(ValueError, match="differs in the patients"):
            qsp.simulate_cohort(cohort, DOSE, [0.0], executor=stored)


class TestPopulations:
    def test_what_is_set_has_no_distribution_and_no_covariates(self):
        drawn, done = POPULATION.sample(key=KEY, size=50), qsp.do(POPULATION, CL=2.0).sample(key=KEY, size=50)
        assert done.varying == ("V",)
        assert float(done.model.CL) == 2.0
        np.testing.assert_array_equal(done.model.V, drawn.model.V)
        np.testing.assert_array_equal(done.covariates["CRCL"], drawn.covariates["CRCL"])
        assert str(done.interventions()) == "do(CL=2)"
        points = np.full((3, 4), 0.7)
        np.testing.assert_array_equal(
            qsp.do(POPULATION, CL=2.0).from_unit(points).model.V, POPULATION.from_unit(points).model.V
        )

    def test_parameters_follow_a_covariate_that_is_set(self):
        drawn = POPULATION.sample(key=KEY, size=50)
        done = qsp.do(POPULATION, CRCL=30.0, SEX="male").sample(key=KEY, size=50)
        np.testing.assert_allclose(done.model.CL / drawn.model.CL, 30.0 / np.asarray(drawn.covariates["CRCL"]))
        factor = np.where(np.asarray(drawn.covariates["SEX"]) == 0, 0.8, 1.0)
        np.testing.assert_allclose(done.model.V * factor, drawn.model.V)
        assert str(qsp.simulate_cohort(done, DOSE, [1.0]).interventions) == "do(CRCL=30, SEX=1)"
        assert str(done.take([1, 2]).interventions()) == "do(CRCL=30, SEX=1)"
        with pytest.raises(ValueError, match="Argument `SEX` must name a category"):
            qsp.do(POPULATION, SEX="mal")

    def test_observed_covariates(self):
        table = {"CRCL": [40.0, 80.0, 120.0], "AGE": [80.0, 50.0, 20.0]}
        population = qsp.Population(MODEL, covariates=table, effects=EFFECTS[:1])
        drawn, done = population.sample(key=KEY, size=9), qsp.do(population, CRCL=50.0).sample(key=KEY, size=9)
        np.testing.assert_allclose(done.model.CL, np.full(9, 1.5))
        np.testing.assert_array_equal(done.covariates["AGE"], drawn.covariates["AGE"])

    def test_formulas_follow_what_is_set(self):
        population = qsp.Population(
            MODEL,
            individual={"CL": "CL * exp(eta_CL + kappa)", "V": "10 * CL * exp(eta_V)"},
            parameters={"CL": 3.0},
            random={"eta_CL": 0.09, "eta_V": 0.04, "kappa": 0.01},
            occasional=["kappa"],
        )
        drawn, done = population.sample(key=KEY, size=20), qsp.do(population, CL=6.0).sample(key=KEY, size=20)
        assert done.varying == ("V",)
        np.testing.assert_allclose(done.model.V, 2.0 * drawn.model.V)
        later = qsp.do(population, CL=6.0)
        with pytest.raises(ValueError, match="Nothing changes between occasions"):
            later.occasions(later.sample(key=KEY, size=20, occasions=2), at=[24.0])

    def test_derivatives(self):
        def mean(CL, typical):
            model = eqx.tree_at(lambda m: m.CL, MODEL, typical)
            cohort = qsp.do(qsp.Population(model, between=BETWEEN), CL=CL).sample(key=KEY, size=8)
            return qsp.simulate_cohort(cohort, DOSE, [10.0]).observed["concentration"].mean()

        by_value, by_typical = jax.grad(mean, argnums=(0, 1))(2.0, 3.0)
        V = np.asarray(qsp.Population(MODEL, between=BETWEEN).sample(key=KEY, size=8).model.V)
        assert float(by_value) == pytest.approx(np.mean(-1000.0 / V**2 * np.exp(-20.0 / V)))
        assert float(by_typical) == 0.0

    def test_plausible_patients(self):
        bounds = {"C0": qsp.population.Bound(qsp.endpoints.Value("concentration", at=0.0), 2.0, 5.0)}
        arms, search = [qsp.Arm("100 mg", DOSE)], qsp.population.Rejection()
        population = qsp.do(qsp.Population(MODEL, between=BETWEEN), CL=2.0)
        found = qsp.population.plausible(population, bounds, arms=arms, size=20, key=KEY, search=search)
        np.testing.assert_array_equal(found.values["CL"], np.full(20, 2.0))
        assert str(found.cohort.interventions()) == "do(CL=2)"


class Amount(NamedTuple):
    central: jax.Array


TRACES = []


class Squared(qsp.AbstractModel):
    k: jax.Array = qsp.parameter(unit="1/h", doc="rate constant")

    def initial(self):
        return Amount(1.0)

    def vector_field(self, t, y):
        TRACES.append(t)
        return Amount(-self.k * y.central**2)

    def observe(self, t, y):
        return {"amount": y.central}


def test_what_is_set_compiles_nothing_again():
    model, cohort = Squared(0.3), qsp.Cohort.of(Squared(0.3), {"k": np.linspace(0.1, 0.5, 8)})

    def both(model, cohort):
        solutions = qsp.simulate(model, qsp.no_doses(), [1.0]), qsp.simulate_cohort(cohort, qsp.no_doses(), [1.0])
        return [np.ravel(solution.observed["amount"])[-1] for solution in solutions]

    np.testing.assert_allclose(both(model, cohort), 1.0 / (1.0 + np.array([0.3, 0.5])), rtol=1e-5)
    TRACES.clear()
    for k in (0.2, 0.7):
        np.testing.assert_allclose(both(qsp.do(model, k=k), qsp.do(cohort, k=k)), 1.0 / (1.0 + k), rtol=1e-5)
    assert not TRACES

"""Networks of many species: what is computed in groups is what the formulas say one by one."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._expression import TIME, evaluate, symbol, symbols
from qspjax._model import as_state
from qspjax._names import names, state_names
from qspjax._tables import LabelledState, ParameterTable
from qspjax.models import Compartment, MassAction, MichaelisMenten, Network, NetworkEvent, Reaction, Species
from qspjax.models.network._grouped import Grouped
from qspjax.models.network._moieties import left_null_space
from qspjax.models.network._sums import Sums
from qspjax.solve.kernel._layout import system_of

PAIRS = 30


def pairs():
    """Return 60 species in 30 reversible conversions A <-> B, of which each has a closed form."""
    species = {f"{kind}{i}": Species(1.0 + i if kind == "A" else 0.0, unit="mg") for kind in "AB" for i in range(PAIRS)}
    parameters = {
        f"{kind}{i}": value * (1.0 + i / PAIRS) for kind, value in (("f", 0.5), ("b", 0.2)) for i in range(PAIRS)
    }
    reactions = {f"r{i}": Reaction(f"A{i} <-> B{i}", MassAction(f"f{i}", reverse=f"b{i}")) for i in range(PAIRS)}
    return Network(species=species, parameters=parameters, reactions=reactions)


def varied():
    """Return a network of 60 species with everything that a large one can have."""
    rng = np.random.default_rng(1)
    ids = [f"S{i}" for i in range(60)]
    laws = [
        lambda a, b: (f"{a} ->", "k1 * V"),
        lambda a, b: (f"{a} -> 2 {b}", MassAction("k1")),
        lambda a, b: (f"{a} -> {b}", MichaelisMenten("k2", "0.5")),
        lambda a, b: (f"{a} + {b} <-> hub", MassAction("k2", reverse="k1")),
        lambda a, b: (f"-> {a}", f"piecewise(total, {b} > 1, k1 * time) * V"),
        lambda a, b: (f"{a} ->", f"k1 * {a} * {a}^2 / (1 + {b})"),
    ]
    reactions = {}
    for number in range(150):
        a, b = rng.choice(ids, 2, replace=False)
        reactions[f"r{number}"] = Reaction(*laws[number % len(laws)](a, b))
    return Network(
        compartments={"V": Compartment(2.0)},
        species={id: float(rng.uniform(0.5, 2.0)) for id in ids} | {"hub": Species(1.0, conversion="factor")},
        parameters={"k1": 0.3, "k2": 1.7, "factor": 3.0, "x": 1.0},
        reactions=reactions,
        rules={"total": "S0 + S1 + hub", "twice": "2 * total"},
        rates={"V": "0.1 * V", "x": "twice - x"},
        initial={"S3": "S4 + k1"},
        events=[NetworkEvent("S5 > 3", {"x": "x + 1", "S6": "S5"})],
    )


def test_groups_give_what_the_formulas_say():
    network = varied()
    start = network.initial()
    assert start.values.shape == (63,)
    assert state_names(start)[:2] == ("S0", "S1")
    assert float(start["S3"]) == pytest.approx(2.0 * (float(network.values["S4"]) / 2.0 + 0.3), rel=1e-14)
    y = LabelledState(start.labels, jnp.asarray(np.random.default_rng(2).uniform(0.5, 2.0, 63)))
    known = {f"{id}#v": value for id, value in network.values.concrete_values().items()}
    known |= {f"{id}#y": value for id, value in zip(y.labels, y.values.tolist(), strict=True)}

    @jax.jit
    def one_by_one(known):
        return jnp.stack(
            [jnp.asarray(x) for x in evaluate([*network.plan.slopes, *network.plan.observed.values()], known, 0.7)]
        )

    slope, observed = jax.jit(lambda y: (network.vector_field(0.7, y), network.observe(0.7, y)))(y)
    assert isinstance(observed, ParameterTable)
    assert tuple(observed) == network.definition.ids()
    found = np.concatenate([slope.values, observed.array])
    np.testing.assert_allclose(found, one_by_one(known), rtol=1e-12, atol=1e-12)
    (event,) = network.events()
    assert {name: float(value) for name, value in event.assign(0.0, y).items()} == pytest.approx(
        {"x": float(y["x"]) + 1.0, "S6": float(y["S5"])}, rel=1e-14
    )


@pytest.mark.parametrize("network", [pairs(), varied()], ids=["pairs", "varied"])
def test_the_jacobian_is_as_sparse_as_the_formulas(network):
    start = as_state(network, None)
    pattern = system_of(network, start)[0].pattern
    needed = np.array([[f"{id}#y" in symbols(slope) for id in start.labels] for slope in network.plan.slopes])
    assert not (pattern & ~needed).any()
    if not network.plan.firings:
        np.testing.assert_array_equal(pattern, needed)


def test_sixty_species_have_the_solution_of_thirty_pairs():
    network = pairs()
    assert len(network.values) == 120
    ts = np.array([0.0, 1.0, 4.0])
    solution = qsp.simulate(network, qsp.bolus(7.0, to="B3", at=1.0), ts, method=qsp.solve.Rosenbrock(rtol=1e-8))
    observed = solution.observed
    for i in range(PAIRS):
        rate = (0.5 + 0.2) * (1.0 + i / PAIRS)
        kept = 2.0 / 7.0 + 5.0 / 7.0 * np.exp(-rate * ts)
        moved = np.where(ts > 1.0, 7.0 * 2.0 / 7.0 * (1.0 - np.exp(-rate * (ts - 1.0))), 0.0) if i == 3 else 0.0
        np.testing.assert_allclose(observed[f"A{i}"], (1.0 + i) * kept + moved, rtol=1e-5)
    assert solution.states["B3"].shape == (3,)
    assert [str(moiety) for moiety in network.conserved()][29] == "A29 + B29 = 30"
    smaller = network.reduced()
    assert len(state_names(smaller.initial())) == 30
    np.testing.assert_allclose(
        [float(smaller.observe(0.0, smaller.initial())[f"A{i}"]) for i in range(PAIRS)], 1.0 + np.arange(PAIRS)
    )


def test_numbers_are_found_and_replaced_by_name():
    network = pairs()
    assert [one.name for one in names(network)] == [*network.values]
    assert isinstance(network.values.array, jax.Array)
    changed = qsp.at(network, "f3").set(9.0)
    assert jax.tree.structure(changed) == jax.tree.structure(network)
    assert (float(changed.values["f3"]), changed.definition.parameters["f3"].value) == (9.0, 9.0)
    cohort = qsp.Cohort.of(network, {"f3": [1.0, 2.0], "A0": [3.0, 4.0]})
    second = cohort.patient(1)
    assert (float(second.values["f3"]), float(second.values["A0"]), float(second.values["f4"])) == pytest.approx(
        (2.0, 4.0, 0.5 * (1.0 + 4 / PAIRS))
    )
    slope = second.vector_field(0.0, second.initial())
    assert float(slope["B3"]) == pytest.approx(2.0 * 4.0, rel=1e-14)
    assert float(second.initial()["A0"]) == 4.0

    def first(f0):
        model = qsp.at(network, "f0").set(f0)
        return model.vector_field(0.0, model.initial())["B0"]

    assert jax.grad(first)(2.0) == 1.0


def test_sums_of_any_number_of_terms():
    rng = np.random.default_rng(0)
    counts = [0, 1, 2, 3, 4, 5, 17, 70]
    rows = [
        [(float(rng.choice([1, -1, 2])), int(rng.integers(300))) for _ in range(n)] for n in rng.permutation(counts)
    ]
    x = rng.normal(size=300)
    expected = [sum(weight * x[place] for weight, place in row) for row in rows]
    np.testing.assert_allclose(jax.jit(Sums(rows))(jnp.asarray(x)), expected, rtol=1e-12, atol=1e-12)


def test_what_is_shared_is_computed_once():
    a, b = symbol("a#v"), symbol("b#y")
    shared = a * b / (1.0 + b)
    formulas = [shared * symbol(f"c{i}#v") for i in range(6)] + [shared, TIME]
    grouped = Grouped(formulas, {"b": 0})
    values = ParameterTable.of({"a": 2.0, **{f"c{i}": float(i) for i in range(6)}})
    y = LabelledState(("b",), jnp.asarray([3.0]))
    traced = jax.make_jaxpr(lambda y: grouped(values, {}, 4.0, LabelledState(("b",), y)))(y.values)
    assert sum(eqn.primitive.name == "div" for eqn in traced.eqns) == 1
    np.testing.assert_allclose(grouped(values, {}, 4.0, y), [0.0, 1.5, 3.0, 4.5, 6.0, 7.5, 1.5, 4.0])


def test_moieties_of_a_large_network_are_exact():
    rng = np.random.default_rng(3)
    made = rng.integers(-2, 3, size=(40, 60))
    made[39] = made[0] + 2 * made[1]
    made[38] = made[2] - made[3]
    matrix = {f"S{i}": {j: Fraction(int(x)) for j, x in enumerate(row) if x} for i, row in enumerate(made)}
    rows = left_null_space(matrix)
    weights = np.array([[row.get(f"S{i}", 0) for i in range(40)] for row in rows])
    assert len(rows) == 40 - np.linalg.matrix_rank(made)
    assert not (weights @ made).any()

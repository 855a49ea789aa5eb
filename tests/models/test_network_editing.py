"""Networks that are edited are those that would have been made, to the last bit; what does not fit is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.models import Hill, MassAction, MichaelisMenten, Network, Reaction
from qspjax.models.network import Compartment, NetworkEvent, Parameter, Participant, Species

TS = jnp.linspace(0.0, 5.0, 6)


def parts(**changed):
    """Return what a network with everything in it is made of."""
    return {
        "compartments": {"plasma": Compartment(3.0, unit="L"), "cell": 1.5},
        "species": {
            "drug": Species(30.0, "plasma", unit="mg"),
            "target": Species(5.0, "plasma", is_amount=False),
            "complex": Species(0.0, "plasma"),
            "inside": Species(0.0, "cell", boundary=True),
        },
        "parameters": {
            "kon": 0.1,
            "koff": Parameter(0.02, unit="1/h"),
            "binding.factor": 2.0,
            "rate": 0.3,
            "gate": 0.0,
        },
        "reactions": {
            "binding": Reaction("drug + target -> complex", MassAction("kon * binding.factor", reverse="koff")),
            "loss": Reaction("complex ->", "rate * complex", name="internalisation"),
        },
        "rules": {"total": "target + complex", "share": "complex / total"},
        "rates": {"inside": "rate * share - 0.1 * inside"},
        "initial": {"koff": "kon / 5"},
        "events": [NetworkEvent("time > 2", {"drug": "drug + 5", "gate": "1"}, name="dose")],
        "name": "tmdd",
        "time_unit": "h",
    } | changed


def network(**changed):
    return Network(**parts(**changed))


def same(one, other, *, simulated=False):
    assert one.definition == other.definition
    assert [*one.values] == [*other.values]
    assert {id: float(x) for id, x in one.values.items()} == {id: float(x) for id, x in other.values.items()}
    assert one.nominal == other.nominal
    if simulated:
        found, wanted = (qsp.simulate(each, qsp.no_doses(), TS).observed for each in (one, other))
        for id in wanted:
            np.testing.assert_array_equal(found[id], wanted[id], err_msg=id)


def changed(table, **new):
    return {table: {**parts()[table], **new}}


@pytest.mark.parametrize(
    ("edit", "scratch"),
    [
        (lambda n: n.replace("kon", 0.2), changed("parameters", kon=0.2)),
        (lambda n: n.replace("kon", value=0.2, unit="1/h"), changed("parameters", kon=Parameter(0.2, unit="1/h"))),
        (lambda n: n.replace("drug", initial=7.0), changed("species", drug=Species(7.0, "plasma", unit="mg"))),
        (lambda n: n.replace("drug", 7), changed("species", drug=Species(7.0, "plasma", unit="mg"))),
        (
            lambda n: n.replace("drug", Species(7.0, "plasma", doc="antibody")),
            changed("species", drug=Species(7.0, "plasma", doc="antibody")),
        ),
        (lambda n: n.replace("plasma", size=2.0), changed("compartments", plasma=Compartment(2.0, unit="L"))),
        (
            lambda n: n.replace("loss", rate="rate * complex^2 / cell"),
            changed("reactions", loss=Reaction("complex ->", "rate * complex^2 / cell", name="internalisation")),
        ),
        (
            lambda n: n.replace("loss", Reaction("complex -> target", MichaelisMenten("rate", 2.0))),
            changed("reactions", loss=Reaction("complex -> target", MichaelisMenten("rate", 2.0))),
        ),
        (
            lambda n: n.replace("loss", equation="complex <-> 2 target", rate=lambda rate, complex: rate * complex),
            changed(
                "reactions",
                loss=Reaction("complex <-> 2 target", "rate * complex", name="internalisation"),
            ),
        ),
        (lambda n: n.replace("total", rule="2 * target"), changed("rules", total="2 * target")),
        (lambda n: n.replace("koff", initial="kon / 4"), changed("initial", koff="kon / 4")),
        (lambda n: n.replace("koff", 0.5), changed("parameters", koff=Parameter(0.5, unit="1/h")) | {"initial": {}}),
        (lambda n: n.replace("inside", rate="rate"), changed("rates", inside="rate")),
        (
            lambda n: n.replace("inside", rate=None, rule="rate * time"),
            {"rates": {}} | {"rules": {**parts()["rules"], "inside": "rate * time"}},
        ),
        (
            lambda n: n.replace("dose", trigger="time > 3"),
            {"events": [NetworkEvent("time > 3", {"drug": "drug + 5", "gate": "1"}, name="dose")]},
        ),
        (
            lambda n: n.replace("dose", assign={"drug": "50"}),
            {"events": [NetworkEvent("time > 2", {"drug": "50"}, name="dose")]},
        ),
        (lambda n: n.replace(rules={"total": "2", "share": "0.5"}), changed("rules", total="2", share="0.5")),
        (lambda n: n.replace(name="other", time_unit="day"), {"name": "other", "time_unit": "day"}),
        (lambda n: n.replace(algebraic=[]), {}),
        (
            lambda n: n.add(species={"new": Species(1.0, "cell")}, reactions={"made": Reaction("-> new", "rate")}),
            {
                "species": {**parts()["species"], "new": Species(1.0, "cell")},
                "reactions": {**parts()["reactions"], "made": Reaction("-> new", "rate")},
            },
        ),
        (
            lambda n: n.add(rules={"half": "total / 2"}, events=[NetworkEvent("drug < 1", {"drug": "9"})]),
            {
                "rules": {**parts()["rules"], "half": "total / 2"},
                "events": [*parts()["events"], NetworkEvent("drug < 1", {"drug": "9"})],
            },
        ),
        (
            lambda n: n.drop("dose"),
            {"events": []},
        ),
        (
            lambda n: n.drop(rates="inside", initial=["koff"]),
            {"rates": {}, "initial": {}},
        ),
        (
            lambda n: n.drop("loss", "inside", "share"),
            {
                "reactions": {"binding": parts()["reactions"]["binding"]},
                "species": {id: one for id, one in parts()["species"].items() if id != "inside"},
                "rules": {"total": "target + complex"},
                "rates": {},
            },
        ),
    ],
)
def test_an_edited_network_is_the_one_made_from_scratch(edit, scratch):
    before = network()
    same(edit(before), network(**scratch))
    same(before, network())


def test_a_chain_of_edits_and_a_way_back():
    before = network()
    there = before.add(parameters={"k": 1.0}, reactions={"leak": Reaction("drug ->", Hill("k", "kon", n=2.0))})
    same(there.drop("leak", "k"), before, simulated=True)
    names = {"drug": "mAb", "binding": "b2", "plasma": "V", "kon": "drug", "dose": "d", "total": "sum", "rate": "time"}
    renamed = before.rename(names)
    assert {"b2.factor", "drug", "mAb", "time"} <= {*renamed.definition.ids()}
    same(renamed.rename({new: old for old, new in names.items()}), before)
    found, wanted = (qsp.simulate(each, qsp.no_doses(), TS).observed for each in (renamed, before))
    for id in wanted:
        new = "b2.factor" if id == "binding.factor" else names.get(id, id)
        np.testing.assert_array_equal(found[new], wanted[id], err_msg=id)
    swapped = before.rename({"kon": "rate", "rate": "kon"})
    assert float(swapped.values["rate"]) == 0.1
    assert str(swapped.definition.reactions["loss"].rate) == "kon * complex"


def test_numbers_that_were_set_stay_and_gradients_go_through():
    base = qsp.at(network(), "kon").set(0.4)
    assert float(base.replace("loss", rate="rate * complex").values["kon"]) == 0.4
    assert float(base.rename({"kon": "k_on"}).values["k_on"]) == 0.4

    def slope(x):
        edited = base.replace("rate", x).replace("drug", initial=30.0 * x)
        edited = edited.replace("binding", rate="kon * drug * target * rate").rename({"drug": "mAb"})
        return edited.vector_field(0.0, edited.initial())["mAb"]

    wanted = -0.4 * 10.0 * 5.0 * 2 * 0.3  # of -kon (30 x / 3) target x
    for derivative in (jax.jacfwd(slope), jax.grad(slope), jax.jit(jax.grad(slope))):
        np.testing.assert_allclose(derivative(0.3), wanted, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(slope)(jnp.array([0.3, 0.6])), [-1.8, -7.2], rtol=1e-12)


def test_the_parameters_of_a_reaction_alone_go_with_it():
    local = network().replace("binding", rate="kon * drug * target")
    assert "binding.factor" not in local.values
    assert "binding.factor" not in network().replace("total", rule="2").drop("binding").values
    kept = network(rules={"share": "binding.factor"}).drop("binding", "loss")
    assert float(kept.values["binding.factor"]) == 2.0
    with pytest.raises(ValueError, match="`binding` must use ids of the network, but uses `factor`; did you mean"):
        network().replace("binding", rate="factor * drug")


def test_stoichiometries_and_moieties():
    named = network(
        reactions={"binding": Reaction([Participant("drug", 2.0, "n")], [Participant("complex")], "kon * drug")},
        rules={"total": "target + complex + n", "share": "complex / total"},
    )
    assert str(named.rename({"n": "m"}).definition.assignments["total"]) == "target + complex + m"
    with pytest.raises(ValueError, match="but is the stoichiometry `n` of a reaction"):
        named.replace("n", 3.0)
    binding = Reaction("drug + target -> complex", MassAction("kon"))
    species = {"drug": 10.0, "target": 5.0, "complex": 0.0}
    small = Network(species=species, parameters={"kon": 1.0}, reactions={"r": binding}).reduced()
    faster = small.replace("kon", 2.0).rename({"complex": "C"})
    whole = Network(species=species, parameters={"kon": 2.0}, reactions={"r": binding})
    np.testing.assert_allclose(
        qsp.simulate(faster, qsp.no_doses(), TS).observed["C"],
        qsp.simulate(whole, qsp.no_doses(), TS).observed["complex"],
        rtol=1e-5,
    )
    assert small.definition.closed


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda n: n.replace("kom", 1.0),
         "Argument `id` must be an id of the network, but `kom` is none; did you mean `kon`"),
        (lambda n: n.replace("factor", 1.0), "but `factor` is none; did you mean `binding.factor`?"),
        (lambda n: n.replace("loss", speed="1"), r"Argument `fields` must name what `loss` has \(equation, reactants"),
        (lambda n: n.replace("kon", size=1.0), r"Argument `fields` must name what `kon` has \(value, constant"),
        (lambda n: n.replace("total", 3.0),
         "`total` must be a number or follow a rule, but would do both: drop the rule"),
        (lambda n: n.replace("loss", Species(1.0)), "Argument `new` must be a Reaction, but is of type Species"),
        (lambda n: n.replace("drug", compartment="liver"),
         "`drug` must be in a compartment of the network, but is in `liver`."),
        (lambda n: n.replace("drug", rule="1"), "`drug` must be a boundary species, because a rule determines it"),
        (lambda n: n.replace(rules={"kon": "1"}),
         "Argument `rules` must be there to be replaced, but `kon` is not; add it."),
        (lambda n: n.add(species={"kon": 1.0}),
         "Argument `species` must be new, but `kon` is there already; replace it."),
        (lambda n: n.add(rules={"total": "1"}),
         "Argument `rules` must be for ids that have none, but `total` is there already"),
        (lambda n: n.add(reactions={"x": Reaction("zz ->", "1")}),
         "`x` must be a reaction of species, but `zz` is none."),
        (lambda n: n.drop("zz"), "Argument `id` must be an id of the network, but `zz` is none."),
        (lambda n: n.drop("kon"),
         "`kon` must not be used by what stays, but is by reaction binding, the initial value of koff: "),
        (lambda n: n.drop("complex"),
         "but is by reaction binding, reaction loss, the rule of total, the rule of share: drop or"),
        (lambda n: n.drop("plasma"),
         "is by reaction binding, species drug, species target, species complex: drop or replace them"),
        (lambda n: n.drop("gate"),
         "`gate` must not be used by what stays, but is by event dose: drop or replace it too."),
        (lambda n: n.drop(rules="total"), "`total` must have a value, but has none."),
        (lambda n: n.drop(rules="kon"), "Argument `rules` must be there to be dropped, but `kon` has none."),
        (lambda n: n.rename({"kon": "koff"}),
         "must leave every id that of one thing, but `koff` would be that of two."),
        (lambda n: n.rename({"kon": "a#b"}), "Argument `names` must have an id for `kon`, but is `a#b`."),
        (lambda n: n.rename({"zz": "a"}), "Argument `id` must be an id of the network, but `zz` is none."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(edit, message):
    before = network()
    with pytest.raises(ValueError, match=message.replace("`", "`")):
        edit(before)
    same(before, network())


def test_imported_networks_are_edited_and_written_again():
    pytest.importorskip("libsbml")
    io = qsp.io
    imported = io.read_sbml(io.write_sbml(network()))
    assert float(imported.values["binding.factor"]) == 2.0
    edited = imported.replace("loss", rate="0.5 * complex").replace("binding.factor", 3.0).drop("dose")
    edited = edited.rename({"drug": "mAb"}).add(rules={"free": "mAb / (mAb + complex)"})
    again = io.read_sbml(io.write_sbml(edited))
    found, wanted = (qsp.simulate(each, qsp.no_doses(), TS).observed for each in (again, edited))
    for id in wanted:
        np.testing.assert_array_equal(found[id], wanted[id], err_msg=id)
    scratch = network(
        parameters=parts()["parameters"] | {"binding.factor": 3.0},
        reactions=parts()["reactions"] | {"loss": Reaction("complex ->", "0.5 * complex")},
        events=[],
    )
    observed = qsp.simulate(scratch, qsp.no_doses(), TS).observed
    np.testing.assert_allclose(wanted["mAb"], observed["drug"], rtol=1e-13)

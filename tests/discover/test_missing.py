"""Edges that a network misses are found by their scores, and none is added where none is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.discover import Modifier, NewReaction, candidate_edges, edge_scores, missing_edges
from qspjax.discover._score import joint_information
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
from qspjax.models import Network, Reaction

TIMES = np.array([0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 18.0])


def signalling(feedback: float = 0.0) -> Network:
    """A receptor activates a kinase, that a transcription factor, which may slow the first step."""
    reactions = {
        "on1": Reaction("R -> Ra", "ka1 * ligand * R * exp(w * Ta / (2 + Ta))"),
        "off1": Reaction("Ra -> R", "kd1 * Ra"),
        "on2": Reaction("K -> Ka", "ka2 * Ra * K"),
        "off2": Reaction("Ka -> K", "kd2 * Ka"),
        "on3": Reaction("T -> Ta", "ka3 * Ka * T"),
        "off3": Reaction("Ta -> T", "kd3 * Ta"),
    }
    parameters = {"ligand": 1.0, "ka1": 0.2, "kd1": 0.1, "ka2": 0.1, "kd2": 0.3, "ka3": 0.1, "kd3": 0.2, "w": feedback}
    species = {"R": 5.0, "Ra": 0.0, "K": 5.0, "Ka": 0.0, "T": 5.0, "Ta": 0.0}
    network = Network(species=species, parameters=parameters, reactions=reactions)
    if feedback:
        return network
    return network.replace("on1", rate="ka1 * ligand * R").drop("w")


def problem_of(truth: Network, seed: int, sd: float = 0.1) -> Problem:
    """Noisy measurements of the three active species at four concentrations of the ligand."""
    noise, experiments = np.random.default_rng(seed), {}
    for ligand in (0.1, 0.3, 1.0, 3.0):
        observed = qsp.simulate(qsp.at(truth, "ligand").set(ligand), qsp.no_doses(), TIMES).observed
        names = [name for name in ("Ra", "Ka", "Ta") for _ in TIMES]
        values = np.concatenate([np.asarray(observed[name]) for name in ("Ra", "Ka", "Ta")])
        data = Measurements(np.tile(TIMES, 3), values + sd * noise.normal(size=values.size), output=names)
        experiments[f"ligand {ligand}"] = Experiment(data, set={"ligand": ligand})
    outputs = {name: Output(name, Additive(sd)) for name in ("Ra", "Ka", "Ta")}
    network = signalling()
    free = {name: Free(float(network.values[name])) for name in ("ka1", "kd1", "ka2", "kd2", "ka3", "kd3")}
    return Problem(network, experiments, outputs, free)


@pytest.fixture(scope="module")
def misses_one():
    return estimate(problem_of(signalling(-1.5), 1))


def test_a_deleted_edge_is_ranked_first_and_recovered(misses_one):
    found = missing_edges(misses_one, tried=1)
    assert [edge.name for edge in found.edges] == ["Ta modifies on1"]
    assert found.scores.edges[0] == found.edges[0]
    assert found.scores.family[0] < 1e-6
    assert found.remaining.family[0] > 0.05
    half = found.edges[0].half
    strength = found.strengths["Ta modifies on1"]
    assert 0.5 * strength == pytest.approx(-1.5 * half / (2.0 + half), rel=0.5)  # at a typical value
    assert float(found.network.values["effect_of_Ta_on_on1"]) == strength
    assert "added   Ta modifies on1" in str(found)


def test_scores_and_information_are_those_of_the_problem_with_the_edges(misses_one):
    edges = [Modifier("Ta", "on1", 2.0), NewReaction("Ra -> R", "Ra * Ta"), Modifier("Ra", "off3", 2.0)]
    x = jnp.asarray(misses_one.x)
    score, information = joint_information(misses_one.problem, x, edges)
    old = misses_one.problem
    network = old.model.add(
        parameters=dict.fromkeys((edge.strength for edge in edges), 0.0),
        reactions={"Ra_to_R": Reaction("Ra -> R", "k_Ra_to_R * Ra * Ta")},
    )
    network = network.replace("on1", rate="ka1 * ligand * R * (1 + effect_of_Ta_on_on1 * Ta / (2 + Ta))")
    network = network.replace("off3", rate="kd3 * Ta * exp(effect_of_Ra_on_off3 * Ra / (2 + Ra))")
    strengths = {edge.strength: Free(0.0, transform=qsp.Identity()) for edge in edges}
    whole = Problem(network, old.experiments, old.outputs, {**strengths, **old.parameters})
    here = jax.jit(whole.quadratic)(jnp.concatenate([jnp.zeros(3), x]))
    np.testing.assert_allclose(score, here.gradient, rtol=1e-5, atol=1e-6 * np.abs(here.gradient).max())
    np.testing.assert_allclose(information, here.curvature, rtol=1e-5, atol=1e-8 * np.abs(here.curvature).max())


def test_candidates_are_all_pairs_without_an_influence(misses_one):
    edges = candidate_edges(misses_one)
    assert len(edges) == 6 * 6 - 8
    (only,) = candidate_edges(misses_one, species=["Ta"], reactions=["on1"])
    assert only in edges
    with pytest.raises(ValueError, match="Argument `reactions` must name a reaction of the network"):
        candidate_edges(misses_one, reactions=["on9"])


def test_messages(misses_one):
    with pytest.raises(ValueError, match="Argument `edges` must name a species of the network"):
        edge_scores(misses_one, [Modifier("drug", "on1", 1.0)])
    with pytest.raises(ValueError, match="Argument `edges` must have at least one edge to test, but has none"):
        edge_scores(misses_one, [])
    with pytest.raises(ValueError, match="Argument `edges` must have strengths that are new"):
        edge_scores(misses_one, [Modifier("Ta", "on1", 1.0), Modifier("Ta", "on1", 2.0)])
    with pytest.raises(ValueError, match="Argument `half` must be positive"):
        Modifier("Ta", "on1", 0.0)
    with pytest.raises(ValueError, match="Argument `equation` must have a reactant or a product"):
        NewReaction("->")


@pytest.mark.slow
def test_no_edge_is_added_where_none_is_missing():
    added = [len(missing_edges(estimate(problem_of(signalling(), seed))).edges) for seed in range(5)]
    assert added == [0] * 5

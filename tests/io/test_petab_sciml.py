"""PEtab SciML: networks of the official suite where it is there, layers against PyTorch, what is wrong with files."""

import csv

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from scipy import stats
from scipy.integrate import solve_ivp

from qspjax.io import FileIssues, read_neural_network, read_petab, write_sbml
from qspjax.io._validate import contents
from qspjax.io.petab.sciml._arrays import read_arrays
from qspjax.io.petab.sciml._neural_network import weights_of
from qspjax.models import Network, Reaction
from tests.systems.data import data_folder, needs_data

DATA = data_folder()
SUITE = None if DATA is None else DATA / "petab-sciml-testsuite" / "test_cases"
NETWORKS = [] if SUITE is None else sorted((SUITE / "ml_model_import").glob("0*"))
FEW_NETWORKS = ("009", "012", "015", "023", "040")


def only(arrays):
    return next(iter(arrays.values())).value


def imported(case):
    """Compare the outputs of a network with those of the suite, which are means of many for those that drop numbers."""
    files = yaml.safe_load((case / "solutions.yaml").read_text())
    samples = files.get("dropout")
    for i in range(3):
        network = read_neural_network(
            case / files["net_file"], [case / files["net_ps"][i]] if "net_ps" in files else []
        )
        names = sorted(name for name in files if name.startswith("net_input"))
        inputs = [jnp.asarray(only(read_arrays([case / files[name][i]]).inputs)) for name in names]
        expected = only(read_arrays([case / files["net_output"][i]]).outputs)
        if samples:
            keys = jax.random.split(jax.random.key(i), samples)
            found = jax.jit(lambda keys, f=network, x=inputs: jax.vmap(lambda key: f(*x, key=key))(keys).mean(0))(keys)
        else:
            found = eqx.filter_jit(network)(*inputs)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=2e-2 if samples else 1e-3)


@needs_data
@pytest.mark.parametrize("name", FEW_NETWORKS)
def test_networks_of_the_suite(name):
    imported(SUITE / "ml_model_import" / name)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: case.name)
def test_all_networks_of_the_suite(case):
    imported(case)


NETWORK = """
nn_model_id: net
inputs: [{input_id: x}]
layers:
- {layer_id: dense, layer_type: Linear, args: {in_features: 2, out_features: 3}}
- {layer_id: rectify, layer_type: ReLU, args: {inplace: true}}
- {layer_id: drop, layer_type: Dropout, args: {p: 0.5}}
forward:
- {name: x, op: placeholder, target: x, args: [], kwargs: {}}
- {name: dense, op: call_module, target: dense, args: [x], kwargs: {}}
- {name: rectify, op: call_module, target: rectify, args: [dense], kwargs: {}}
- {name: add, op: call_function, target: add, args: [dense, rectify], kwargs: {}}
- {name: drop, op: call_module, target: drop, args: [add], kwargs: {}}
- {name: output, op: output, target: output, args: [drop], kwargs: {}}
"""
WEIGHT, BIAS = np.array([[1.0, 2.0], [-3.0, 4.0], [0.5, -6.0]]), np.array([0.1, 0.2, 0.3])


@pytest.fixture
def network_file(tmp_path):
    """Returns a function that writes a network with replacements in its text."""

    def write(*replacements):
        text = NETWORK
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "net.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def array_file(tmp_path):
    """Returns a function that writes arrays by their places."""

    def write(arrays):
        path = tmp_path / "arrays.h5"
        with h5py.File(path, "w") as file:
            for place, value in arrays.items():
                file[place] = value
        return path

    return write


WEIGHTS = {"metadata/pytorch_format": True, "parameters/net/dense/weight": WEIGHT, "parameters/net/dense/bias": BIAS}


def test_a_network_computes_as_pytorch_does(network_file, array_file):
    network = read_neural_network(network_file(), array_file(WEIGHTS))
    x = np.array([0.7, -0.4])
    rectified = np.maximum(WEIGHT @ x + BIAS, 0.0)  # in place: the result of the layer before is rectified too
    np.testing.assert_allclose(network(x), 2.0 * rectified, rtol=1e-14)
    dropped = network(x, key=jax.random.key(1))
    assert np.isin(np.asarray(dropped), [*4.0 * rectified, 0.0]).all()
    assert jax.tree.map(jnp.shape, network.weights()) == {"dense": {"weight": (3, 2), "bias": (3,)}}


def test_weights_without_a_file_are_drawn(network_file):
    network = read_neural_network(network_file())
    assert np.abs(network.layers["dense"].weight).max() < 1 / np.sqrt(2)
    other = read_neural_network(network_file(), key=jax.random.key(2))
    assert not np.allclose(network.layers["dense"].weight, other.layers["dense"].weight)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "type: Linear",
            "type: Linaer",
            r"net.yaml: \[layers\[1\]\] layer_type: must be .* mean Linear\?\), but is Linaer.",
        ),
        ("in_features: 2", "in_feature: 2", r"\[layers\[1\]\] args: must be arguments as in PyTorch.*'in_features'"),
        ("in_features: 2", "in_features: 2.5", r"\[layers\[1\].args\] in_features: must be a whole number"),
        ("p: 0.5", "p: 1.5", r"\[layers\[3\].args\] p: must be a probability from 0 to 1, but is 1.5."),
        ("layer_id: drop", "layer_id: dense", r"\[layers\[3\]\] layer_id: must occur once"),
        ("op: call_function", "op: call_funktion", r"\[forward\[4\]\] op: must be a step that is known"),
        ("target: add", "target: eval", r"\[forward\[4\]\] target: must be a function that is known, but is eval."),
        ("target: rectify", "target: rectified", r"must be a layer of the network \(did you mean rectify\?\)"),
        ("args: [add]", "args: [ad]", r"\[forward\[5\]\] args: must be an earlier result \(did you mean add\?\)"),
        ("args: [dense, rectify]", "args: [dense]", r"forward\[4\]: .*missing a required argument: 'other'"),
        ("- {name: output", "- {name: add", r"\[forward\[6\]\] name: must occur once"),
        ("op: output", "op: placeholder", r"net.yaml: forward: must end with an output, but has none."),
        ("inputs: [{input_id: x}]", "inputs: []", r"inputs: must be as many as the placeholders"),
        ("layers:\n", "layers:\n- 3\n", r"layers\[1\]: must be keys with values, but is not."),
        ("nn_model_id: net", "nn_model_id: [net", r"net.yaml:\d+: must be YAML"),
        ("args: [x], kwargs: {}", "args: [x], kwargs: {key: 3}", r"forward\[2\]: must be arguments of PyTorch"),
    ],
)
def test_issues_of_networks(network_file, old, new, message):
    with pytest.raises(FileIssues, match=message):
        read_neural_network(network_file((old, new)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters/net/dense/bias": None}, r"must have the array parameters/net/dense/bias of shape \(3,\)"),
        ({"parameters/net/dense/bias": np.ones(2)}, r"must have the shape \(3,\), but has \(2,\)."),
        ({"parameters/net/dense/scale": BIAS}, r"\[parameters.net.dense\] scale: must be a weight of a layer"),
        (
            {"parameters/net/dense/bias": np.array([1.0, np.nan, 2.0])},
            r"^arrays.h5: \[parameters.net.dense\] bias: must have finite numbers",
        ),
        ({"parameters/net/dense/bias": "text"}, "must be an array of numbers in this file"),
        ({"parameters/net/dense/bias": h5py.SoftLink("/parameters/net/dense/weight")}, "but is a link"),
        ({"parameters/net/dense/bias": h5py.ExternalLink("other.h5", "/x")}, "but is a link"),
        ({"parameter/net/dense/bias": BIAS}, "must lie in parameters/network/layer/name or inputs"),
        ({"metadata/pytorch_format": False}, r"\[metadata\] pytorch_format: must be 1, .* but is False."),
    ],
)
def test_issues_of_arrays(network_file, array_file, changes, message):
    arrays = {place: value for place, value in {**WEIGHTS, **changes}.items() if value is not None}
    with pytest.raises(FileIssues, match=message):
        read_neural_network(network_file(), array_file(arrays))


def test_files_that_are_none(network_file, tmp_path):
    for content in (b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(40)):
        (tmp_path / "arrays.h5").write_bytes(content)
        with pytest.raises(FileIssues, match="must be a file in HDF5"):
            read_neural_network(network_file(), tmp_path / "arrays.h5")
    with pytest.raises(FileIssues, match="does not exist"):
        read_neural_network(network_file(), tmp_path / "absent.h5")


def test_an_input_that_does_not_fit(network_file):
    with pytest.raises(ValueError, match="cannot compute dense: .*must have 2 elements along its last axis"):
        read_neural_network(network_file())(jnp.ones(5))
    with pytest.raises(ValueError, match="has 1 inputs, but is called with 2"):
        read_neural_network(network_file())(jnp.ones(2), jnp.ones(2))


# --- problems -------------------------------------------------------------------------------------------------------

PROBLEMS = [] if SUITE is None else sorted((SUITE / "sciml_problem_import").glob("0*"))
STARTS = [] if SUITE is None else sorted((SUITE / "initialization").glob("0*"))
FEW_PROBLEMS = ("022", "033")


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def arrays_of(block, gradient):
    """Return the gradient of each array of weights, by network, layer and name."""
    part, (network, *steps) = block.filled(gradient), block.name.split(".")
    if not steps:
        return {(network, layer, name): g for layer, a in part.network.weights().items() for name, g in a.items()}
    if len(steps) == 2:
        return {(network, steps[1], name): value for name, value in weights_of(part).items()}
    return {(network, *steps[1:]): part}


def judged(case):
    """Compare log density, simulations and gradients of a problem with those of the suite, at its tolerances."""
    expected = yaml.safe_load((case / "solutions.yaml").read_text())
    problem = read_petab(case / "petab" / "problem.yaml")
    x = problem.point(problem.reference)
    value, gradient = jax.jit(problem.value_and_gradient)(x)
    if "llh" in expected:
        assert float(value - problem.log_prior(x)) == pytest.approx(expected["llh"], abs=expected["tol_llh"])
    if "log_posterior" in expected:
        assert float(value) == pytest.approx(expected["log_posterior"], abs=expected["tol_log_posterior"])
    rows = [row for name in expected["simulation_files"] for row in table(case / name)]
    simulated = {(row["experimentId"], row["observableId"], float(row["time"])): row["simulation"] for row in rows}
    found = problem.table(x)
    columns = [found[name] for name in ("experiment", "output", "time", "prediction")]
    for experiment, output, time, y in zip(*columns, strict=True):
        assert y == pytest.approx(float(simulated[experiment, output, time]), abs=expected["tol_simulations"])
    near = {"rtol": 0.0, "atol": expected["tol_grad"]}
    mechanism = {row["parameterId"]: float(row["value"]) for row in table(case / expected["grad_files"].pop("mech"))}
    np.testing.assert_allclose(gradient[: len(problem.free)], [mechanism[name] for name in problem.free], **near)
    blocks = [arrays_of(block, gradient[len(problem.free) :]) for block in problem.weights.blocks]
    estimated = {place: array for block in blocks for place, array in block.items()}
    answers = {
        place: stored.value
        for name in expected["grad_files"].values()
        for place, stored in read_arrays([case / name]).parameters.items()
        if stored.value.size  # empty where an array is frozen
    }
    assert estimated.keys() == answers.keys()
    for place, answer in answers.items():
        np.testing.assert_allclose(estimated[place], answer, **near)


@needs_data
@pytest.mark.parametrize("name", FEW_PROBLEMS)
def test_problems_of_the_suite(name):
    judged(SUITE / "sciml_problem_import" / name)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("case", PROBLEMS, ids=lambda case: case.name)
def test_all_problems_of_the_suite(case):
    judged(case)


@needs_data
@pytest.mark.parametrize("case", STARTS, ids=lambda case: case.name)
def test_starts_of_the_suite(case):
    expected = yaml.safe_load((case / "solutions.yaml").read_text())
    problem = read_petab(case / "petab" / "problem.yaml")
    for network, name in expected["parameter_files"].items():
        found = problem.model.functions[network].network.weights()
        for (_, layer, array), stored in read_arrays([case / name]).parameters.items():
            np.testing.assert_allclose(found[layer][array], stored.value, atol=expected["tol"])


RATE = """
nn_model_id: rate
inputs: [{input_id: image}, {input_id: p}]
layers: [{layer_id: layer, layer_type: Linear, args: {in_features: 3, out_features: 1}}]
forward:
- {name: image, op: placeholder, target: image}
- {name: p, op: placeholder, target: p}
- {name: cat, op: call_function, target: cat, args: [[image, p]], kwargs: {dim: 0}}
- {name: layer, op: call_module, target: layer, args: [cat]}
- {name: softplus, op: call_function, target: softplus, args: [layer]}
- {name: output, op: output, target: output, args: [softplus]}
"""
BEND = """
nn_model_id: bend
inputs: [{input_id: amount}]
layers: [{layer_id: layer, layer_type: Linear, args: {in_features: 1, out_features: 2}}]
forward:
- {name: amount, op: placeholder, target: amount}
- {name: layer, op: call_module, target: layer, args: [amount]}
- {name: tanh, op: call_method, target: tanh, args: [layer]}
- {name: output, op: output, target: output, args: [tanh]}
"""
HYBRID = {
    "problem.yaml": "format_version: 2.0.0\nmodel_files: {m: {location: model.xml, language: sbml}}\n"
    "parameter_files: [parameters.tsv]\nobservable_files: [observables.tsv]\nmeasurement_files: [measurements.tsv]\n"
    "experiment_files: [experiments.tsv]\ncondition_files: [conditions.tsv]\nmapping_files: [mapping.tsv]\n"
    "extensions: {petab_sciml: {version: 0.1.0, required: true, array_files: [arrays.h5],\n"
    "  hybridization_files: [hybridization.tsv], neural_networks: {\n"
    "  rate: {location: rate.yaml, pre_initialization: true, format: yaml},\n"
    "  bend: {location: bend.yaml, pre_initialization: false, format: YAML}}}}\n",
    "rate.yaml": RATE,
    "bend.yaml": BEND,
    "mapping.tsv": "petabEntityId\tmodelEntityId\nrate_p\trate.inputs[1][0]\nrate_out\trate.outputs[0][0]\n"
    "bend_in\tbend.inputs[0][0]\nbend_0\tbend.outputs[0][0]\nbend_1\tbend.outputs[0][1]\n"
    "rate_w\trate.parameters\nrate_b\trate.parameters[layer].bias\nbend_w\tbend.parameters\n",
    "hybridization.tsv": "targetId\ttargetValue\nimage\tarray\nk\t0.1 + rate_out\nbend_in\tq * A\ns\tbend_0\n",
    "conditions.tsv": "conditionId\ttargetId\ttargetValue\none\tA\t2.0\none\trate_p\t1.5\ntwo\trate_p\tq\n",
    "experiments.tsv": "experimentId\ttime\tconditionId\ne1\t0\tone\ne2\t0\ttwo\n",
    "observables.tsv": "observableId\tobservableFormula\tnoiseFormula\nobs\tA + bend_1\t0.1\n",
    "measurements.tsv": "observableId\texperimentId\ttime\tmeasurement\nobs\te1\t1\t1.7\n"
    "obs\te2\t1\t1.4\nobs\te2\t2\t1\n",
    "parameters.tsv": "parameterId\tlowerBound\tupperBound\tnominalValue\testimate\t"
    "priorDistribution\tpriorParameters\nq\t0\t4\t0.6\ttrue\t\t\nrate_w\t\t\tarray\ttrue\tnormal\t0;2\nrate_b\t\t\t0.25\tfalse\t\t\n"
    "bend_w\t-5\t5\tarray\ttrue\t\t\n",
}  # fmt: skip
RATE_WEIGHT = np.array([[0.3, -0.2, 0.1]])
BEND_WEIGHT, BEND_BIAS = np.array([[0.5], [-0.4]]), np.array([0.1, 0.3])
IMAGES = {"one": np.array([1.0, 2.0]), "two": np.array([-1.0, 0.5])}
ARRAYS = {
    "metadata/pytorch_format": True,
    "parameters/rate/layer/weight": RATE_WEIGHT,
    "parameters/bend/layer/weight": BEND_WEIGHT,
    "parameters/bend/layer/bias": BEND_BIAS,
    "inputs/image/one": IMAGES["one"],
    "inputs/image/two": IMAGES["two"],
}


def hybrid(folder, arrays=ARRAYS, **changed):
    """Write a problem with a network before experiments and one during them."""
    for name, text in (HYBRID | changed).items():
        (folder / name).write_text(text)
    with h5py.File(folder / "arrays.h5", "w") as file:
        for place, value in arrays.items():
            file[place] = value
    model = Network(species={"A": 1.0}, parameters={"k": 0.2, "s": 1.0}, reactions={"r": Reaction("A ->", "k*A + s")})
    (folder / "model.xml").write_text(write_sbml(model))
    return folder / "problem.yaml"


def by_hand(q, weight, bend_weight, bend_bias):
    """The predictions of the problem, by scipy."""

    def curve(start, image, p, times):
        k = 0.1 + np.log1p(np.exp(weight @ [*image, p] + 0.25))[0]
        slope = lambda t, a: -(k * a + np.tanh(bend_weight[0, 0] * q * a + bend_bias[0]))  # noqa: E731
        a = solve_ivp(slope, (0.0, times[-1]), [start], t_eval=times, rtol=1e-11, atol=1e-12).y[0]
        return a + np.tanh(bend_weight[1, 0] * q * a + bend_bias[1])

    return [*curve(2.0, IMAGES["one"], 1.5, [1.0]), *curve(1.0, IMAGES["two"], q, [1.0, 2.0])]


def test_a_hybrid_problem_by_hand(tmp_path):
    problem = read_petab(hybrid(tmp_path))
    assert [block.name for block in problem.weights.blocks] == ["rate.layers.layer.weight", "bend"]
    assert len(problem.names) == 1 + 3 + 4
    x = problem.point(problem.reference)
    predicted = by_hand(0.6, RATE_WEIGHT, BEND_WEIGHT, BEND_BIAS)
    np.testing.assert_allclose(problem.table(x)["prediction"], predicted, rtol=1e-8)
    value, gradient = jax.jit(problem.value_and_gradient)(x)
    priors = stats.norm(0.0, 2.0).logpdf(RATE_WEIGHT).sum() - 4 * np.log(10.0) - np.log(4.0)
    residuals = stats.norm(predicted, 0.1).logpdf([1.7, 1.4, 1.0]).sum()
    np.testing.assert_allclose(value, residuals + priors, rtol=1e-8)

    def density(weight):
        mean = by_hand(0.6, weight, BEND_WEIGHT, BEND_BIAS)
        return stats.norm(mean, 0.1).logpdf([1.7, 1.4, 1.0]).sum() + stats.norm(0.0, 2.0).logpdf(weight).sum()

    for i in range(3):
        step = 1e-4 * np.eye(3)[[i]]
        slope = (density(RATE_WEIGHT + step) - density(RATE_WEIGHT - step)) / 2e-4
        np.testing.assert_allclose(gradient[1 + i], slope, rtol=1e-5)
    assert "rate" in contents(tmp_path / "problem.yaml")


@pytest.mark.slow
def test_early_outputs_in_observables_and_initial_values(tmp_path):
    changed = {
        "observables.tsv": HYBRID["observables.tsv"].replace("A + bend_1", "A + bend_1 + rate_out"),
        "conditions.tsv": HYBRID["conditions.tsv"].replace("A\t2.0", "A\t2 * rate_out"),
    }
    problem = read_petab(hybrid(tmp_path, **changed))
    rate = [np.log1p(np.exp(RATE_WEIGHT @ [*IMAGES[name], p] + 0.25))[0] for name, p in (("one", 1.5), ("two", 0.6))]

    def curve(start, early, times):
        slope = lambda t, a: -((0.1 + early) * a + np.tanh(0.5 * 0.6 * a + 0.1))  # noqa: E731
        a = solve_ivp(slope, (0.0, times[-1]), [start], t_eval=times, rtol=1e-11, atol=1e-12).y[0]
        return a + np.tanh(-0.4 * 0.6 * a + 0.3) + early

    expected = [*curve(2.0 * rate[0], rate[0], [1.0]), *curve(1.0, rate[1], [1.0, 2.0])]
    np.testing.assert_allclose(problem.table(problem.start)["prediction"], expected, rtol=1e-8)


@pytest.mark.slow
def test_arrays_of_networks_in_equations_change_with_conditions(tmp_path):
    bend = BEND.replace("{input_id: amount}", "{input_id: amount}, {input_id: map}").replace(
        "in_features: 1", "in_features: 3"
    )
    bend = bend.replace("- {name: layer", "- {name: map, op: placeholder, target: map}\n"
                        "- {name: cat, op: call_function, target: cat, args: [[amount, map]], kwargs: {dim: -1}}\n"
                        "- {name: layer", 1).replace("args: [amount]", "args: [cat]")  # fmt: skip
    weight, maps = np.array([[0.5, 0.2, -0.3], [-0.4, 0.1, 0.2]]), {"one": [1.0, 2.0], "two": [-1.0, 0.5]}
    arrays = ARRAYS | {"parameters/bend/layer/weight": weight, "inputs/pic/one;later": np.array(maps["one"])}
    changed = {
        "bend.yaml": bend,
        "mapping.tsv": HYBRID["mapping.tsv"] + "pic\tbend.inputs[1]\n",
        "hybridization.tsv": HYBRID["hybridization.tsv"] + "pic\tarray\n",
        "experiments.tsv": HYBRID["experiments.tsv"] + "e2\t1.5\tlater\n",
    }
    problem = read_petab(hybrid(tmp_path, arrays | {"inputs/pic/two": np.array(maps["two"])}, **changed))
    k = 0.1 + np.log1p(np.exp(RATE_WEIGHT @ [*IMAGES["two"], 0.6] + 0.25))[0]

    def after(a, begin, end, name):
        slope = lambda t, a: -(k * a + np.tanh(weight @ [0.6 * a[0], *maps[name]] + BEND_BIAS)[0])  # noqa: E731
        a = solve_ivp(slope, (begin, end), [a], rtol=1e-11, atol=1e-12).y[0, -1]
        return a, a + np.tanh(weight @ [0.6 * a, *maps[name]] + BEND_BIAS)[1]

    first = after(1.0, 0.0, 1.0, "two")
    second = after(after(first[0], 1.0, 1.5, "two")[0], 1.5, 2.0, "one")
    np.testing.assert_allclose(problem.table(problem.start)["prediction"][1:], [first[1], second[1]], rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("problem.yaml", "petab_sciml:", "other:", r"extensions: not supported: extension other."),
        (
            "problem.yaml",
            "format: YAML",
            "format: equinox",
            r"\[extensions.petab_sciml.neural_networks.bend\] format: must",
        ),
        ("problem.yaml", "pre_initialization: false", "pre_initialization: 3", r"must be true or false, but is 3."),
        ("problem.yaml", "bend.yaml", "absent.yaml", r"absent.yaml: must be a file, but does not exist."),
        (
            "mapping.tsv",
            "bend.inputs[0][0]",
            "bond.inputs[0][0]",
            r"mapping.tsv:4: modelEntityId: must be part of a network",
        ),
        (
            "mapping.tsv",
            "bend.inputs[0][0]",
            "bend.inputs[0",
            r"mapping.tsv:4: modelEntityId: must be a part of a network",
        ),
        (
            "mapping.tsv",
            "bend.inputs[0][0]",
            "bend.inputs[3][0]",
            r"must be one of 1 inputs, from 0, but is bend.inputs\[3\]",
        ),
        (
            "mapping.tsv",
            "bend.outputs[0][1]",
            "bend.outputs[0][2]",
            r"bend.yaml: must have the output that bend_1 names",
        ),
        (
            "mapping.tsv",
            "bend.inputs[0][0]",
            "bend.inputs[0][1]",
            r"must have a value for each element of input 0, shape",
        ),
        ("mapping.tsv", "[layer].bias", "[layr].bias", r"parameters.tsv:4: parameterId: must be a layer with weights"),
        ("mapping.tsv", "[layer].bias", "[layer].bias[0]", r"mapping.tsv:8: .*not supported: single elements"),
        (
            "hybridization.tsv",
            "s\tbend_0",
            "A\tbend_0",
            r"hybridization.tsv:5: targetId: must be an input of a network or a par",
        ),
        (
            "hybridization.tsv",
            "s\tbend_0",
            "q\tbend_0",
            r"hybridization.tsv:5: targetId: must be an input of a network or a par",
        ),
        ("hybridization.tsv", "q * A", "q * nothing", r"hybridization.tsv:4: targetValue: .* nothing is none."),
        (
            "hybridization.tsv",
            "s\tbend_0",
            "s\tarray",
            r"hybridization.tsv:5: targetValue: must be a formula, as s is no in",
        ),
        (
            "hybridization.tsv",
            "bend_in\tq * A\n",
            "",
            r"bend.yaml: must have a value for its input bend_in, but has none.",
        ),
        (
            "conditions.tsv",
            "two\trate_p\tq",
            "two\tA\tq",
            r"rate.yaml: must have a value for its input rate_p in experiment e2",
        ),
        (
            "parameters.tsv",
            "array\ttrue\tnormal",
            "\tfalse\tnormal",
            r"parameters.tsv:3: nominalValue: must be array or a number",
        ),
        (
            "parameters.tsv",
            "normal\t0;2",
            "normal\t0",
            r"parameters.tsv:3: priorParameters: must have 2 numbers, but has 1.",
        ),
        ("parameters.tsv", "-5\t5", "5\t-5", r"parameters.tsv:5: lowerBound: must be less than the upper bound -5"),
        (
            "parameters.tsv",
            "bend_w\t-5\t5\tarray\ttrue\t\t\n",
            "",
            r"problem.yaml: must have a row in the table of parameters for",
        ),
    ],
)
def test_issues_of_hybrid_problems(tmp_path, name, old, new, message):
    assert old in HYBRID[name]
    with pytest.raises(FileIssues, match=message):
        read_petab(hybrid(tmp_path, **{name: HYBRID[name].replace(old, new)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs/image/two": None}, r"arrays.h5: must have one array of image for two of e2, but has none."),
        ({"inputs/image/two": np.ones(3)}, r"rate.yaml: must have arrays of one shape for image"),
        ({"inputs/image/0": np.ones(2)}, r"must be the only array of its input, as 0 means all conditions"),
        ({"inputs/image/one": np.ones(5), "inputs/image/two": np.ones(5)}, r"rate.yaml: .*cannot compute layer"),
        ({"parameters/bend/layer/bias": None}, r"must have the array parameters/bend/layer/bias of shape \(2,\)"),
        ({"parameters/bond/layer/bias": np.ones(2)}, r"must belong to a network \(rate, bend\), but bond is none."),
    ],
)
def test_issues_of_arrays_of_problems(tmp_path, changes, message):
    arrays = {place: value for place, value in (ARRAYS | changes).items() if value is not None}
    with pytest.raises(FileIssues, match=message):
        read_petab(hybrid(tmp_path, arrays))

"""PEtab SciML: networks of the official suite where it is there, layers against PyTorch, what is wrong with files."""

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from qspjax.io import FileIssues, read_neural_network
from qspjax.io.petab.sciml._arrays import read_arrays
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
        ({"parameters/net/dense/bias": np.array([1.0, np.nan, 2.0])}, "must have finite numbers"),
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

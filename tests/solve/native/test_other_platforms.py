"""Programs for a GPU are XLA's: value and gradient of a model, a large network and a problem are exported for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem

TS = np.linspace(0.0, 20.0, 11)
ANTIBODY = qsp.models.TMDD(CL=0.2, V1=3.0, Q=0.5, V2=3.0, kon=1.0, koff=0.1, kdeg=0.5, kint=0.1, R0=10.0)


def cascade(size):
    """Return a signalling cascade of so many species."""
    reactions = {"in": qsp.models.Reaction("-> S0", "kin")}
    for i in range(size):
        following = f"S{i + 1}" if i + 1 < size else ""
        law = qsp.models.MichaelisMenten(1.0 + 0.1 * i, 2.0)
        reactions[f"step{i}"] = qsp.models.Reaction(f"S{i} -> {following}", law)
    return qsp.models.Network(species={f"S{i}": 1.0 for i in range(size)}, parameters={"kin": 0.3}, reactions=reactions)


def end(model, regimen, name, output):
    """Return the last value of an output as a function of a parameter, and where to evaluate it."""

    def value(x):
        changed = qsp.at(model, name).set(x.astype(float))
        method = qsp.solve.Rosenbrock()
        return qsp.simulate(changed, regimen, TS, method=method, throw=False).observed[output][-1]

    return value, 0.3


def density(tmp_path):
    """Return the log density of a problem that was read from PEtab files, and where to evaluate it."""
    pytest.importorskip("libsbml")
    pytest.importorskip("petab")
    binding = qsp.models.Network(
        species={"drug": 5.0, "target": 2.0, "complex": 0.0},
        parameters={"kon": 0.5, "koff": 0.1},
        reactions={
            "binding": qsp.models.Reaction("drug + target -> complex", qsp.models.MassAction("kon", reverse="koff"))
        },
    )
    problem = Problem(
        binding,
        {"first": Experiment(Measurements([0.5, 1.0, 2.0], [0.9, 1.2, 1.4], output="complex"))},
        outputs={"complex": Output("complex", Additive("sigma"))},
        parameters={"kon": Free(0.5), "sigma": Free(0.1)},
    )
    qsp.io.write_petab(problem, tmp_path / "binding")
    (path,) = (tmp_path / "binding").glob("*.yaml")
    problem = qsp.io.read_petab(path)
    return problem.log_density, problem.point(problem.reference)


def exported(function, x):
    """Return the program of a function for CUDA."""
    return jax.export.export(jax.jit(function), platforms=["cuda"])(x).mlir_module()


@pytest.mark.parametrize(
    ("case", "precision"),
    [("model", jnp.float64), ("model", jnp.float32), ("network", jnp.float64), ("problem", jnp.float64)],
)
def test_value_and_gradient_are_exported_for_cuda(case, precision, tmp_path):
    if case == "model":
        function, x = end(ANTIBODY, qsp.bolus(150.0, to="central").every(5.0, doses=3), "CL", "free")
    elif case == "network":
        function, x = end(cascade(30), qsp.no_doses(), "kin", "S29")
    else:
        function, x = density(tmp_path)
    x = jnp.asarray(x, precision)

    def value(x):
        return function(x).astype(precision)

    for program in (value, jax.grad(value)):
        text = exported(program, x)
        assert "qspjax_" not in "".join(line for line in text.splitlines() if "custom_call" in line)

"""Layers, a light import without side effects, and a public surface in which each new name is a decision."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qspjax as qsp

PACKAGE = Path(qsp.__file__).parent
LAYERS = [
    {"_begun", "_precision", "_types"},
    {
        "_arrays",
        "_cache",
        "_checks",
        "_collection",
        "_extras",
        "_files",
        "_forms",
        "_identity",
        "_lazily",
        "_made",
        "_names",
        "_programs",
        "_progress",
        "_random",
        "_remembered",
        "_renamed",
        "_tables",
        "_text",
        "_traced",
        "_transform",
        "_unit_words",
        "_units",
    },
    {"_expression", "_fingerprint", "_jaxpr"},
    {
        "_cohort",
        "_declared",
        "_distribution",
        "_dosing",
        "_events",
        "_interventions",
        "_lost",
        "_model",
        "_parameters",
        "_solution",
    },
    {"models", "solve", "execute"},
    {"_baseline", "_exposure", "_simulate"},
    {"population", "equilibrium", "sensitivity", "_explain"},
    {"fit", "discover", "surrogate"},
    {"io", "plot"},
    {"sbml_suite"},
    {"cli", "__main__"},
]
UNITS_APART = [{"models", "solve", "execute"}, {"population", "equilibrium", "sensitivity"}, {"io", "plot"}]
"""Packages of one layer that must not know each other."""

OPTIONAL = {"pandas", "xarray", "matplotlib", "pint", "rich", "h5netcdf", "libsbml", "antimony", "petab", "yaml"} | {
    "numpyro",
    "blackjax",
    "flowjax",
    "paramax",
    "arviz",
    "zarr",
    "pyarrow",
    "distributed",
}

PUBLIC = [
    "AbstractAlgebraic",
    "AbstractAmount",
    "AbstractDelivered",
    "AbstractDistribution",
    "AbstractEventful",
    "AbstractInterpolation",
    "AbstractModel",
    "AbstractRule",
    "AbstractSized",
    "AbstractTransform",
    "Allometric",
    "Arm",
    "Banded",
    "ByCategory",
    "Categorical",
    "Cohort",
    "Computed",
    "Delivery",
    "Event",
    "Identity",
    "LOCF",
    "Limited",
    "Log",
    "LinearInterpolation",
    "LogNormal",
    "LogUniform",
    "Logit",
    "MODELLED",
    "NOCB",
    "Normal",
    "PerSurfaceArea",
    "Population",
    "Power",
    "Proportional",
    "RESULTS",
    "Randomised",
    "ReduceAbove",
    "Regimen",
    "Rounded",
    "RoundedUp",
    "SamePatients",
    "SetBy",
    "Solution",
    "StopOnProgression",
    "TreatToTarget",
    "Trial",
    "TrialResult",
    "Truncated",
    "Uniform",
    "Units",
    "at",
    "bolus",
    "discover",
    "do",
    "endpoints",
    "equilibrium",
    "execute",
    "explain",
    "fit",
    "infusion",
    "io",
    "models",
    "names",
    "no_doses",
    "parameter",
    "plot",
    "population",
    "reset",
    "scale",
    "sensitivity",
    "set_parameter",
    "simulate",
    "simulate_cohort",
    "simulate_trial",
    "solve",
    "summarise",
    "summary_text",
    "surrogate",
    "varying",
]


def layer(module):
    """Return the layer of a dotted module of the package, by its first part."""
    part = module.removeprefix("qspjax.").split(".")[0]
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


def modules():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def imports(path):
    """Yield (module, whether at the top level) for every import of a file, those inside functions included."""
    tree = ast.parse(path.read_text())
    top = set(ast.walk(ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, node in top


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts
    for module, top in imports(path):
        if top:
            assert module.split(".")[0] not in OPTIONAL, f"{module} is imported with the module"
        if not module.startswith("qspjax."):
            continue
        other = module.split(".")[1]
        if other == own[0] or other == "_precision":
            continue
        assert layer(module) <= layer(own[0]), f"{path.name} imports {module} from a higher layer"
        for group in UNITS_APART:
            assert not (own[0] in group and other in group), f"{path.name} imports {module} of its own layer"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_size_and_smells(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 600
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 80, f"{node.name} has {length} lines"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"hasattr", "eval", "exec"}, f"{node.func.id} in {path.name}"


def functions(tree, owner=""):
    """Yield (name, node) of every function, with the class it stands in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{owner}{node.name}", node
        yield from functions(node, f"{node.name}." if isinstance(node, ast.ClassDef) else owner)


def test_arguments_are_few():
    many = {}
    for path in modules():
        for name, node in functions(ast.parse(path.read_text())):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
            if count > 12:
                many[name] = count
    assert set(many) <= {"Network.__init__"}  # its tables are those of SBML


def test_classes_are_abstract_or_final():
    bases = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
                bases[node.name] = (path.name, names)
    concrete = [
        f"{path}: {name} is a {base}"
        for name, (path, names) in bases.items()
        for base in names
        if base in bases and base != name and not base.lstrip("_").startswith("Abstract")
    ]
    assert concrete == []


def test_no_module_needs_itself():
    """Imports for types alone, and those inside functions, count."""
    needs = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("qspjax", *path.relative_to(PACKAGE).with_suffix("").parts)
        needs[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {name: set() for name in needs}
    for name, path in needs.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in needs:
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                graph[name] |= {full if full in needs else node.module for full in names} - {name}
    done = set()

    def visit(name, trail=()):
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name)


def test_public_names():
    assert qsp.__all__ == sorted(PUBLIC)
    assert {*qsp.__all__, "__version__"} <= {*dir(qsp)}
    assert [name for name in dir(qsp) if not name.startswith("_") and name not in {*PUBLIC, "cli", "sbml_suite"}] == []
    with pytest.raises(AttributeError, match="module 'qspjax' has no attribute 'nothing'"):
        qsp.nothing  # noqa: B018


@pytest.mark.parametrize("package", [qsp, qsp.io])
def test_public_names_are_those_that_type_checkers_see(package):
    seen = {}
    for node in ast.walk(ast.parse(Path(package.__file__).read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "_typing.TYPE_CHECKING":
            for line in (line for line in node.body if isinstance(line, ast.ImportFrom)):
                assert all(alias.asname == alias.name for alias in line.names)
                seen |= {alias.name: f"{line.module}.{alias.name}" for alias in line.names}
    assert sorted(seen) == package.__all__
    assert {*seen} <= {*dir(package)}
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    for name, full in seen.items():
        module, _, own = full.rpartition(".")
        made = importlib.import_module(module if module != "qspjax" else full)
        assert getattr(package, name) is (made if module == "qspjax" else getattr(made, own)), name


def fresh(code, **environment):
    """Run code in a new process and return what it prints."""
    settings = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"} | environment
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_alone_is_that_of_no_library():
    assert fresh("import sys, qspjax; dir(qspjax); print({'jax', 'numpy', 'scipy'} & {*sys.modules})") == ["set()"]


def test_reading_a_network_imports_neither_fits_nor_what_they_need():
    loaded = fresh("import sys, qspjax as qsp; qsp.io.read_sbml; print(*sorted(sys.modules))")
    assert not {"qspjax.fit", "qspjax.population", "qspjax.io.nonmem._read", "scipy"} & {*loaded}


def test_import_of_all_is_light_and_has_no_side_effect_but_precision():
    loaded = fresh(
        "import warnings; warnings.simplefilter('error')\n"
        "import sys, jax, diffrax\n"
        "before = dict(jax.config.values)\n"
        "from qspjax import *\n"
        "changed = {k for k, v in jax.config.values.items() if before.get(k) != v}\n"
        "assert simulate.__name__ == 'simulate' and fit.__name__ == 'qspjax.fit'\n"
        "print(','.join(sorted(changed)), *sorted(sys.modules))"
    )
    assert loaded[0] == "jax_enable_x64"
    assert not (OPTIONAL | {"scipy.stats", "optax"}) & set(loaded[1:])


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("import qspjax", "float64"),
        ("import jax; import qspjax", "float64"),
        ("import qspjax; qspjax.simulate", "float64"),
        ("from qspjax.models import Emax", "float64"),
        ("import jax; import qspjax._units", "float64"),
        ("import qspjax, jax; jax.config.update('jax_enable_x64', False); qspjax.bolus", "float32"),
    ],
)
def test_float64_by_default(code, dtype):
    assert fresh(f"{code}; import jax.numpy as jnp; print(jnp.ones(1).dtype)") == [dtype]


def test_a_choice_of_precision_stands():
    code = (
        "import qspjax as qsp\n"
        "patient = qsp.models.OneCompartmentOral(CL=3.0, V=30.0, ka=1.2)\n"
        "method = qsp.solve.Diffrax(rtol=1e-4, atol=1e-5)\n"
        "c = qsp.simulate(patient, qsp.bolus(100.0, to='depot'), [0.0, 5.0], method=method).observed['concentration']\n"
        "print(c.dtype, round(float(c[1]), 2))"
    )
    assert fresh(code, JAX_ENABLE_X64="0") == ["float32", "2.2"]

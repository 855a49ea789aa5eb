"""Mistakes as users make them: each message says what, where, and what to do."""

import copy
import math
import pickle
import statistics
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax import fit
from qspjax.fit import Additive, Experiment, Free, Measurements, MixedModel, Output, Problem, RandomEffects
from qspjax.models import MassAction, Network, NetworkEvent, OneCompartment, OneCompartmentOral, Reaction


class Amounts(NamedTuple):
    drug: jax.Array
    effect: jax.Array


class Patient(qsp.AbstractModel):
    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination")

    def initial(self):
        return Amounts(1.0, 0.0)

    def vector_field(self, t, y):
        return Amounts(-self.k * y.drug, self.k * y.drug)

    def observe(self, t, y):
        return {"drug": y.drug}


class Branches(Patient):
    def vector_field(self, t, y):
        if y.drug > 0.5:
            return Amounts(-self.k * y.drug, 0.0)
        return Amounts(0.0, 0.0)


class Greatest(Patient):
    def vector_field(self, t, y):
        return Amounts(-self.k * max(y.drug, 0.0), 0.0)


class Mathematics(Patient):
    def vector_field(self, t, y):
        return Amounts(-math.exp(y.drug), 0.0)


class Numpy(Patient):
    def vector_field(self, t, y):
        return Amounts(-np.interp(y.drug, [0.0, 1.0], [0.0, 2.0]), 0.0)


class Number(Patient):
    def vector_field(self, t, y):
        return Amounts(-float(y.drug), 0.0)


class Observes(Patient):
    def observe(self, t, y):
        return {"drug": y.drug if y.drug > 0 else 0.0}


class Helped(Patient):
    def vector_field(self, t, y):
        return Amounts(-clipped(y.drug), 0.0)


def clipped(x):
    return min(x, 1.0)


PYTHON = [
    (Branches, r"`Branches.vector_field` must compute .* but `if y.drug > 0.5:` in line \d+ .*`jnp.where\(cond"),
    (Greatest, r"`Greatest.vector_field` .*`jnp.maximum\(a, b\)` and `jnp.minimum\(a, b\)` instead of `max` and `min`"),
    (Mathematics, r"`Mathematics.vector_field` .*: write `jnp.exp` instead of `math.exp`\."),
    (Numpy, r"`Numpy.vector_field` .*: write `jnp.interp` instead of `np.interp`\."),
    (Number, r"`Number.vector_field` .*the number itself instead of `float"),
    (Observes, r"`Observes.observe` .*instead of `if`"),
    (Helped, r"`clipped` must compute .*`return min\(x, 1.0\)` .*`jnp.minimum"),
]


def fitted(model):
    data, outputs = Measurements([1.0], [0.5], output="y"), {"y": Output("drug", Additive("s"))}
    problem = Problem(model, Experiment(data), outputs, {"k": Free(0.1), "s": 0.1})
    return problem.log_likelihood(problem.start)


WAYS = {
    "simulate": lambda model: qsp.simulate(model, qsp.no_doses(), [0.0, 1.0]),
    "cohort": lambda model: qsp.simulate_cohort(qsp.Cohort.of(model, {"k": [0.1, 0.2]}), qsp.no_doses(), [0.0, 1.0]),
    "diffrax": lambda model: qsp.simulate(model, qsp.no_doses(), [0.0, 1.0], method=qsp.solve.Diffrax()),
    "jit": lambda model: jax.jit(lambda model: qsp.simulate(model, qsp.no_doses(), [0.0, 1.0]).ts)(model),
    "fit": fitted,
}


@pytest.mark.parametrize(("kind", "message"), PYTHON, ids=lambda part: getattr(part, "__name__", ""))
@pytest.mark.parametrize("way", WAYS)
def test_python_on_traced_numbers_names_method_line_and_remedy(kind, message, way):
    with pytest.raises(ValueError, match=message):
        WAYS[way](kind(k=0.1))


def simulated():
    return qsp.simulate(OneCompartment(CL=1.0, V=2.0), qsp.bolus(1.0, to=1), [0.0, 1.0])


def problem(parameters=None, prediction="concentration", output="c"):
    data = Measurements([1.0, 2.0], [1.0, 2.0], output="c")
    outputs = {output: Output(prediction, Additive("s"))}
    model, regimen = OneCompartment(CL=1.0, V=2.0), qsp.bolus(1.0, to=1)
    return Problem(model, Experiment(data, regimen), outputs, parameters or {"CL": Free(1.0), "s": 0.1})


def network(rate):
    reaction = Reaction("A ->", rate)
    return Network(species={"A": 1.0}, parameters={"k": 1.0}, reactions={"r": reaction})


MISTAKES = {
    "constructor": (lambda: OneCompartmentOral(Cl=1.0, V=2.0, ka=1.0), "is given `Cl`. Did you mean `CL`?"),
    "constructor lists": (
        lambda: OneCompartment(CL=1.0, Vd=2.0),
        "`OneCompartment` must be given arguments that it has (CL, V), but is given `Vd`.",
    ),
    "constructor lacks": (
        lambda: OneCompartment(CL=1.0),
        "`OneCompartment` must be given V (volume of distribution, L), but is not.",
    ),
    "observed": (
        lambda: simulated().observed["concentraton"],
        "There is no `concentraton` among: concentration. Did you mean `concentration`?",
    ),
    "endpoint": (lambda: qsp.endpoints.AUC("concentraton")(simulated()), "Did you mean `concentration`?"),
    "dose target": (
        lambda: qsp.simulate(OneCompartment(CL=1.0, V=2.0), qsp.bolus(1.0, to="centrall"), [0.0]),
        "must name a dose target of the model (central), but is `centrall`. Did you mean `central`?",
    ),
    "parameter": (lambda: qsp.at(OneCompartment(CL=1.0, V=2.0), "cl"), "Did you mean `CL`?"),
    "power": (lambda: network("k * A**2"), "In `k * A**2` a power must be written `^`, as in `x^2`, but is `**`"),
    "rate of a network observed": (
        lambda: qsp.simulate(network(MassAction("k")), qsp.no_doses(), [0.0]).observed["B"],
        "There is no `B` among: A",
    ),
    "free parameter": (lambda: problem({"Cl": Free(1.0), "s": 0.1}), "(CL, V) or a name in a formula, but nothing"),
    "output": (
        lambda: problem(output="d"),
        "Argument `outputs` must name what is measured, but `c` of experiment `experiment` is missing in it.",
    ),
    "prediction": (
        lambda: problem(prediction="conc"),
        "in output `c` (concentration, central, CL, V, s), but is `conc`.",
    ),
    "infinite measurement": (
        lambda: Measurements([0.0, 1.0], [1.0, np.inf], output="c"),
        "must be finite, or NaN where one is missing, in row 2, but is inf.",
    ),
    "slope": (
        lambda: qsp.simulate(Wide(k=0.1), qsp.no_doses(), [0.0]),
        "shape (2,) for `drug`, whose shape is ()",
    ),
    "slope by other names": (
        lambda: qsp.simulate(Labelled(k=0.1, given=("X", "z")), qsp.no_doses(), [0.0]),
        "dy/dt with the structure of its state (x, z), but is one that returns a dict without `x` and with `X`.",
    ),
    "initial by other names": (
        lambda: qsp.simulate(Patient(k=0.1), qsp.no_doses(), [0.0], initial={"drug": 1.0, "z": 1.0, "y": 1.0}),
        "state (drug, effect), but is of type dict without `effect` and with `z`, `y`.",
    ),
    "several times of a dose": (
        lambda: qsp.simulate(Patient(k=0.1), qsp.bolus(1.0, to=1, at=[0.0, 24.0]), [0.0]),
        "of one patient (for several doses use `.every(24.0, doses=2)`, or add them with `+`), but is one with a row",
    ),
    "several patients": (
        lambda: qsp.simulate(OneCompartment(CL=np.ones(2), V=2.0), qsp.bolus(1.0, to=1), [0.0]),
        "`CL` must be one number: for patients that differ in it use Cohort.of and simulate_cohort, but is of shape (2",
    ),
    "several patients who are observed": (
        lambda: qsp.simulate(OneCompartment(CL=1.0, V=np.ones(2)), qsp.bolus(1.0, to=1), [0.0]),
        "`V` must be one number: for patients that differ in it use Cohort.of and simulate_cohort, but is of shape (2",
    ),
    "point": (lambda: problem().log_density([1.0, 2.0]), "Argument `x` must have 1 number (CL), but is of shape (2,)."),
    "point of a gradient": (
        lambda: jax.grad(problem().log_density)(jnp.zeros(3)),
        "Argument `x` must have 1 number (CL), but is of shape (3,).",
    ),
    "key of a state": (
        lambda: qsp.simulate(Keyed(k=0.1, given=()), qsp.no_doses(), [0.0]),
        "`Keyed.vector_field` must use names that `y` has (x, z), but `return {",
    ),
    "no times": (
        lambda: qsp.simulate(Patient(k=0.1), qsp.no_doses(), []),
        "Argument `ts` must have at least one time, but is of shape (0,).",
    ),
    "sensitivity of a model": (
        lambda: qsp.sensitivity.sobol(Patient(k=0.1), qsp.sensitivity.Inputs({"k": (0, 1)}), key=jax.random.key(0)),
        "`function` must be a function from samples to outputs, such as `OfModel(model, ...)`, but is of type Patient.",
    ),
    "several regimens": (
        lambda: qsp.simulate(Patient(k=0.1), [qsp.bolus(1.0, to=1), qsp.bolus(2.0, to=1)], [0.0]),
        "(from bolus, infusion or no_doses), several of them added with `+` (`a + b`), but is a list.",
    ),
    "and in an event": (
        lambda: qsp.simulate(Both(k=0.1), qsp.no_doses(), [0.0, 1.0]),
        "write `(a) & (b)`, `(a) | (b)` and `~(a)` instead of `a and b`, `a or b` and `not a`.",
    ),
    "initial": (
        lambda: qsp.simulate(Patient(k=0.1), qsp.no_doses(), [0.0], initial=Amounts(jnp.ones(3), 0.0)),
        "of shape (3,) in `drug`, whose shape is ()",
    ),
}


MISTAKES |= {
    "times that are NaN": (
        lambda: qsp.simulate(Patient(k=0.1), qsp.no_doses(), [0.0, np.nan]),
        "`ts` must hold numbers, but is NaN or -inf at position 1.",
    ),
    "times that are text": (
        lambda: qsp.simulate(Patient(k=0.1), qsp.no_doses(), ["0", "1 h"]),
        "`ts` must be a number, but is a list with the text `0`.",
    ),
    "measured at text": (
        lambda: Measurements(["1 h"], [1.0], output="c"),
        "`time` must hold numbers, but is a list with the text `1 h`.",
    ),
    "compartment number": (
        lambda: qsp.simulate(Patient(k=0.1), qsp.bolus(1.0, to=3), [0.0]),
        "`to` must be a compartment number from 1 to 2 (1 drug, 2 effect), but is 3.",
    ),
    "while": (
        lambda: qsp.simulate(Loops(k=0.1), qsp.no_doses(), [0.0]),
        "write `jnp.where(condition, a, b)`, or the remainder `a % b`, instead of `while`.",
    ),
    "return is missing": (
        lambda: qsp.simulate(Forgets(k=0.1), qsp.no_doses(), [0.0]),
        "structure of its state (drug, effect), but is one that returns nothing.",
    ),
    "one slope of two": (
        lambda: qsp.simulate(Half(k=0.1), qsp.no_doses(), [0.0]),
        "structure of its state (drug, effect), but is one that returns a number.",
    ),
    "observes no dict": (
        lambda: qsp.simulate(Bare(k=0.1), qsp.no_doses(), [0.0]),
        "must observe a dict of numbers by name, but is one that observes a number.",
    ),
    "observes an array": (
        lambda: qsp.simulate(Several(k=0.1), qsp.no_doses(), [0.0]),
        "must observe a dict of numbers by name, but is one that observes an array of shape (2,).",
    ),
    "trigger that is a number": (
        lambda: qsp.simulate(Fires(k=0.1, given=("number", "x")), qsp.no_doses(), [0.0]),
        "`trigger` must return whether a condition holds, such as `y.tumour > 20.0`, but is one that returns a number.",
    ),
    "trigger of a network that is a number": (
        lambda: Network(species={"A": 1.0}, events=[NetworkEvent(trigger="0.5 - A", assign={"A": "1"})]),
        "Argument `trigger` must be a condition, such as `drug > 2`, but is the number `0.5 - A`",
    ),
    "what an event assigns": (
        lambda: qsp.simulate(Fires(k=0.1, given=("condition", "xx")), qsp.no_doses(), [0.0]),
        "Argument `assign` must name a state or a parameter of the model (x, z, k), but is `xx`.",
    ),
    "dose of a negative weight": (
        lambda: qsp.bolus(qsp.Proportional(1.0, "WT"), to=1).prescribe({"WT": np.array([70.0, -70.0])}),
        "Argument `amount` must be at least 0, but is -70 by Proportional in patient 1.",
    ),
    "then": (
        lambda: qsp.bolus(1.0, to=1).every(24.0, doses=2).then(5.0),
        "`other` must be a regimen, to follow a regimen, but is of type float.",
    ),
    "negative volume": (
        lambda: Network(compartments={"plasma": -1.0}, species={"A": 1.0}),
        "Argument `plasma` must be at least 0, but is -1.",
    ),
    "symbol of a network": (
        lambda: Network(species={"drug": 1.0}, reactions={"r": Reaction("drug ->", "0.1 * drugs")}),
        "`r` must use ids of the network, but uses `drugs`. Did you mean `drug`?",
    ),
    "reduce": (
        lambda: qsp.simulate_cohort(qsp.Cohort.of(Patient(k=0.1), {"k": [0.1]}), qsp.no_doses(), [0.0], reduce="mean"),
        "`reduce` must be a function of one patient's solution, such as `qsp.endpoints.Cmax(...)`, but is `mean`.",
    ),
    "model for a cohort": (
        lambda: qsp.simulate_cohort(Patient(k=0.1), qsp.no_doses(), [0.0]),
        "must be a cohort (`Population.sample` draws one, `Cohort.of` makes one), but is of type Patient.",
    ),
    "option of a method": (
        lambda: qsp.solve.Rosenbrock(rtoll=1e-6),
        "(tableau, rtol, atol, max_steps, memory), but is given `rtoll`. Did you mean `rtol`?",
    ),
    "option of a search": (
        lambda: fit.Adam(max_iter=10),
        "`Adam` must be given arguments that it has (learning_rate, max_steps), but is given `max_iter`.",
    ),
    "option of a parameter": (
        lambda: Free(1.0, lower=0.1),
        "arguments that it has (start, bounds, transform, prior, prior_scaled, quantile), but is given `lower`.",
    ),
    "one bound": (
        lambda: Free(1.0, bounds=5.0),
        "`bounds` must be the least and the greatest value, such as (0.1, 10.0), but is 5.",
    ),
    "crossed bounds": (
        lambda: Free(1.0, bounds=(5.0, 0.5)),
        "`bounds` must be the least and the greatest value, in this order, but is (5.0, 0.5).",
    ),
    "prior": (
        lambda: Free(1.0, prior="normal"),
        "must be a distribution such as LogNormal(3.0, cv=0.5), or a function, but is of type str.",
    ),
    "covariance": (
        lambda: RandomEffects(["a", "b"], [[1.0, 0.5], [0.2, 1.0]]),
        "`covariance` must be symmetric, but is 0.5 and 0.2 between `a` and `b`.",
    ),
}


class Labelled(Patient):
    given: tuple[str, ...] = eqx.field(static=True)

    def initial(self):
        return {"x": 1.0, "z": 0.0}

    def vector_field(self, t, y):
        return dict.fromkeys(self.given, 0.0)

    def observe(self, t, y):
        return {"x": y["x"]}


class Keyed(Labelled):
    def vector_field(self, t, y):
        return {"x": -self.k * y["X"], "z": 0.0}


class Both(Patient, qsp.AbstractEventful):
    def events(self):
        return (qsp.Event(trigger=lambda t, y: y.drug < 0.5 and y.drug > 0.1, assign=lambda t, y: {"drug": 1.0}),)


class Fires(Labelled, qsp.AbstractEventful):
    def events(self):
        kind, name = self.given
        trigger = {"number": lambda t, y: 0.5 - y["x"], "condition": lambda t, y: y["x"] < 0.5}[kind]
        return (qsp.Event(trigger=trigger, assign=lambda t, y: {name: 1.0}),)


class Loops(Patient):
    def vector_field(self, t, y):
        while t > 24.0:
            t = t - 24.0
        return Amounts(-self.k * t, 0.0)


class Forgets(Patient):
    def vector_field(self, t, y):
        Amounts(-self.k * y.drug, 0.0)


class Half(Patient):
    def vector_field(self, t, y):
        return -self.k * y.drug


class Bare(Patient):
    def observe(self, t, y):
        return y.drug


class Several(Patient):
    def observe(self, t, y):
        return jnp.stack([y.drug, y.effect])


class Wide(Patient):
    def vector_field(self, t, y):
        return Amounts(jnp.zeros(2), 0.0)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("ID,TIME,AMT,DV\n1,0,100,.\n1,1,.,-3\n1,2,.,3\n", "line 3: DV is negative."),
        ("ID,TIME,AMT,DV\n1,0,100,.\n1,0,100,.\n1,1,.,3\n", "line 3: the dose is repeated"),
        ("ID,TIME,AMT\n1,0,100\n1,1,.\n", r"there is no column DV, so there are no measurements\.$"),
        ("ID,TIME,AMT,conc\n1,0,100,.\n1,1,.,3\n", r': if conc has them, read the file with rename={"conc": "DV"}\.$'),
    ],
)
def test_what_is_seldom_meant_is_read_with_a_warning(table, message, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(table)
    with pytest.warns(UserWarning, match=message) as found:
        qsp.io.read_nonmem(path)
    assert len(found) == 1
    assert found[0].filename == __file__


def test_semicolons_are_named(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("ID;TIME;AMT;DV\n1;0;100;.\n1;1;.;3\n")
    with pytest.raises(qsp.io.FileIssues, match="but is by semicolons: save it with commas"):
        qsp.io.read_nonmem(path)


def test_a_workbook_is_to_be_saved_as_csv(tmp_path):
    for name, content in (("data.xlsx", b"PK\x03\x04\x00"), ("data.csv", b"PK\x03\x04\x00xl/workbook.xml")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(qsp.io.FileIssues, match="must be text, but looks like Excel: save it as CSV"):
            qsp.io.read_nonmem(path)


def test_antimony_is_read_by_its_own_function(tmp_path):
    pytest.importorskip("libsbml")
    path = tmp_path / "model.ant"
    path.write_text("// decay\nmodel x\n A -> ; k*A; A = 1; k = 1\nend\n")
    with pytest.raises(qsp.io.FileIssues, match="must be SBML, but looks like Antimony: read it with `read_antimony`"):
        qsp.io.read_sbml(path)
    path.write_text("hello")
    with pytest.raises(qsp.io.FileIssues, match="must be well-formed XML"):
        qsp.io.read_sbml(path)


def test_a_result_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.fit must be a file, but does not exist\."):
        qsp.fit.load(tmp_path / "nothing.fit", problem())


def test_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "results" / "data.csv"
    with pytest.raises(FileNotFoundError, match=r"data.csv must be in a folder that exists, but .*results does not\."):
        qsp.io.write_nonmem(path, qsp.io.NonmemData.of(qsp.bolus(1.0, to=1), [1.0]))


def test_an_observed_value_is_no_attribute():
    with pytest.raises(AttributeError, match=r"no attribute `concentration`; write `\['concentration'\]`"):
        simulated().observed.concentration  # noqa: B018


def test_a_misspelt_name_of_the_package_tells_python_what_it_has():
    with pytest.raises(AttributeError) as error:
        qsp.simulat  # noqa: B018
    assert (error.value.name, error.value.obj) == ("simulat", qsp)


@pytest.mark.parametrize("value", [OneCompartment(CL=1.0, V=2.0), Free(2.0), qsp.solve.Rosenbrock(rtol=1e-4)])
def test_what_checks_its_arguments_is_copied_and_pickled(value):
    for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert eqx.tree_equal(again, value)


def test_random_effects_that_are_in_no_list():
    data, outputs = Measurements([1.0], [0.5], output="c"), {"c": Output("concentration", Additive("s"))}
    settings = {"parameters": {"t": Free(1.0), "s": 0.1}, "individual": {"CL": "t * exp(e)"}}
    with pytest.raises(
        ValueError, match=r"`random` must be a list of blocks, such as .*, but is of type RandomEffects"
    ):
        MixedModel(
            OneCompartment(CL=1.0, V=2.0),
            {"1": Experiment(data)},
            outputs,
            random=RandomEffects({"e": 0.1}),
            **settings,
        )


def test_a_numpy_number_is_set():
    data = Measurements([1.0], [0.5], output="c")
    assert Experiment(data, set={"WT": np.float64(70.0)}, put={"central": np.int64(2)}).begin.set == {"WT": 70.0}


def test_a_spread_in_percent_is_doubted():
    with pytest.warns(UserWarning, match="`cv` is a fraction, and 30 is a spread of 3000 %: 30 % is 0.3"):
        qsp.LogNormal(cv=30.0)


class Measured:
    """A number with a unit, as that of pint: numpy takes it, without its unit."""

    def __init__(self, magnitude, units):
        self.magnitude, self.units = magnitude, units

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.magnitude, dtype)


GRAM, DAY = Measured(0.2, "g"), Measured(1.0, "d")
WITH_UNITS = {
    "amount": lambda: qsp.bolus(GRAM, to="depot"),
    "at": lambda: qsp.bolus(1.0, to="depot", at=DAY),
    "over": lambda: qsp.infusion(1.0, to="depot", over=DAY),
    "interval": lambda: qsp.bolus(1.0, to="depot").every(DAY, doses=2),
    "dose": lambda: qsp.Proportional(GRAM, "WT"),
    "WT": lambda: qsp.bolus(qsp.Proportional(5.0, "WT"), to=1).prescribe({"WT": Measured(70.0, "kg")}),
    "CL": lambda: OneCompartment(CL=GRAM, V=2.0),
    "V": lambda: qsp.at(OneCompartment(CL=1.0, V=2.0), "V").set(GRAM),
    "ts": lambda: qsp.simulate(OneCompartment(CL=1.0, V=2.0), qsp.no_doses(), Measured([0.0, 1.0], "d")),
    "t0": lambda: qsp.simulate(OneCompartment(CL=1.0, V=2.0), qsp.no_doses(), [1.0], t0=DAY),
    "initial": lambda: qsp.simulate(Patient(k=0.1), qsp.no_doses(), [0.0], initial=Amounts(GRAM, 0.0)),
    "AGE": lambda: qsp.Cohort.of(OneCompartment(CL=1.0, V=2.0), {}, covariates={"AGE": [DAY]}),
    "time": lambda: Measurements([Measured(1.0, "d")], [1.0], output="c"),
    "value": lambda: Measurements([1.0], Measured([1.0], "g"), output="c"),
    "start": lambda: Free(GRAM),
    "median": lambda: qsp.LogNormal(GRAM, cv=0.3),
    "between": lambda: qsp.endpoints.AUC("concentration", between=(0.0, DAY)),
}


@pytest.mark.parametrize("argument", WITH_UNITS)
def test_a_unit_is_not_dropped(argument):
    with pytest.raises(ValueError, match=rf"`{argument}` must be a number in the model's unit, but has the unit .+: w"):
        WITH_UNITS[argument]()


def test_a_quantity_of_pint_is_told_the_unit_of_a_parameter():
    unit = pytest.importorskip("pint").UnitRegistry()
    with pytest.raises(ValueError, match=r"has the unit ml: write `\.to\(\"L/h\"\)\.magnitude`"):
        OneCompartment(CL=3.0 * unit.mL, V=30.0)
    with pytest.raises(ValueError, match=r"`amount` must be a number in the model's unit, but has the unit g: write"):
        qsp.bolus(0.2 * unit.g, to="depot")


def test_the_line_that_is_named_is_not_of_the_standard_library():
    class Rounded(Patient):
        def vector_field(self, t, y):
            return Amounts(-statistics.median([y.drug, 1.0]), 0.0)

    with pytest.raises(ValueError, match=r"`return Amounts\(-statistics"):
        qsp.simulate(Rounded(k=0.1), qsp.no_doses(), [0.0, 1.0])

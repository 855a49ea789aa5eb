"""What a model says beside its equations, in every wrapper of a model: values and gradients against closed forms.

The wrappers are found by their fields: a class of models that holds a model must be here, with what makes one.
"""

import dataclasses
import importlib
import pkgutil
import typing
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._declared import AbstractEchoing, AbstractWrapper, Declared, Echoes, declared
from qspjax._model import TRAITS, AbstractModel
from qspjax._names import at
from qspjax.fit.data._trigger_history import WithTriggerHistory
from qspjax.models._pd import AbstractResponse
from qspjax.population._growth import Growing
from qspjax.solve._exposed import Exposed, Measures
from qspjax.solve.dosing._varied import Varied
from tests.systems.marks import slow_for

METHOD = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
SIZE = 1e-12  # of the states
TS = jnp.array([1.0, 3.0, 6.0, 9.0, 12.0])
P = jnp.array([0.2, 0.9, 0.7, 0.5, 0.04, 1.5, 8.0])
NAMES = ("k", "r", "F", "lag", "later", "wait", "dose")


def truth(p):
    """The amount, in `SIZE`, at `TS`: elimination k r (1 + t / 10) from the lag on, a refill at 3, then another k."""
    k, r, F, lag, later, wait, dose = p

    def passed(since, until):
        """Return the integral of 1 + t / 10."""
        return until - since + (until**2 - since**2) / 20.0

    first = 10.0 * (jnp.sqrt(1.0 + 0.2 * (passed(0.0, lag) + jnp.log(F * dose / 3.0) / (k * r))) - 1.0)
    second = first + wait
    known = F * dose * jnp.exp(-k * r * passed(lag, TS))
    refilled = 8.0 * jnp.exp(-k * r * passed(first, TS))
    switched = 8.0 * jnp.exp(-k * r * passed(first, second) - later * r * passed(second, TS))
    return jnp.select([lag > TS, first > TS, second > TS], [jnp.zeros_like(TS), known, refilled], switched)


class Amounts(NamedTuple):
    central: jax.Array
    share: jax.Array


class Everything(qsp.AbstractEventful, qsp.AbstractAlgebraic, qsp.AbstractDelivered, qsp.AbstractSized):
    """An amount whose eliminated share is algebraic; it has a lag, a refill when it is low, and another rate later."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")
    r: jax.Array = qsp.parameter(unit="", doc="share that is eliminated at the start")
    F: jax.Array = qsp.parameter(unit="", doc="bioavailability")
    lag: jax.Array = qsp.parameter(unit="h", doc="lag")
    later: jax.Array = qsp.parameter(unit="1/h", doc="k some time after the refill")
    wait: jax.Array = qsp.parameter(unit="h", doc="that time")
    spare: jax.Array = qsp.parameter(unit="", doc="what nothing depends on", default=1.0)

    def initial(self):
        return Amounts(0.0, self.r)

    def vector_field(self, t, y):
        return Amounts(-self.k * y.share * y.central, y.share - self.r * (1.0 + t / 10.0))

    def observe(self, t, y):
        return {"amount": y.central / SIZE}

    def refill(self):
        def low(t, y):
            return y.central < 3.0 * SIZE

        # of the two at one time the second comes first: (3 + 1) 2 = 8, not 3 2 + 1
        return (
            qsp.Event(
                low, lambda t, y: {"central": 2.0 * y.central}, priority=lambda t, y: 1.0, from_trigger_time=False
            ),
            qsp.Event(low, lambda t, y: {"central": y.central + SIZE}, priority=lambda *_: 2.0),
        )

    def events(self):
        def switch(t, y):
            return y.central < 3.0 * SIZE

        late = qsp.Event(switch, lambda t, y: {"k": self.later}, delay=lambda t, y: self.wait, pending=1)
        return (*self.refill(), late)

    def algebraic(self):
        return ("share",)

    def deliveries(self):
        return {"tablet": qsp.Delivery("central", scale=SIZE, lag=self.lag, bioavailability=self.F)}

    def sizes(self):
        return {"central": SIZE}


class Refilled(Everything):
    """The same without another rate: what goes on over a change from outside."""

    def events(self):
        return self.refill()


class Response(AbstractResponse, qsp.AbstractEventful, qsp.AbstractAlgebraic, qsp.AbstractDelivered, qsp.AbstractSized):
    """The same as a response; what drives it, the concentration 1, is in its vector field and in its events."""

    k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")
    own: Everything

    def initial(self):
        return self.own.initial()

    def vector_field(self, t, y, C):
        return at(self.own, "k").set(self.k * C).vector_field(t, y)

    def observe(self, t, y, C):
        return self.own.observe(t, y)

    def events(self):
        def driven(event, name):
            function = getattr(event, name)
            return None if function is None else lambda t, y, C: function(t, y)

        names = ("trigger", "assign", "delay", "priority")
        keep = {"from_trigger_time", "pending"}
        return tuple(
            qsp.Event(**{name: driven(e, name) for name in names}, **{name: getattr(e, name) for name in keep})
            for e in self.own.events()
        )

    def algebraic(self):
        return self.own.algebraic()

    def deliveries(self):
        return self.own.deliveries()

    def sizes(self):
        return self.own.sizes()


class Constant(qsp.AbstractModel):
    """A concentration of 1."""

    def initial(self):
        return {"nothing": 0.0}

    def vector_field(self, t, y):
        return y

    def observe(self, t, y):
        return {"concentration": jnp.ones(())}


class Zeros(eqx.Module):
    """A function that has learned nothing."""

    size: int = eqx.field(static=True)

    def __call__(self, x):
        return jnp.zeros(self.size) * jnp.sum(x)


EFFECT = qsp.models.Emax(E0=0.0, Emax=1.0, EC50=1.0)
TURNOVER = qsp.models.InhibitionOfLoss(kin=1.0, kout=0.5, Imax=0.8, IC50=2.0)


def model_of(p, kind=Everything):
    return kind(**dict(zip(NAMES[:-1], p, strict=False)))


def simulated(model, p, regimen=None):
    regimen = qsp.bolus(p[-1], to="tablet") if regimen is None else regimen
    return qsp.simulate(model, regimen, TS, method=METHOD)


def as_pk(p, response=TURNOVER):
    return qsp.models.Coupled(model_of(p), response, driver="amount")


def as_pk_of_pk(p):
    return simulated(qsp.models.Coupled(as_pk(p, EFFECT), TURNOVER, driver="effect"), p)


def as_pd(p):
    return simulated(qsp.models.Coupled(Constant(), Response(p[0], model_of(p))), p)


def varied(p):
    return simulated(as_pk(p), p, qsp.bolus(p[-1], to=1) + qsp.set_parameter("pk.spare", 2.0, at=2.0))


def of_a_cohort(p):
    cohort = qsp.Cohort.of(as_pk(p), {"pk.k": jnp.stack([2.0 * p[0], p[0]])}, size=2)
    solution = qsp.simulate_cohort(cohort, qsp.bolus(p[-1], to="tablet"), TS, method=METHOD)
    return jax.tree.map(lambda leaf: leaf[1], solution.observed)


MADE = {
    "Coupled": lambda model: qsp.models.Coupled(model, TURNOVER, driver="amount"),
    "Exposed": lambda model: Exposed(model, Measures(areas=("amount",))),
    "WithTriggerHistory": lambda model: WithTriggerHistory(model, jnp.ones(len(declared(model).events()))),
    "Varied": lambda model: Varied(model, ("k", "spare")),
    "Growing": lambda model: Growing(model, jnp.asarray(1e9), "amount"),
    "LatentHybrid": lambda model: qsp.models.LatentHybrid(model, Zeros(1), Zeros(1), ("measured",), 1),
    "TimeVarying": lambda model: qsp.models.TimeVarying(model, ("k",), Zeros(1)),
    "UniversalDifferentialEquation": lambda model: qsp.models.UniversalDifferentialEquation(
        model, Zeros(1), of=("t", "amount"), into=("central",)
    ),
}
"""Every wrapper, around a model."""
WRAPPERS = {
    "alone": lambda p: simulated(model_of(p), p).observed,
    "Coupled": lambda p: simulated(as_pk(p), p).observed,
    "Coupled twice": lambda p: as_pk_of_pk(p).observed,
    "Coupled as pd": lambda p: as_pd(p).observed,
    "Exposed": lambda p: simulated(MADE["Exposed"](model_of(p, Refilled)), p).observed,
    "WithTriggerHistory": lambda p: simulated(MADE["WithTriggerHistory"](model_of(p, Refilled)), p).observed,
    "Varied": lambda p: varied(p).observed,
    "Growing": lambda p: simulated(MADE["Growing"](model_of(p, Refilled)), p).observed,
    "LatentHybrid": lambda p: simulated(MADE["LatentHybrid"](model_of(p)), p).observed,
    "TimeVarying": lambda p: simulated(MADE["TimeVarying"](model_of(p)), p).observed,
    "UniversalDifferentialEquation": lambda p: (
        simulated(MADE["UniversalDifferentialEquation"](model_of(p)), p).observed
    ),
    "cohort": of_a_cohort,
}
OUTPUTS = {"Exposed": 2, "WithTriggerHistory": 2, "Growing": 2}  # before another rate
OWN = {("Growing", "events"): 1}
"""How many a wrapper has of its own: that at which growth ends."""


def found(module):
    """Yield the classes of models of a package that hold models, and the fields in which they do."""
    for name in pkgutil.walk_packages(module.__path__, "qspjax."):
        if not name.name.endswith("__main__"):
            importlib.import_module(name.name)
    kinds = [AbstractModel]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("qspjax.") and holds_a_model(kind):
            yield kind


def holds_a_model(kind):
    hints = typing.get_type_hints(kind)
    types = [hints.get(field.name) for field in dataclasses.fields(kind)]
    return any(isinstance(one, type) and issubclass(one, (AbstractModel, AbstractResponse)) for one in types)


def test_every_wrapper_is_here():
    kinds = {*found(qsp)}
    assert {kind.__name__ for kind in kinds} == MADE.keys()
    assert MADE.keys() <= WRAPPERS.keys()
    for kind in kinds:
        assert issubclass(kind, AbstractWrapper)
        assert not issubclass(kind, tuple(TRAITS.values())), "what a wrapper says stands in `declared` alone"


class Late(Everything, AbstractEchoing):
    """The same with a past."""

    def echoes(self):
        return Echoes({"central": {"share": self.lag}, "k": {"k": self.lag}}, ("lag",))


@pytest.mark.parametrize("entry", Declared._fields)
@pytest.mark.parametrize("wrapper", MADE)
def test_every_wrapper_declares_what_its_model_does(wrapper, entry):
    model = model_of(P, Late)
    (inner, outer) = (getattr(declared(one), entry)() for one in (model, MADE[wrapper](model)))
    assert set(TRAITS) == set(Declared._fields)
    assert inner
    assert len(outer) == len(inner) + OWN.get((wrapper, entry), 0)
    if entry == "echoes":
        assert [len(copies) for copies in outer.later.values()] == [1, 1]
        assert len(outer.lengths) == 1


def test_a_class_that_holds_a_model_must_declare_what_it_does():
    class Holds(qsp.AbstractDelivered):
        inner: AbstractModel

        def initial(self):
            return self.inner.initial()

        def vector_field(self, t, y):
            return self.inner.vector_field(t, y)

        def observe(self, t, y):
            return self.inner.observe(t, y)

        def deliveries(self):
            return {}

    for model in (Holds(model_of(P)), Holds(Holds(model_of(P))), Holds(as_pk(P))):
        must = r"must derive from `AbstractEventful` and define `events`, as its part `inner` does, but derives from"
        with pytest.raises(ValueError, match=rf"^Class `Holds` {must} AbstractDelivered\.$"):
            simulated(model, P, qsp.no_doses())
    assert simulated(Holds(Constant()), P, qsp.no_doses()).observed["concentration"].shape == TS.shape


@pytest.mark.parametrize("wrapper", slow_for(WRAPPERS, *WRAPPERS.keys() - {"Coupled twice", "Coupled as pd"}))
def test_every_wrapper_keeps_every_trait(wrapper):
    found, many = jax.jit(WRAPPERS[wrapper])(P)["amount"], OUTPUTS.get(wrapper)
    np.testing.assert_allclose(found[:many], truth(P)[:many], rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_keeps_the_gradients_of_every_trait(wrapper):
    many = OUTPUTS.get(wrapper)
    amount = jax.jit(lambda p: WRAPPERS[wrapper](p)["amount"][:many])
    exact = jax.jacfwd(truth)(P)[:many]
    np.testing.assert_allclose(jax.jacfwd(amount)(P), exact, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jax.jacrev(amount)(P), exact, rtol=1e-6, atol=1e-7)


METHODS = {"events": "Eventful", "algebraic": "Algebraic", "deliveries": "Delivered", "sizes": "Sized"}


@pytest.mark.parametrize("method", METHODS)
def test_a_trait_without_the_base_that_declares_it_is_refused(method):
    namespace = {method: lambda self: ()}
    must = f"must derive from `Abstract{METHODS[method]}` to define `{method}`, or nothing calls it, but derives from"
    own = type("Own", (Constant,), namespace)
    with pytest.raises(ValueError, match=rf"^Class `Own` {must} Constant\.$"):
        own()
    with pytest.raises(ValueError, match=rf"^Class `Below` {must} Own\.$"):
        type("Below", (own,), {})()
    with pytest.raises(ValueError, match=rf"^Class `Mixed` {must} Mixin, OneCompartment\.$"):
        type("Mixed", (type("Mixin", (), namespace), qsp.models.OneCompartment), {})(CL=1.0, V=1.0)
    with pytest.raises(ValueError, match=rf"^Class `Given` {must} Constant\.$"):
        type("Given", (Constant,), {method: property(namespace[method])})()
    with pytest.raises(ValueError, match=rf"^Class `Effect` {must} Emax\.$"):
        type("Effect", (qsp.models.Emax,), namespace)(E0=0.0, Emax=1.0, EC50=1.0)
    base = getattr(qsp, f"Abstract{METHODS[method]}")
    assert isinstance(type("Declared", (Constant, base), namespace)(), base)


def test_every_trait_without_its_base_is_named():
    both = type("Both", (Constant,), {"events": lambda self: (), "algebraic": lambda self: ()})
    with pytest.raises(
        ValueError, match=r"^Class `Both` must derive from .*`events`.*; and .*`algebraic`.*Constant\.$"
    ):
        both()


@pytest.mark.parametrize(
    ("name", "method"),
    [("delivery", "deliveries"), ("event", "events"), ("deliverys", "deliveries"), ("algebriac", "algebraic")],
)
def test_a_misspelt_trait_is_refused(name, method):
    must = f"must derive from `Abstract{METHODS[method]}` and define `{method}`, or nothing calls `{name}`, but derives"
    with pytest.raises(ValueError, match=rf"^Class `Own` {must} from Constant\.$"):
        type("Own", (Constant,), {name: lambda self: ()})()
    with pytest.raises(ValueError, match=rf"^Class `Effect` {must} from Emax\.$"):
        type("Effect", (qsp.models.Emax,), {name: lambda self: ()})(E0=0.0, Emax=1.0, EC50=1.0)


@pytest.mark.parametrize("name", ["sites", "elements", "amounts", "delivered", "_event"])
def test_other_names_are_free(name):
    assert isinstance(type("Own", (Constant,), {name: lambda self: ()})(), eqx.Module)


def test_a_parameter_may_be_called_as_a_trait_is():
    class Cells(Constant):
        sizes: jax.Array = qsp.parameter(unit="um", doc="sizes of the cells")

    assert Cells(sizes=[1.0, 2.0]).sizes.shape == (2,)


def test_coupled_names_states_that_a_part_names_by_their_last_part():
    class Organ(qsp.AbstractEventful, qsp.AbstractAlgebraic, qsp.AbstractDelivered, qsp.AbstractSized):
        def initial(self):
            return {"liver": Amounts(1.0, 2.0)}

        def vector_field(self, t, y):
            return y

        def observe(self, t, y):
            return {"concentration": y["liver"].central}

        def events(self):
            return (qsp.Event(lambda t, y: t > 1.0, lambda t, y: {"central": 1.0, "liver.share": 2.0, "k": 3.0}),)

        def algebraic(self):
            return ("share",)

        def deliveries(self):
            return {"tablet": qsp.Delivery("central")}

        def sizes(self):
            return {"share": 10.0}

    both = qsp.models.Coupled(Organ(), EFFECT)
    (event,) = declared(both).events()
    assert event.assign(0.0, both.initial()) == {"pk.liver.central": 1.0, "pk.liver.share": 2.0, "pk.k": 3.0}
    assert declared(both).algebraic() == ("pk.liver.share",)
    assert declared(both).deliveries()["tablet"].state == "pk.liver.central"
    assert declared(both).sizes() == {"pk.liver.share": 10.0}


def test_the_default_target_of_a_coupled_model_is_that_of_its_pharmacokinetics():
    class Tablet(Constant, qsp.AbstractDelivered):
        def deliveries(self):
            return {"tablet": qsp.Delivery("nothing")}

    response = Response(0.2, model_of(P))
    assert [*declared(qsp.models.Coupled(Constant(), response)).deliveries()] == ["pk.nothing", "tablet"]
    with pytest.raises(ValueError, match=r"^Argument `pd` must not have a dose target that .* `tablet`\.$"):
        qsp.models.Coupled(Tablet(), response)


def test_a_network_with_an_event_and_a_rule_is_the_same_when_coupled():
    network = qsp.models.Network(
        species={"drug": 10.0},
        parameters={"k": 0.1, "bound": qsp.models.Parameter(0.0, constant=False)},
        reactions={"elimination": qsp.models.Reaction("drug ->", "k * drug")},
        algebraic=["bound - drug / 2"],
        events=[qsp.models.NetworkEvent("drug < 3", {"drug": "drug + 8"})],
    )
    both = qsp.models.Coupled(network, EFFECT, driver="drug")
    found = qsp.simulate(both, qsp.no_doses(), [10.0, 15.0], method=METHOD).observed
    right = np.array([10.0 * np.exp(-1.0), 11.0 * np.exp(-1.5 + np.log(10.0 / 3.0))])
    np.testing.assert_allclose(found["drug"], right, rtol=1e-8)
    np.testing.assert_allclose(found["bound"], right / 2.0, rtol=1e-8)
    np.testing.assert_allclose(found["effect"], right / (1.0 + right), rtol=1e-8)


class Sets(Everything):
    """The same where an event sets a parameter at once."""

    def events(self):
        return (qsp.Event(lambda t, y: y.central < 3.0 * SIZE, lambda t, y: {"k": self.later}),)


@pytest.mark.parametrize(
    ("model", "regimen", "message"),
    [
        (Everything, qsp.no_doses(), r"`model` must have no delayed events where an experiment has changes, .*"),
        (Sets, qsp.no_doses(), r"`model` must have no event that sets a parameter where .* whose event sets `k`\."),
        (
            Refilled,
            qsp.set_parameter("k", 1.0, at=1.0),
            r"`regimen` must set no parameter in an experiment .* `k`\.",
        ),
        (
            Refilled,
            qsp.bolus(1.0, to="tablet", at=1.75),
            r"`regimen` must have doses that enter, with their lag, before the next change of an experiment, "
            r"but is one with a dose at 1\.75 that enters at 2\.25, after the change at 2\.",
        ),
    ],
)
def test_a_fit_refuses_what_a_change_would_forget(model, regimen, message):
    measurements = qsp.fit.Measurements([4.0], [1.0], output="amount")
    change = qsp.fit.Change(2.0, set={"r": 0.5})
    outputs = {"amount": qsp.fit.Output("amount", qsp.fit.Additive(1.0))}
    with pytest.raises(ValueError, match=rf"^Argument {message}$"):
        qsp.fit.Problem(
            model_of(P, model),
            qsp.fit.Experiment(measurements, regimen, changes=[change]),
            outputs,
            {"k": qsp.fit.Free(0.2)},
        )

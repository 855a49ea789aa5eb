"""What a model says beside its equations, in every wrapper of a model: values and gradients against closed forms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._names import at
from qspjax.fit.data._resumed import Resumed
from qspjax.models._pd import AbstractResponse
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


def resumed(p):
    return simulated(Resumed(model_of(p, Refilled), jnp.ones(2)), p)


WRAPPERS = {
    "alone": lambda p: simulated(model_of(p), p).observed,
    "pk": lambda p: simulated(as_pk(p), p).observed,
    "pk of pk": lambda p: as_pk_of_pk(p).observed,
    "pd": lambda p: as_pd(p).observed,
    "varied": lambda p: varied(p).observed,
    "cohort": of_a_cohort,
    "resumed": lambda p: resumed(p).observed,
}
OUTPUTS = {"resumed": 2}  # before another rate


@pytest.mark.parametrize("wrapper", slow_for(WRAPPERS, *WRAPPERS.keys() - {"pk of pk", "pd"}))
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
    (event,) = both.events()
    assert event.assign(0.0, both.initial()) == {"pk.liver.central": 1.0, "pk.liver.share": 2.0, "pk.k": 3.0}
    assert both.algebraic() == ("pk.liver.share",)
    assert both.deliveries()["tablet"].state == "pk.liver.central"
    assert both.sizes() == {"pk.liver.share": 10.0}


def test_the_default_target_of_a_coupled_model_is_that_of_its_pharmacokinetics():
    class Tablet(Constant, qsp.AbstractDelivered):
        def deliveries(self):
            return {"tablet": qsp.Delivery("nothing")}

    response = Response(0.2, model_of(P))
    assert [*qsp.models.Coupled(Constant(), response).deliveries()] == ["pk.nothing", "tablet"]
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

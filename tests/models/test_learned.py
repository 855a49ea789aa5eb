"""Functions that are learned from data in formulas and in networks, against the same equations written by hand."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qspjax as qsp
from qspjax._expression import evaluate, functions_in, learned, parse, symbol
from qspjax._fingerprint import fingerprint
from qspjax._jaxpr._sparsity import jacobian_pattern
from qspjax.models import AbstractTerm, Network, Reaction

METHOD = qsp.solve.Rosenbrock(rtol=1e-10, atol=1e-12)
TS = jnp.array([0.0, 1.0, 3.0, 6.0])
DOSE = qsp.bolus(5.0, to="drug", at=1.0)


class Dense(AbstractTerm):
    """A positive network of one hidden layer."""

    mlp: eqx.nn.MLP
    inputs: int = eqx.field(static=True, default=2)

    def __call__(self, *inputs):
        values = jax.nn.softplus(self.mlp(jnp.stack([jnp.asarray(x, float) for x in inputs]) / 10.0))
        return values[0] if self.outputs is None else values


def dense(seed=0, outputs=None, **fields):
    mlp = eqx.nn.MLP(2, outputs or 1, 4, 1, activation=jax.nn.tanh, key=jax.random.key(seed))
    return Dense(mlp, outputs=outputs, **fields)


def network(**changes):
    arguments = {
        "species": {"drug": 10.0, "target": 5.0, "complex": 0.0},
        "parameters": {"kon": 0.1},
        "reactions": {
            "binding": Reaction("drug + target -> complex", "kon * drug * target"),
            "loss": Reaction("drug ->", "f(drug, target) * drug"),
            "decay": Reaction("complex ->", lambda g, complex: g(complex, 1.0, output=1) * complex),
        },
        "rules": {"seen": "g[0](drug, complex)"},
        "functions": {"f": dense(1), "g": dense(2, outputs=2)},
    }
    return Network(**{**arguments, **changes})


class ByHand(qsp.AbstractModel):
    """The same equations."""

    kon: jax.Array = qsp.parameter(unit="", doc="association rate constant")
    f: Dense
    g: Dense

    def initial(self):
        return {"drug": 10.0, "target": 5.0, "complex": 0.0}

    def vector_field(self, t, y):
        drug, target, complex = y["drug"], y["target"], y["complex"]
        binding, loss, decay = self.kon * drug * target, self.f(drug, target) * drug, self.g(complex, 1.0)[1] * complex
        return {"drug": -binding - loss, "target": -binding, "complex": binding - decay}

    def observe(self, t, y):
        return {"drug": y["drug"], "seen": self.g(y["drug"], y["complex"])[0]}


# --- formulas -------------------------------------------------------------------------------------------------------


def test_text_is_read_back():
    text = "2 * f(x, y + 1)^2 - f[1](x, 3) * g(-x)"
    formula = parse(text, functions={"f", "g"})
    assert str(formula) == text
    assert parse(str(formula), functions={"f", "g"}) is formula
    assert pickle.loads(pickle.dumps(formula)) is formula
    assert functions_in(formula) == ("f", "g")
    assert formula is not parse(text.replace("g(", "f("), functions={"f"})
    assert fingerprint(formula) != fingerprint(parse(text.replace("g(", "h("), functions={"f", "h"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f[x](1)", "there must be the number of an output at character 3, but there is `x`"),
        ("f[1]", r"there must be `\(` at character 5"),
        ("f()", "must be at least 1 for `f`"),
        ("h(2)", "there must be a known function at character 1, but there is `h`"),
    ],
)
def test_text_that_is_no_call(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, functions={"f"})


def test_a_call_is_made_once_for_all_outputs():
    calls = []

    def f(x, y):
        calls.append((x, y))
        return jnp.stack([x + y, x * y])

    values = {"f": f, "x": jnp.array(2.0), "y": 3.0}
    formulas = [parse(text, functions={"f"}) for text in ("f[0](x, y)", "1 + f[1](x, y)", "f[0](x, 1)")]
    assert [float(value) for value in evaluate(formulas, values, 0.0)] == [5.0, 7.0, 3.0]
    assert len(calls) == 2


def test_arrays_are_taken_element_by_element():
    formula = parse("f[1](x, k)", functions={"f"})
    x = jnp.arange(6.0).reshape(2, 3)
    (values,) = evaluate([formula], {"f": lambda x, k: jnp.stack([x, x * k]), "x": x, "k": 2.0}, 0.0)
    assert (values == 2.0 * x).all()


def test_a_branch_that_is_not_taken_has_no_derivative():
    (formula,) = [parse("piecewise(f(x), x > 0, x^2)", functions={"f"})]

    def value(x):
        return evaluate([formula], {"f": lambda x: jnp.log(x), "x": x}, 0.0)[0]

    assert jax.grad(value)(-1.5) == -3.0
    assert jax.grad(value)(2.0) == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [({"x": 1.0}, "have a function for `f`"), ({"x": 1.0, "f": 2.0}, "have a function for `f`, but is a number")],
)
def test_a_function_that_is_missing(values, message):
    with pytest.raises(ValueError, match=message):
        evaluate([learned("f", symbol("x"))], values, 0.0)


# --- networks -------------------------------------------------------------------------------------------------------


def test_equations_are_printed_with_weights():
    assert str(network().equations()).splitlines()[3:] == [
        "binding = kon * drug * target",
        "loss = f_theta(drug, target) * drug",
        "decay = g_theta[1](complex, 1) * complex",
        "seen = g_theta[0](drug, complex)",
    ]
    assert network().terms("drug")[1] == "loss = f_theta(drug, target) * drug"


def test_values_and_gradients_by_hand():
    model, by_hand = network(), ByHand(kon=0.1, f=dense(1), g=dense(2, outputs=2))

    def last(model):
        solution = qsp.simulate(model, DOSE, TS, method=METHOD)
        return solution.observed["drug"][-1] + solution.observed["seen"][2]

    value, gradient = eqx.filter_value_and_grad(last)(model)
    expected, by_hand_gradient = eqx.filter_value_and_grad(last)(by_hand)
    np.testing.assert_allclose(value, expected, rtol=1e-8)
    for name in ("f", "g"):
        leaves = zip(*map(jax.tree.leaves, (gradient.functions[name], getattr(by_hand_gradient, name))), strict=True)
        for ours, theirs in leaves:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-10)


def test_pattern_of_the_jacobian_holds_the_arguments():
    model = network()
    y = model.initial()
    arrays, static = eqx.partition(model, eqx.is_array)
    pattern = jacobian_pattern(lambda y, arrays: eqx.combine(arrays, static).vector_field(0.0, y), y, arrays)
    exact = jax.jacfwd(lambda x: jnp.stack([*model.vector_field(0.0, type(y)(y.labels, tuple(x))).values]))(
        jnp.array([3.0, 2.0, 1.0])
    )
    assert (np.asarray(pattern) >= (np.asarray(exact) != 0.0)).all()
    assert np.asarray(pattern)[0, 1]  # d drug' / d target


def test_edits_keep_functions():
    model = network()
    renamed = model.rename({"f": "uptake", "drug": "A"})
    assert renamed.equations().rates[1] == "loss = uptake_theta(A, target) * A"
    assert eqx.tree_equal(renamed.functions["uptake"], model.functions["f"])
    same = qsp.simulate(renamed, qsp.bolus(5.0, to="A", at=1.0), TS, method=METHOD).observed["A"]
    np.testing.assert_array_equal(same, qsp.simulate(model, DOSE, TS, method=METHOD).observed["drug"])
    other = model.replace("f", dense(7)).replace("loss", rate="2 * f(drug, 1)").add(parameters={"k": 1.0})
    assert other.equations().rates[1] == "loss = 2 * f_theta(drug, 1)"
    assert eqx.tree_equal(other.functions["f"], dense(7))
    without = model.replace("loss", rate="kon * drug").drop("f")
    assert [*without.functions] == ["g"]
    more = without.add(functions={"h": dense(3)}, rules={"more": "h(drug, target)"})
    assert more.equations().rules[1] == "more = h_theta(drug, target)"
    assert [*more.functions] == ["g", "h"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: network().drop("f"), "`f` must not be used by what stays, but is by reaction loss"),
        (lambda: network().replace("loss", rate="f(drug)"), "`loss` must call `f` with 2 inputs, but calls `f.drug.`"),
        (lambda: network().replace("loss", rate="f[0](drug, 1)"), "`loss` must call `f` without the number of an out"),
        (lambda: network().replace("loss", rate="g(drug, 1)"), "`loss` must say which output of `g` is meant, as in"),
        (lambda: network().replace("loss", rate="g[2](drug, 1)"), "`loss` must use outputs 0 to 1 of `g`, but is"),
        (lambda: Network(network().definition), "`loss` must call functions that are given, but calls `f`"),
        (lambda: network().add(functions={"exp": dense()}), "must name functions by words that formulas do not know"),
        (lambda: network().add(functions={"f": dense()}), "must be new, but `f` is there already"),
        (lambda: network(functions={"f": dense(), "g": 3}), "`g` must be a term, such as models.NeuralRate"),
        (lambda: network(functions={"f": dense(), "g": dense(2, 2), "kon": dense()}), "`kon` must be the id of one"),
        (lambda: network().replace("f", unit="1/h"), "must be none for `f`, which is replaced by a term"),
        (lambda: network().rename({"f": "g"}), "but `g` would be that of two"),
        (lambda: network().replace("target", rule="rateOf(seen)", boundary=True), "`g` not supported|`output` not"),
    ],
)
def test_networks_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_files_refuse_what_is_learned():
    problem = "must consist of formulas to be written as {}, but `loss` calls `f`, which is learned"
    with pytest.raises(ValueError, match=problem.format("SBML")):
        qsp.io.write_sbml(network())
    with pytest.raises(ValueError, match=problem.format("Antimony")):
        qsp.io.write_antimony(network())


def test_units_are_those_that_a_term_states():
    def checked(unit):
        model = Network(
            species={"drug": qsp.models.Species(1.0, unit="mg")},
            reactions={"loss": Reaction("drug ->", "f(drug, 1) * drug")},
            functions={"f": dense(unit=unit)},
            time_unit="h",
        )
        return [str(problem) for problem in model.check_units()]

    assert checked("1/h") == checked("") == []
    assert checked("mg/h") == ["`loss` must be in mg/h, but `f(drug, 1) * drug` is in mg ** 2 / h."]


def test_names_cohorts_and_events():
    model = network(
        events=[qsp.models.NetworkEvent("f(drug, target) < 0.1", {"kon": "0.05 + 0 * g[0](drug, 1)"}, name="slower")]
    )
    assert [one.name for one in qsp.names(model)] == ["drug", "target", "complex", "kon"]
    cohort = qsp.Cohort.of(model, {"kon": jnp.array([0.1, 0.3])})
    both = qsp.simulate_cohort(cohort, DOSE, TS, method=METHOD).observed["drug"]
    for k, kon in enumerate((0.1, 0.3)):
        alone = qsp.simulate(qsp.at(model, "kon").set(kon), DOSE, TS, method=METHOD).observed["drug"]
        np.testing.assert_allclose(both[k], alone, rtol=1e-8)


def test_a_large_network_groups_calls():
    sizes = range(130)
    species = {f"A{i}": 1.0 + i / 10.0 for i in sizes}
    reactions = {f"r{i}": Reaction(f"A{i} -> A{(i + 1) % 130}", f"f(A{i}, A0) + g[1](A{i}, 2)") for i in sizes}
    f, g = dense(1), dense(2, outputs=2)
    model = Network(species=species, reactions=reactions, functions={"f": f, "g": g})
    start = jnp.array([*species.values()])
    slope = model.vector_field(0.0, model.initial()).values
    rates = jax.vmap(lambda x: f(x, start[0]) + g(x, 2.0)[1])(start)
    np.testing.assert_allclose(slope, jnp.roll(rates, 1) - rates, rtol=1e-12)

"""From a distilled formula back into the network, and to the data: they have the last word on which formula it is."""

import dataclasses
import re
from collections.abc import Mapping
from typing import cast

import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_instance, check_one_of, check_whole, refuse
from qspjax._expression import Expression, substitute, symbol
from qspjax._expression._tree import rebuilt
from qspjax.discover._distil import Candidate, Distilled
from qspjax.discover._missing import bic, changed, started
from qspjax.fit import Fit, Free, Weights
from qspjax.models.network import Definition, Network
from qspjax.models.network._rewriting import rewritten


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """Formulas in place of a learned function, fitted to the data, the best first.

    Attributes:
        candidates: The formulas.
        fits: The fits with them.
        bic: Their information criteria, of the data.

    Example:
        >>> import qspjax as qsp
        >>> qsp.discover.Confirmed.__name__
        'Confirmed'
    """

    candidates: tuple[Candidate, ...]
    fits: tuple[Fit, ...]
    bic: tuple[float, ...]

    @property
    def network(self) -> Network:
        """The network with the best formula and its estimates."""
        return cast(Network, self.fits[0].problem.fitted_model(jnp.asarray(self.fits[0].x)))

    def table(self) -> dict[str, np.ndarray]:
        """Return the formulas as columns: `formula`, `constants`, `log_density`, `bic`, `evidence` (ratio)."""
        difference = np.array(self.bic) - self.bic[0]
        return {
            "formula": np.array([str(one.expression) for one in self.candidates], dtype=object),
            "constants": np.array([one.constants for one in self.candidates]),
            "log_density": np.array([fit.log_density for fit in self.fits]),
            "bic": np.array(self.bic),
            "evidence": np.exp(np.minimum(0.5 * difference, 700.0)),
        }

    def __str__(self) -> str:
        table = self.table()
        lines = [f"{'formula':<56}{'constants':>10}{'BIC':>12}{'evidence ratio':>16}"]
        for k in range(len(self.fits)):
            numbers = f"{table['constants'][k]:>10}{table['bic'][k]:>12.1f}{table['evidence'][k]:>16.3g}"
            lines.append(f"{table['formula'][k]:<56}{numbers}")
        return "\n".join(lines)


def into(distilled: Distilled, network: Network, function: str, *, candidate: int = 0) -> Network:
    """Return a network in which a formula stands for a learned function, wherever that is called.

    Args:
        distilled: What `distil` found for the function.
        network: The network.
        function: The name of the function.
        candidate: The number of the formula, the best first.

    Returns:
        The network with the parameters of the formula and without the function. Names that it has already get that of
        the function in front.

    Raises:
        ValueError: If there is no such function or formula, or it has another number of inputs.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, qspjax as qsp
        >>> class Saturation(qsp.models.AbstractTerm):
        ...     most: jax.Array
        ...     half: jax.Array
        ...     inputs: int = eqx.field(static=True, default=1)
        ...
        ...     def __call__(self, drug):
        ...         return self.most * drug / (self.half + drug)
        >>> rate = Saturation(jnp.array(2.0), jnp.array(5.0))
        >>> network = qsp.models.Network(
        ...     species={"drug": 10.0},
        ...     reactions={"loss": qsp.models.Reaction("drug ->", "uptake(drug)")},
        ...     functions={"uptake": rate},
        ... )
        >>> found = qsp.discover.distil(rate, {"c": jnp.linspace(0.5, 20.0, 40)}, library=qsp.discover.Library(terms=1))
        >>> print(qsp.discover.into(found, network, "uptake").equations().rates[0])
        loss = Vmax * drug / (Km + drug)
    """
    check_instance("distilled", distilled, Distilled, "what `distil` returns")
    check_instance("network", network, Network, "a Network")
    known = network.definition.functions
    check_one_of("function", function, known, "a learned function of the network")
    check_whole("candidate", candidate, 0)
    if candidate >= len(distilled.candidates):
        refuse("candidate", f"be the number of a candidate (0 to {len(distilled.candidates) - 1})", candidate)
    if known[function].outputs is not None:
        refuse("function", "have one output", f"one with {known[function].outputs}")
    inputs = [*distilled.inputs]
    if known[function].inputs != len(inputs):
        refuse("function", f"have the inputs of the formula ({', '.join(inputs)})", f"of {known[function].inputs}")
    names = parameter_names(distilled.candidates[candidate], network.definition, function)
    return _substituted(network, function, distilled.candidates[candidate], inputs, names)


def parameter_names(candidate: Candidate, definition: Definition, function: str) -> dict[str, str]:
    """Return what the parameters of a formula are called in a network."""
    taken = {*definition.ids(), *definition.functions}
    return {name: f"{function}_{name}" if name in taken else name for name in candidate.parameters}


def _substituted(
    network: Network, function: str, candidate: Candidate, inputs: list[str], names: Mapping[str, str]
) -> Network:
    own: dict[str, object] = {name: symbol(new) for name, new in names.items()}

    def change(part: Expression) -> Expression | None:
        if part.op != "learned" or part.value != function:
            return None
        return substitute(candidate.expression, {**own, **dict(zip(inputs, part.args, strict=True))})

    with_parameters = network.add(parameters={new: candidate.parameters[name] for name, new in names.items()})
    old = with_parameters.definition
    new = rewritten(old, lambda formula: rebuilt([formula], change)[0])
    tables: dict[str, object] = {}
    for argument, table in (("reactions", "reactions"), ("rules", "assignments"), ("rates", "rates"), ("initial",) * 2):
        before, after = getattr(old, table), getattr(new, table)
        if differing := {id: one for id, one in after.items() if one != before[id]}:
            tables[argument] = differing
    if new.algebraic != old.algebraic:
        tables["algebraic"] = new.algebraic
    if events := [one for one, before in zip(new.events, old.events, strict=True) if one != before]:
        tables["events"] = events
    return (with_parameters.replace(**tables) if tables else with_parameters).drop(function)


def confirm(distilled: Distilled, fit: Fit, function: str, *, most: int = 4) -> Confirmed:
    """Fit the best formulas for a learned function to the data, in its place, and rank them by what the data say.

    Args:
        distilled: What `distil` found for the function.
        fit: The fit with the function.
        function: Its name in the network of the problem.
        most: How many formulas are fitted, those that `distil` ranks first.

    Raises:
        ValueError: If there is no such function.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Measurements, Output, Problem, Weights, estimate
        >>> class Slope(qsp.models.AbstractTerm):
        ...     weight: jax.Array
        ...     inputs: int = eqx.field(static=True, default=1)
        ...
        ...     def __call__(self, drug):
        ...         return self.weight * drug
        >>> network = qsp.models.Network(
        ...     species={"drug": 10.0},
        ...     reactions={"loss": qsp.models.Reaction("drug ->", "f(drug)")},
        ...     functions={"f": Slope(jnp.array(0.1))},
        ... )
        >>> data = Measurements([1.0, 4.0, 8.0], [8.2, 4.5, 2.0], output="drug")
        >>> outputs = {"drug": Output("drug", Additive(0.1))}
        >>> fit = estimate(Problem(network, Experiment(data), outputs, {"f": Weights()}))
        >>> found = qsp.discover.distil(fit.problem.networks(fit.x)["f"], {"drug": (1.0, 10.0)})
        >>> print(qsp.discover.confirm(found, fit, "f", most=1).network.equations().rates[0])
        loss = k * drug
    """
    check_instance("fit", fit, Fit, "what `fit.estimate` returns")
    check_instance("fit", fit.problem.model, Network, "the fit of a problem whose model is a Network")
    check_whole("most", most, 1)
    found = []
    for number, candidate in enumerate(distilled.candidates[:most]):
        fitted = cast(Network, fit.problem.fitted_model(jnp.asarray(fit.x)))
        network = into(distilled, fitted, function, candidate=number)
        names = parameter_names(candidate, fitted.definition, function)
        learned = {name for name, one in fit.problem.parameters.items() if isinstance(one, Weights)}
        kept = {
            name: one
            for name, one in fit.problem.parameters.items()
            if name not in learned or function not in re.split(r"\W+", name.removeprefix("functions"))[:2]
        }
        own = {new: Free(candidate.parameters[name]) for name, new in names.items()}
        found.append((candidate, started(changed(fit.problem, network, {**kept, **own}), fit)))
    order = sorted(found, key=lambda pair: bic(pair[1]))
    candidates, fits = zip(*order, strict=True)
    return Confirmed(candidates, fits, tuple(bic(one) for one in fits))

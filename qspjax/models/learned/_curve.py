"""A learned rate against one of its inputs, with its uncertainty, as columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qspjax._checks import check_instance, check_one_of, check_whole, refuse
from qspjax._types import ArrayInput
from qspjax.models.learned._contract import AbstractTerm


def learned_curve(
    term: AbstractTerm | Sequence[AbstractTerm],
    values: Mapping[str, ArrayInput],
    *,
    stacked: bool = False,
    output: int = 0,
    level: float = 0.9,
) -> dict[str, Float[np.ndarray, " values"]]:
    """Return what a term is over values of one input, with the others held, and the band of an ensemble.

    Args:
        term: The term; or a sequence of terms of one structure, the members of an ensemble or draws of the weights.
        values: By the name of the input, values of it, shape (values,), and for each other input the number at which
            it is held; a `NeuralRate` and its like are held at the nominal size of an input that is missing. The inputs
            of other terms are `x0`, `x1` and so on.
        stacked: Whether the term is several in one: its weights have a leading axis, that of the members.
        output: The number of the output, of a term with several.
        level: The part of the members that the band holds.

    Returns:
        Columns: the input by its name, `rate` (of several terms the median), and for several `low` and `high`, the
        quantiles of the band.

    Raises:
        ValueError: If not exactly one input has several values, or an input is unknown.

    Example:
        >>> import jax
        >>> from qspjax.models import NeuralRate, Positive, learned_curve
        >>> draws = [NeuralRate.mlp(["drug"], output=Positive(), key=jax.random.key(i)) for i in range(5)]
        >>> table = learned_curve(draws, {"drug": [0.0, 1.0, 2.0]})
        >>> [*table], table["rate"].shape, bool((table["low"] <= table["rate"]).all())
        (['drug', 'rate', 'low', 'high'], (3,), True)
    """
    if not isinstance(term, AbstractTerm):
        term, stacked = _stacked(term), True
    check_whole("output", output, 0)
    if not 0.0 < level < 1.0:
        refuse("level", "be between 0 and 1", level)
    names: tuple[str, ...] = getattr(term, "names", tuple(f"x{i}" for i in range(term.inputs)))
    varied = [name for name, value in values.items() if np.asarray(value).ndim == 1]
    for name in values:
        check_one_of("values", name, names, "an input of the term")
    if len(varied) != 1:
        refuse("values", "have an array for one input and a number for each other", f"arrays for {len(varied)}")
    sizes = {name: scale.size for name, scale in zip(names, getattr(term, "scales", ()), strict=False)}
    missing = [name for name in names if name not in values and name not in sizes]
    if missing:
        refuse("values", f"have a number for `{missing[0]}`", "without one")
    over = jnp.asarray(values[varied[0]], float)
    columns = [over if name in varied else jnp.asarray(values.get(name, sizes.get(name)), float) for name in names]
    axes = [0 if name in varied else None for name in names]

    def curve(term: Any) -> jax.Array:
        result = jax.vmap(term, axes)(*columns)
        return result if term.outputs is None else result[:, output]

    if not stacked:
        return {varied[0]: np.asarray(over), "rate": np.asarray(curve(term))}
    weights, rest = eqx.partition(term, eqx.is_inexact_array)
    curves = np.asarray(jax.lax.map(lambda one: curve(eqx.combine(one, rest)), weights))
    found = np.quantile(curves, [0.5, (1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    return {varied[0]: np.asarray(over), "rate": found[0], "low": found[1], "high": found[2]}


def _stacked(members: Sequence[AbstractTerm]) -> AbstractTerm:
    """Return terms as one whose weights have a leading axis."""
    if not isinstance(members, Sequence) or not members:
        refuse("term", "be a term, such as models.NeuralRate, or a sequence of terms", type(members).__name__)
    for member in members:
        check_instance("term", member, AbstractTerm, "a term, or a sequence of terms")
    pairs = [eqx.partition(member, eqx.is_inexact_array) for member in members]
    leaves = [jax.tree.leaves(weights) for weights, _ in pairs]
    shapes = [[*map(np.shape, one)] for one in leaves]
    if any(shape != shapes[0] for shape in shapes):
        refuse("term", "be terms with weights of the same shapes", "terms that differ")
    stacked = [jnp.stack(column) for column in zip(*leaves, strict=True)]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(pairs[0][0]), stacked), pairs[0][1])

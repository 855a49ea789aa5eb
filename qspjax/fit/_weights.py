"""Array-valued parameters to estimate: the weights of a network, all of them by one name."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from qspjax._checks import ArgumentError, check_instance, check_one_of, did_you_mean, in_a_row, refuse
from qspjax._distribution import AbstractDistribution
from qspjax._model import AbstractModel
from qspjax._names import follow, part_paths
from qspjax._parameters import AbstractChecked
from qspjax._random import generator
from qspjax._types import Key
from qspjax.models import AbstractTerm

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
"""A step of a path: an attribute or a key, or a number in brackets."""


class Weights(AbstractChecked):
    """The weights of a network, or any other arrays of a model, as one parameter to estimate.

    Its name among the parameters is that of the part of the model that holds them, such as `rate`, `rate.layers[0]` or
    `rate.layers[0].weight`, or that of a function of the problem; it stands for all floating-point arrays in it. The
    search begins with the weights that the part has. They have no bounds.

    Args:
        prior: The distribution of each weight, such as `Normal(0.0, sd=1.0)`: weight decay by 1 / sd^2.

    Raises:
        ValueError: If the prior is no distribution.

    Example:
        >>> import equinox as eqx, jax, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, Weights
        >>> class Learned(qsp.AbstractModel):
        ...     V: jax.Array = qsp.parameter(unit="L", doc="volume of distribution")
        ...     k: eqx.nn.MLP
        ...
        ...     def initial(self):
        ...         return {"central": 0.0}
        ...
        ...     def vector_field(self, t, y):
        ...         return {"central": -jax.nn.softplus(self.k(y["central"] / self.V)) * y["central"]}
        ...
        ...     def observe(self, t, y):
        ...         return {"concentration": y["central"] / self.V}
        >>> network = eqx.nn.MLP("scalar", "scalar", width_size=4, depth=1, key=jax.random.key(0))
        >>> problem = Problem(
        ...     Learned(V=30.0, k=network),
        ...     Experiment(Measurements([1.0, 4.0, 8.0], [3.0, 2.1, 1.2], output="c"), qsp.bolus(100.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"V": Free(30.0), "k": Weights(prior=qsp.Normal(0.0, sd=1.0))},
        ... )
        >>> len(problem.names), problem.names[:2]
        (14, ('V', 'k.layers[0].weight[0]'))
    """

    prior: AbstractDistribution | None = None

    def __check_init__(self) -> None:
        if self.prior is not None:
            check_instance("prior", self.prior, AbstractDistribution, "a distribution such as Normal(0.0, sd=1.0)")


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """The weights of one part, and their place among all.

    Attributes:
        name: The name of the part.
        path: The attributes, keys and numbers that lead to it.
        part: The part with the weights at which a search begins.
        of_model: Whether it is a part of the model, or of the functions of the problem.
        prior: The distribution of each weight.
        first: The number of weights before them.
    """

    name: str
    path: tuple[str | int, ...]
    part: PyTree
    of_model: bool
    prior: AbstractDistribution | None
    first: int

    @cached_property
    def start(self) -> Float[np.ndarray, " weights"]:
        """The weights at which a search begins."""
        return np.asarray(self.raveled(self.part))

    @property
    def size(self) -> int:
        """The number of weights."""
        return self.start.size

    @property
    def place(self) -> slice:
        """Their place among all weights."""
        return slice(self.first, self.first + self.size)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The name of each weight."""
        leaves = jax.tree_util.tree_flatten_with_path(eqx.filter(self.part, eqx.is_inexact_array))[0]
        return tuple(
            f"{self.name}{jax.tree_util.keystr(path)}" + (f"[{i}]" if np.ndim(leaf) else "")
            for path, leaf in leaves
            for i in range(np.size(leaf))
        )

    def raveled(self, part: PyTree) -> Float[Array, " weights"]:
        """Return the weights of a part as one vector."""
        return jnp.asarray(ravel_pytree(eqx.filter(part, eqx.is_inexact_array))[0], float)

    def filled(self, weights: Float[Array, " all"]) -> PyTree:
        """Return the part with its weights among all."""
        arrays, static = eqx.partition(self.part, eqx.is_inexact_array)
        return eqx.combine(ravel_pytree(arrays)[1](weights[self.place]), static)


class Blocks:
    """All weights that are estimated.

    Attributes:
        blocks: Those of each part, in the order of the parameters.
        functions: The functions that formulas use, by name.
    """

    def __init__(
        self,
        model: AbstractModel,
        parameters: Mapping[str, object],
        functions: Mapping[str, AbstractTerm] | None = None,
    ) -> None:
        """Find the parts in a model, or among functions.

        Raises:
            ValueError: If there is no such part, it has no weights, or two parts share some.
        """
        self.functions = dict(functions or {})
        blocks: list[Block] = []
        for name, value in parameters.items():
            if isinstance(value, Weights):
                first = sum(block.size for block in blocks)
                blocks.append(_block(model, self.functions, name, value.prior, first))
        self.blocks = tuple(blocks)
        _check_apart(self.blocks, [name for name, value in parameters.items() if not isinstance(value, Weights)])

    @cached_property
    def size(self) -> int:
        """The number of weights."""
        return sum(block.size for block in self.blocks)

    @cached_property
    def start(self) -> Float[np.ndarray, " weights"]:
        """Where a search begins."""
        return np.concatenate([np.zeros(0), *(block.start for block in self.blocks)])

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The name of each weight."""
        return tuple(label for block in self.blocks for label in block.labels)

    @cached_property
    def of_model(self) -> Bool[np.ndarray, " weights"]:
        """Which weights are those of the model, so that simulations depend on them."""
        return np.concatenate([np.zeros(0, bool), *(np.full(block.size, block.of_model) for block in self.blocks)])

    @property
    def learned(self) -> frozenset[str]:
        """The names of the functions that have any of them."""
        return frozenset(str(block.path[0]) for block in self.blocks if not block.of_model)

    def parts(self, weights: Float[Array, " weights"]) -> dict[str, PyTree]:
        """Return the parts with these weights, by name."""
        return {block.name: block.filled(weights) for block in self.blocks}

    def placed(self, model: AbstractModel, weights: Float[Array, " weights"]) -> AbstractModel:
        """Return a model with these weights."""
        for block in self.blocks:
            if block.of_model:
                model = eqx.tree_at(lambda tree, block=block: follow(tree, block.path), model, block.filled(weights))
        return model

    def without(self, model: AbstractModel, name: str) -> AbstractModel:
        """Return a model in which a part, called by the rest, gives zero.

        Raises:
            ValueError: If there is no such part of the model.
        """
        blocks = {block.name: block for block in self.blocks if block.of_model}
        check_one_of("term", name, blocks, "a part of the model whose weights are estimated")
        block = blocks[name]
        return eqx.tree_at(lambda tree: follow(tree, block.path), model, _Nothing(block.part))

    def callables(self, weights: Float[Array, " weights"]) -> dict[str, AbstractTerm]:
        """Return the functions of formulas with these weights, by name."""
        functions = dict(self.functions)
        for block in self.blocks:
            if not block.of_model:
                name, *path = block.path
                part = block.filled(weights)
                functions[str(name)] = (
                    eqx.tree_at(lambda tree, path=path: follow(tree, path), functions[str(name)], part)
                    if path
                    else part
                )
        return functions

    def drawn(self, key: Key, number: int) -> Float[np.ndarray, " weights"]:
        """Return other weights to begin with: those of each array in another order.

        They have the spread of the network's own initialisation, whatever that was.

        Args:
            key: `jax.random.key(seed)`.
            number: Which of several draws by this key.
        """
        random = generator(key, number)
        leaves = [
            leaf for block in self.blocks for leaf in jax.tree.leaves(eqx.filter(block.part, eqx.is_inexact_array))
        ]
        return np.concatenate([np.zeros(0), *(random.permutation(np.ravel(leaf)) for leaf in leaves)])

    def log_prior(self, weights: Float[Array, " weights"]) -> Float[Array, ""]:
        """Return the log density of all priors."""
        densities = [
            jnp.sum(block.prior.log_prob(weights[block.place])) for block in self.blocks if block.prior is not None
        ]
        return sum(densities, jnp.zeros(()))


class _Nothing(eqx.Module):
    """In place of a term: zeros of the shape of what it gives."""

    term: Callable

    def __call__(self, *inputs: Array) -> PyTree:
        return jax.tree.map(jnp.zeros_like, self.term(*inputs))


def _block(
    model: AbstractModel,
    functions: Mapping[str, AbstractTerm],
    name: str,
    prior: AbstractDistribution | None,
    first: int,
) -> Block:
    path = tuple(int(number) if number else step for step, number in _STEP.findall(name))
    of_model = path[0] not in functions
    if of_model:  # those of a network are found by their own names
        path = (*next((known for known in part_paths(model) if known[-1] == path[0]), path[:1]), *path[1:])
    try:
        part = follow(model if of_model else functions, path)
    except (AttributeError, KeyError, IndexError, TypeError):
        part = None
    if part is not None:
        block = Block(name, path, part, of_model, prior, first)
        if block.size:
            return block
        must = "name parts of the model that hold arrays of floating-point numbers"
        raise ArgumentError("parameters", f"must {must} where their values are Weights(), but `{name}` holds none.")
    known = [
        field.name
        for field in dataclasses.fields(model)
        if jax.tree.leaves(eqx.filter(getattr(model, field.name), eqx.is_inexact_array))
    ] + [*functions]
    expected = f"be a part of the model or a function ({in_a_row(known)})"
    raise ArgumentError("parameters", f"must {expected}, but `{name}` is none.{did_you_mean(name, known)}")


def _check_apart(blocks: Sequence[Block], others: Sequence[str]) -> None:
    """Refuse parts that lie in one another, and parameters that lie in a part."""
    for block in blocks:
        for other in blocks:
            if other is not block and other.path[: len(block.path)] == block.path and other.of_model == block.of_model:
                refuse("parameters", f"name the weights of `{block.name}` once", f"`{other.name}` as well")
        for name in others:
            if name.startswith((f"{block.name}.", f"{block.name}[")):
                refuse("parameters", f"name what `{block.name}` holds once", f"`{name}` as well")

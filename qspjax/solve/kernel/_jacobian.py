"""The non-zero entries of a Jacobian of known pattern, for many states side by side.

Two forms, as for the factorisation: *by columns* for small systems, one derivative with respect to one state at a time,
the others held constant, so that only what depends on that state is computed; and *by colours* for large ones, one
derivative along the sum of all columns that share no row (Curtis, Powell and Reid).

Reference: Curtis, Powell and Reid, IMA J Appl Math 1974;13:117, doi:10.1093/imamat/13.1.117.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Row = Float[Array, " lanes"]


def columns_jacobian(
    field: Callable[[tuple[Row, ...]], Sequence[Row]], y: Sequence[Row], pattern: Bool[np.ndarray, "states states"]
) -> dict[tuple[int, int], Row]:
    """Return the entries of the Jacobian of `field` where `pattern` is true, by row and column.

    Args:
        field: Maps a tuple of n rows of lanes to n rows, each lane on its own.
        y: The n rows.
        pattern: Where the Jacobian can be other than zero.
    """
    y = tuple(y)
    entries = {}
    for j in np.flatnonzero(pattern.any(0)).tolist():
        column = jax.jvp(lambda yj, j=j: tuple(field((*y[:j], yj, *y[j + 1 :]))), (y[j],), (jnp.ones_like(y[j]),))[1]
        entries.update({(i, j): column[i] for i in np.flatnonzero(pattern[:, j]).tolist()})
    return {key: entries[key] for key in sorted(entries)}


def colouring(pattern: Bool[np.ndarray, "rows columns"]) -> Int[np.ndarray, " columns"]:
    """Return a colour for each column, such that two columns with an entry in the same row differ.

    Greedy, in the order of how many other columns each shares a row with, the most first.
    """
    dense = np.asarray(pattern, np.float32)
    meets = (dense.T @ dense) > 0
    colours = np.full(len(meets), -1)
    for j in np.argsort(-meets.sum(1), kind="stable"):
        used = np.append(colours[meets[j]], -1)
        colours[j] = np.setdiff1d(np.arange(len(used)), used)[0]
    return colours


def coloured_jacobian(
    field: Callable[[jax.Array], jax.Array],
    y: Float[Array, "columns lanes"],
    rows: Int[np.ndarray, " entries"],
    cols: Int[np.ndarray, " entries"],
    colours: Int[np.ndarray, " columns"],
) -> Float[Array, "entries lanes"]:
    """Return entries of the Jacobian of `field`: one derivative per colour.

    Args:
        field: Maps (columns, lanes) to (rows, lanes), each lane on its own.
        y: Where to evaluate it.
        rows: Row of each entry.
        cols: Column of each entry.
        colours: The colour of each column, from `colouring` of a pattern that holds all non-zero entries.
    """
    seeds = np.arange(colours.max(initial=0) + 1)[:, None] == colours
    directions = jnp.asarray(seeds, y.dtype)

    def derivative(seed: jax.Array) -> jax.Array:
        return jax.jvp(field, (y,), (jnp.broadcast_to(seed[:, None], y.shape),))[1]

    products = jax.lax.map(derivative, directions)
    return products[colours[cols], rows]

"""Different regimens as one table of as many patients, so that one program solves them all."""

import jax
import jax.numpy as jnp

from qspjax._regimen import Regimen


def stacked(regimens):
    """Return regimens of the same targets as one for as many patients."""
    rows = max(regimen.rows for regimen in regimens)
    extent = regimens[0].extent
    for regimen in regimens[1:]:
        joined = extent.joined(regimen.extent)
        most = {name: max(getattr(extent, name), getattr(regimen.extent, name)) for name in ("resets", "steady")}
        extent = joined._replace(**most)
    columns = [jax.tree.leaves(regimen.padded(rows)) for regimen in regimens]
    leaves = [jnp.stack(column) for column in zip(*columns, strict=True)]
    one = regimens[0].padded(rows)
    whole = jax.tree.unflatten(jax.tree.structure(one), leaves)
    return Regimen(**{**vars(whole), "extent": extent})

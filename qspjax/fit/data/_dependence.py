"""Measurements of a subject that depend on each other: each has its density given the ones before it.

With standardised residuals z that are normal with correlation C = L L^T, in the order of time,

    w = L^-1 z,    y_i | y_1 ... y_{i-1}  ~  location_i + s_i sum_{j<i} L_ij w_j,  with scale s_i L_ii

so that predictors alone have to change: densities, scores, information and residuals follow as they do of independent
measurements. The information is that given what was measured before.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from qspjax._checks import ArgumentError
from qspjax._types import Key
from qspjax.fit.data._output_data import Explained, OutputData
from qspjax.fit.errors._contract import Predictors
from qspjax.fit.errors._correlated import Correlated


@dataclasses.dataclass(frozen=True)
class Block:
    """Outputs whose measurements depend on each other, laid out as a table with a row per experiment.

    Attributes:
        outputs: Their numbers.
        errors: Their error models.
        names: Their names.
        experiments: Those that have any of the measurements, shape (experiments,).
        row: The measurement at each place, counted through all outputs of the block.
        filled: Whether there is one.
        output: Of which output, counted in the block.
        time: When.
        where: The place of each measurement in the flattened table, shape (measurements,).
    """

    outputs: tuple[int, ...]
    errors: tuple[Correlated, ...]
    names: tuple[str, ...]
    experiments: Int[np.ndarray, " experiments"]
    row: Int[np.ndarray, "experiments places"]
    filled: Bool[np.ndarray, "experiments places"]
    output: Int[np.ndarray, "experiments places"]
    time: Float[np.ndarray, "experiments places"]
    where: Int[np.ndarray, " measurements"]

    def table(self, columns: Sequence[Array], spare: float) -> Float[Array, "experiments places"]:
        """Return columns of the outputs as a table, with a number where it has no measurement."""
        return jnp.where(self.filled, jnp.concatenate(columns)[self.row], spare)

    def columns(self, table: Float[Array, "experiments places"]) -> list[Array]:
        """Return a table as columns of the outputs."""
        sizes = np.bincount(self.output[self.filled], minlength=len(self.outputs))
        return jnp.split(jnp.ravel(table)[self.where], np.cumsum(sizes)[:-1])

    def correlation(self, predictors: Sequence[Predictors]) -> Float[Array, "experiments places places"]:
        """Return the correlation of the residuals of each experiment; that of the identity where there are none.

        Args:
            predictors: Of the outputs of the block.
        """
        of, other = self.output[:, :, None], self.output[:, None, :]
        found = jnp.asarray(of == other, float)
        for k, (error, own) in enumerate(zip(self.errors, predictors, strict=True)):
            for name, rho in error.correlations(own).items():
                if name not in self.names:  # an output that is looked at alone
                    continue
                table = self.table([rho if m == k else jnp.zeros_like(p[0]) for m, p in enumerate(predictors)], 0.0)
                pair = (of == k) & (other == self.names.index(name))
                found += jnp.where(pair, table[:, :, None], 0.0) + jnp.where(
                    np.swapaxes(pair, 1, 2), table[:, None, :], 0.0
                )
        with np.errstate(invalid="ignore"):
            apart = np.abs(self.time[:, :, None] - self.time[:, None, :])
        apart = np.where(self.time[:, :, None] == self.time[:, None, :], 0.0, apart)
        constants = [
            constant
            for error, own in zip(self.errors, predictors, strict=True)
            if (constant := error.time_constant(own)) is not None
        ]
        if constants:
            found *= jnp.exp(-apart / self.table(constants, 1.0)[:, :, None])
        else:
            found = jnp.where(apart == 0.0, found, 0.0)
        both = self.filled[:, :, None] & self.filled[:, None, :]
        return jnp.where(both, found, np.eye(self.time.shape[1]))


def blocks(rows: Sequence[OutputData]) -> list[Block]:
    """Return the outputs that depend on each other, and those whose measurements do in time."""
    errors = {k: one.output.error for k, one in enumerate(rows) if isinstance(one.output.error, Correlated)}
    numbers = {rows[k].name: k for k in errors}
    group = {k: k for k in errors}
    for k, error in errors.items():
        for name, _ in error.between:
            if name in numbers:
                merged = {group[k], group[numbers[name]]}
                group = {m: min(merged) if g in merged else g for m, g in group.items()}
    members = [[k for k, g in group.items() if g == first] for first in sorted(set(group.values()))]
    return [_block(rows, tuple(outputs)) for outputs in members]


def _block(rows: Sequence[OutputData], outputs: tuple[int, ...]) -> Block:
    parts = [rows[k] for k in outputs]
    experiment, time, order = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("experiment", "time", "order")
    )
    output = np.repeat(np.arange(len(parts)), [part.time.size for part in parts])
    sequence = np.lexsort((output, order, time, experiment))
    experiments, counts = np.unique(experiment, return_counts=True)
    filled = np.arange(counts.max()) < counts[:, None]
    row = np.zeros(filled.shape, int)
    row[filled] = sequence
    where = np.zeros(sequence.size, int)
    where[sequence] = np.flatnonzero(filled)
    errors = tuple(part.output.error for part in parts if isinstance(part.output.error, Correlated))
    names = tuple(part.name for part in parts)
    return Block(outputs, errors, names, experiments, row, filled, output[row], time[row], where)


def check_dependence(rows: Sequence[OutputData]) -> None:
    """Check that outputs with correlated errors go together.

    Raises:
        ValueError: If an output is correlated with nothing, or with one that is not measured or not correlated, time
            constants differ, a correlation is given twice, a subject has replicates, or measurements are censored.
    """
    names = {part.name: part.output.error for part in rows}
    partners = {other for error in names.values() if isinstance(error, Correlated) for other, _ in error.between}
    for part in rows:
        error = part.output.error
        if not isinstance(error, Correlated):
            continue
        if error.time is None and not error.between and part.name not in partners:
            must = "say what errors are correlated with, by `time` or `between`"
            raise ArgumentError("outputs", f"must {must}, but those of `{part.name}` are with nothing.")
        for other, _ in error.between:
            what = f"with which `{part.name}` is correlated"
            partner = names.get(other)
            if other == part.name or not isinstance(partner, Correlated):
                must = f"have Correlated errors of another output `{other}` that is measured, {what}"
                raise ArgumentError("outputs", f"must {must}, but have none.")
            if part.name in dict(partner.between):
                must = f"give the correlation of `{part.name}` and `{other}` once"
                raise ArgumentError("outputs", f"must {must}, but give it in both.")
            if error.time != partner.time:
                must = f"have one time constant of correlated errors, but those of `{part.name}` and `{other}` differ."
                raise ArgumentError("outputs", f"must {must}")
        _check_rows(part)


def _check_rows(rows: OutputData) -> None:
    below = rows.output.below
    if rows.censored.any() or (below is not None and below.keeps()):
        must = "have no censored measurements where errors are correlated"
        raise ArgumentError("outputs", f"must {must}, but `{rows.name}` has: leave them out, as with M1().")
    moments = np.stack([rows.experiment, rows.time], axis=1)
    if len(np.unique(moments, axis=0)) < len(moments):
        must = "have no replicates where errors are correlated"
        raise ArgumentError("outputs", f"must {must}, but `{rows.name}` has: average them, or move one in time.")


def given_earlier(rows: Sequence[OutputData], predictors: Sequence[Predictors]) -> list[Predictors]:
    """Return the predictors of each measurement given those before it, output by output.

    Args:
        rows: The measurements.
        predictors: Of each measurement alone.
    """
    found = [*predictors]
    for block in blocks(rows):
        values = [rows[k].value for k in block.outputs]
        for k, own in zip(block.outputs, _given_earlier(block, values, [found[k] for k in block.outputs]), strict=True):
            found[k] = own
    return found


def _given_earlier(block: Block, values: Sequence[Any], predictors: Sequence[Predictors]) -> list[Predictors]:
    residuals = [e.residual(y, own) for e, y, own in zip(block.errors, values, predictors, strict=True)]
    z = block.table(residuals, 0.0)
    lower = jnp.linalg.cholesky(block.correlation(predictors))
    white = solve_triangular(lower, z[..., None], lower=True)
    shift = block.columns(jnp.squeeze(jnp.tril(lower, -1) @ white, -1))
    less = block.columns(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)))
    return [
        (own[0] + jnp.exp(own[1]) * along, own[1] + log, *own[2:])
        for own, along, log in zip(predictors, shift, less, strict=True)
    ]


def slopes_given_earlier(
    rows: Sequence[OutputData], predictors: Sequence[Predictors], slopes: Sequence[Predictors]
) -> tuple[list[Predictors], list[Predictors]]:
    """Return `given_earlier`, and the slopes of it.

    Args:
        rows: The measurements.
        predictors: Of each measurement alone.
        slopes: Theirs, shape (directions, rows) each.
    """
    if not blocks(rows):
        return [*predictors], [*slopes]

    def along(direction: list[Predictors]) -> tuple[list[Predictors], list[Predictors]]:
        return jax.jvp(lambda own: given_earlier(rows, own), ([*predictors],), (direction,))

    return jax.vmap(along, out_axes=(None, 0))([*slopes])


def log_densities(rows: Sequence[OutputData], predictors: Sequence[Predictors]) -> list[Float[Array, " rows"]]:
    """Return the log likelihood of each measurement, given those before it, output by output.

    Args:
        rows: The measurements.
        predictors: Of each measurement alone.
    """
    return [one.log_density(own) for one, own in zip(rows, given_earlier(rows, predictors), strict=True)]


def draws(rows: Sequence[OutputData], key: Key, predictors: Sequence[Predictors]) -> list[Float[Array, " rows"]]:
    """Return measurements at random, output by output.

    Args:
        rows: What is measured when.
        key: `jax.random.key(seed)`.
        predictors: Of each measurement alone.
    """
    keys = jax.random.split(key, len(rows))
    found: dict[int, Array] = {}
    for block in blocks(rows):
        own = [predictors[k] for k in block.outputs]
        white = [jax.random.normal(keys[k], rows[k].value.shape) for k in block.outputs]
        lower = jnp.linalg.cholesky(block.correlation(own))
        z = block.columns(jnp.squeeze(lower @ block.table(white, 0.0)[..., None], -1))
        measured = [error.measured_at(one, p) for error, one, p in zip(block.errors, z, own, strict=True)]
        found |= dict(zip(block.outputs, measured, strict=True))
    return [found[k] if k in found else one.output.error.draw(keys[k], predictors[k]) for k, one in enumerate(rows)]


def explained(
    rows: Sequence[OutputData], numbers: Array, observed: Mapping[str, Array], known: Mapping[str, Array]
) -> list[Explained]:
    """Return prediction, formulas of the error model and log likelihood of each measurement, for `why_undefined`.

    Where a measurement has none by itself, those that depend on it count as they do by themselves.

    Args:
        rows: The measurements.
        numbers: As of `OutputData.predicted`.
        observed: As of `OutputData.predicted`.
        known: As of `OutputData.predicted`.
    """
    quantities = [one.quantities(numbers, observed, known) for one in rows]
    predictors = [one.output.error.predictors(*own) for one, own in zip(rows, quantities, strict=True)]
    alone = [one.log_density(own) for one, own in zip(rows, predictors, strict=True)]
    undefined = jnp.zeros(1 + max(int(one.experiment.max()) for one in rows), bool)
    for one, density in zip(rows, alone, strict=True):
        undefined = undefined.at[one.experiment].max(~jnp.isfinite(density))
    joint = log_densities(rows, predictors)
    densities = [jnp.where(undefined[r.experiment], a, b) for r, a, b in zip(rows, alone, joint, strict=True)]
    return [(*own, density) for own, density in zip(quantities, densities, strict=True)]


def residual_correlations(rows: OutputData, predictors: Predictors) -> list[Float[Array, "experiments places places"]]:
    """Return the correlation of the residuals of one output, laid out as in its block; none if they are independent."""
    return [block.correlation([predictors]) for block in blocks([rows])]

"""Measurements of a subject that depend on each other: the density of each is conditional on the ones before it.

With standardised residuals z that are normal with correlation C = L L^T, in the order of time,

    w = L^-1 z,    y_i | y_1 ... y_{i-1}  ~  location_i + s_i sum_{j<i} L_ij w_j,  with scale s_i L_ii

so that only the predictors have to change: densities, scores, information and residuals follow as for independent
measurements. The information is conditional on the measurements before.
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
from qspjax.fit.data._output_data import Explained, OutputData, Parameters
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
        row: The index of the measurement in each cell, counted through all outputs of the block.
        filled: Whether the cell holds a measurement.
        output: The index of its output in the block.
        time: Its time.
        where: The index of each measurement in the flattened table, shape (measurements,).
    """

    outputs: tuple[int, ...]
    errors: tuple[Correlated, ...]
    names: tuple[str, ...]
    experiments: Int[np.ndarray, " experiments"]
    row: Int[np.ndarray, "experiments cells"]
    filled: Bool[np.ndarray, "experiments cells"]
    output: Int[np.ndarray, "experiments cells"]
    time: Float[np.ndarray, "experiments cells"]
    where: Int[np.ndarray, " measurements"]

    def table(self, columns: Sequence[Array], spare: float) -> Float[Array, "experiments cells"]:
        """Return columns of the outputs as a table, filled with `spare` where it has no measurement."""
        return jnp.where(self.filled, jnp.concatenate(columns)[self.row], spare)

    def columns(self, table: Float[Array, "experiments cells"]) -> list[Array]:
        """Return a table as columns of the outputs."""
        sizes = np.bincount(self.output[self.filled], minlength=len(self.outputs))
        return jnp.split(jnp.ravel(table)[self.where], np.cumsum(sizes)[:-1])

    def correlation(self, predictors: Sequence[Predictors]) -> Float[Array, "experiments cells cells"]:
        """Return the correlation of the residuals of each experiment; the identity where there are none.

        Args:
            predictors: Those of the outputs of the block.
        """
        of, other = self.output[:, :, None], self.output[:, None, :]
        correlation = jnp.asarray(of == other, float)
        for k, (error, output_predictors) in enumerate(zip(self.errors, predictors, strict=True)):
            for name, rho in error.correlations(output_predictors).items():
                if name not in self.names:  # the output is treated alone
                    continue
                table = self.table([rho if m == k else jnp.zeros_like(p[0]) for m, p in enumerate(predictors)], 0.0)
                pair = (of == k) & (other == self.names.index(name))
                correlation += jnp.where(pair, table[:, :, None], 0.0) + jnp.where(
                    np.swapaxes(pair, 1, 2), table[:, None, :], 0.0
                )
        with np.errstate(invalid="ignore"):
            distance = np.abs(self.time[:, :, None] - self.time[:, None, :])
        distance = np.where(self.time[:, :, None] == self.time[:, None, :], 0.0, distance)
        constants = [
            constant
            for error, output_predictors in zip(self.errors, predictors, strict=True)
            if (constant := error.time_constant(output_predictors)) is not None
        ]
        if constants:
            correlation *= jnp.exp(-distance / self.table(constants, 1.0)[:, :, None])
        else:
            correlation = jnp.where(distance == 0.0, correlation, 0.0)
        both = self.filled[:, :, None] & self.filled[:, None, :]
        return jnp.where(both, correlation, np.eye(self.time.shape[1]))


def blocks(rows: Sequence[OutputData]) -> list[Block]:
    """Return blocks of outputs that depend on each other or whose measurements are correlated in time."""
    errors = {k: data.output.error for k, data in enumerate(rows) if isinstance(data.output.error, Correlated)}
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
            raise ArgumentError("outputs", f"must {must}, but those of `{part.name}` are correlated with nothing.")
        for other, _ in error.between:
            relation = f"with which `{part.name}` is correlated"
            partner = names.get(other)
            if other == part.name or not isinstance(partner, Correlated):
                must = f"have Correlated errors of another output `{other}` that is measured, {relation}"
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
        predictors: Those of each measurement alone.
    """
    conditional = [*predictors]
    for block in blocks(rows):
        values = [rows[k].value for k in block.outputs]
        for k, updated in zip(
            block.outputs, _given_earlier(block, values, [conditional[k] for k in block.outputs]), strict=True
        ):
            conditional[k] = updated
    return conditional


def _given_earlier(block: Block, values: Sequence[Any], predictors: Sequence[Predictors]) -> list[Predictors]:
    residuals = [e.residual(y, p) for e, y, p in zip(block.errors, values, predictors, strict=True)]
    z = block.table(residuals, 0.0)
    lower = jnp.linalg.cholesky(block.correlation(predictors))
    white = solve_triangular(lower, z[..., None], lower=True)
    offsets = block.columns(jnp.squeeze(jnp.tril(lower, -1) @ white, -1))
    log_factors = block.columns(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)))
    return [
        (p[0] + jnp.exp(p[1]) * offset, p[1] + log_factor, *p[2:])
        for p, offset, log_factor in zip(predictors, offsets, log_factors, strict=True)
    ]


def slopes_given_earlier(
    rows: Sequence[OutputData], predictors: Sequence[Predictors], slopes: Sequence[Predictors]
) -> tuple[list[Predictors], list[Predictors]]:
    """Return `given_earlier` and its slopes.

    Args:
        rows: The measurements.
        predictors: Those of each measurement alone.
        slopes: Their slopes, of shape (directions, rows) each.
    """
    if not blocks(rows):
        return [*predictors], [*slopes]

    def along(direction: list[Predictors]) -> tuple[list[Predictors], list[Predictors]]:
        return jax.jvp(lambda p: given_earlier(rows, p), ([*predictors],), (direction,))

    return jax.vmap(along, out_axes=(None, 0))([*slopes])


def log_densities(rows: Sequence[OutputData], predictors: Sequence[Predictors]) -> list[Float[Array, " rows"]]:
    """Return the log likelihood of each measurement, given those before it, output by output.

    Args:
        rows: The measurements.
        predictors: Those of each measurement alone.
    """
    return [data.log_density(p) for data, p in zip(rows, given_earlier(rows, predictors), strict=True)]


def draws(rows: Sequence[OutputData], key: Key, predictors: Sequence[Predictors]) -> list[Float[Array, " rows"]]:
    """Return random measurements, output by output.

    Args:
        rows: The outputs and the times of their measurements.
        key: `jax.random.key(seed)`.
        predictors: Those of each measurement alone.
    """
    keys = jax.random.split(key, len(rows))
    drawn: dict[int, Array] = {}
    for block in blocks(rows):
        block_predictors = [predictors[k] for k in block.outputs]
        white = [jax.random.normal(keys[k], rows[k].value.shape) for k in block.outputs]
        lower = jnp.linalg.cholesky(block.correlation(block_predictors))
        z = block.columns(jnp.squeeze(lower @ block.table(white, 0.0)[..., None], -1))
        measured = [
            error.measured_at(residual, p) for error, residual, p in zip(block.errors, z, block_predictors, strict=True)
        ]
        drawn |= dict(zip(block.outputs, measured, strict=True))
    return [drawn[k] if k in drawn else data.output.error.draw(keys[k], predictors[k]) for k, data in enumerate(rows)]


def explained(
    rows: Sequence[OutputData], numbers: Array, observed: Mapping[str, Array], known: Parameters
) -> list[Explained]:
    """Return what `why_undefined` asks of each measurement, see `Explained`.

    Where a measurement has no likelihood by itself, those that depend on it are treated as independent.

    Args:
        rows: The measurements.
        numbers: See `OutputData.predicted`.
        observed: See `OutputData.predicted`.
        known: See `OutputData.predicted`.
    """
    quantities = [data.quantities(numbers, observed, known) for data in rows]
    predictors = [data.output.error.predictors(*values) for data, values in zip(rows, quantities, strict=True)]
    alone = [data.log_density(p) for data, p in zip(rows, predictors, strict=True)]
    undefined = jnp.zeros(1 + max(int(data.experiment.max()) for data in rows), bool)
    for data, density in zip(rows, alone, strict=True):
        undefined = undefined.at[data.experiment].max(~jnp.isfinite(density))
    joint = log_densities(rows, predictors)
    densities = [jnp.where(undefined[r.experiment], a, b) for r, a, b in zip(rows, alone, joint, strict=True)]
    logged = [data.logged(numbers, observed, known) for data in rows]
    return [(*values, density, inside) for values, density, inside in zip(quantities, densities, logged, strict=True)]


def residual_correlations(rows: OutputData, predictors: Predictors) -> list[Float[Array, "experiments cells cells"]]:
    """Return the correlation of the residuals of one output, laid out as in its block; none if they are independent."""
    return [block.correlation([predictors]) for block in blocks([rows])]

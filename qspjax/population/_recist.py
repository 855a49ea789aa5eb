"""Response of solid tumours by RECIST 1.1, from the sums of the diameters of target lesions at visits.

With y_k the sum at visit k, y_0 that at baseline and m_k = min(y_0, ..., y_{k-1}) the nadir, a visit is

    CR   where all target lesions are gone, and nodes among them are below 10 mm in their short axis
    PD   where y_k >= 1.2 m_k and y_k - m_k >= 5 mm, where a lesion is new, or where one is back after CR
    PR   where y_k <= 0.7 y_0
    SD   otherwise
    NE   where nothing was measured, and at baseline

Reference: Eisenhauer et al., Eur J Cancer 2009;45:228, doi:10.1016/j.ejca.2008.10.026 (tables 1 and 3).
"""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qspjax._checks import ArgumentError, check_above, check_instance, check_minimum, check_number, concrete, refuse
from qspjax._cohort import as_array
from qspjax._parameters import as_parameter
from qspjax._programs import program
from qspjax._types import ArrayInput, Scalar


class Response(enum.IntEnum):
    """The response at a visit, or the best one of a patient: the greater, the better.

    Example:
        >>> Response.PR > Response.SD, Response(4).name
        (True, 'CR')
    """

    NE = 0
    """Not evaluable."""
    PD = 1
    """Progressive disease."""
    SD = 2
    """Stable disease."""
    PR = 3
    """Partial response."""
    CR = 4
    """Complete response."""


class RECIST(eqx.Module):
    """What a protocol says beside RECIST 1.1.

    Attributes:
        stable_after: The least time from baseline to a visit at which stable disease counts as best response, in the
            unit of time (6 to 8 weeks in most protocols).
        confirmation: The least time after which a response must be seen again, for example 28 days, with no visit
            between that is less than it; None where responses need no confirmation.
        detectable: Sum of the diameters, without nodes, up to which all lesions are gone.
        millimetre: The length of 1 mm in the unit of the diameters (0.1 where they are in cm).

    Example:
        >>> RECIST(stable_after=42.0, confirmation=28.0).confirmation
        Array(28., dtype=float64)
    """

    stable_after: Scalar = eqx.field(converter=as_parameter)
    confirmation: Scalar | None = eqx.field(converter=as_parameter, default=None, kw_only=True)
    detectable: Scalar = eqx.field(converter=as_parameter, default=0.0, kw_only=True)
    millimetre: Scalar = eqx.field(converter=as_parameter, default=1.0, kw_only=True)

    def __check_init__(self) -> None:
        for name in ("stable_after", "confirmation", "detectable", "millimetre"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value)
                check_minimum(name, value, 0.0)
        check_above("millimetre", self.millimetre, 0.0)


class Assessment(eqx.Module):
    """The responses of patients. Times count from the first visit, the baseline.

    Attributes:
        visits: The `Response` at each visit, by the criteria at that visit, shape (..., visits).
        change: The change of the sum of diameters since baseline, as a fraction of it, shape (..., visits).
        best: The best overall `Response` before progression, shape (...).
        deepest: The smallest `change` after baseline, up to progression and its visit; NaN without any.
        time: Progression-free survival: to the first visit with PD or to death; else to the last assessment.
        event: Whether it ended by PD or death; false where it is censored.
        response_time: Time to the (confirmed) response, NaN where there is none.
        duration: From that to progression or death, or to the last assessment.

    Example:
        >>> assessment = assess([0.0, 42.0, 84.0], [100.0, 60.0, 90.0], RECIST(stable_after=42.0))
        >>> Response(int(assessment.best)).name, float(assessment.time), bool(assessment.event)
        ('PR', 84.0, True)
    """

    visits: Int[Array, "*patients visits"]
    change: Float[Array, "*patients visits"]
    best: Int[Array, "*patients"]
    deepest: Float[Array, "*patients"]
    time: Float[Array, "*patients"]
    event: Bool[Array, "*patients"]
    response_time: Float[Array, "*patients"]
    duration: Float[Array, "*patients"]

    @property
    def responded(self) -> Bool[Array, "*patients"]:
        """Whether the best response is PR or CR."""
        return self.best >= Response.PR


def assess(
    times: ArrayInput,
    diameters: ArrayInput,
    criteria: RECIST,
    *,
    nodes: ArrayInput | None = None,
    new_lesion: ArrayInput | None = None,
    death: ArrayInput | None = None,
) -> Assessment:
    """Return the responses of patients by RECIST 1.1.

    A new lesion is progression where the sum is missing, too. A response is confirmed where it is seen again after
    `criteria.confirmation` or later and no visit between is less; missed ones may be. An unconfirmed one counts as
    stable disease. Disease after CR is progression at once, whatever its size. What comes after the first progression
    is not counted. Without a baseline, or without disease at baseline, a patient is not evaluable, and censored at 0
    unless a lesion is new. Works under `jit` and `vmap`.

    Args:
        times: Times of the visits, the baseline first, shape (visits,) or (..., visits).
        diameters: Sums of the diameters of target lesions, shape (..., visits); NaN where a visit was missed.
        criteria: What the protocol says.
        nodes: Short axes of the nodes among the target lesions, which are part of the sums, shape (..., visits, nodes).
        new_lesion: Whether there is a new lesion or unequivocal progression of others, shape (..., visits).
        death: Time of death on the scale of `times`, shape (...); inf or NaN for the living.

    Raises:
        ValueError: If shapes do not fit, or a diameter is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> diameters = jnp.array([[100.0, 70.0, 70.0, 80.0, 80.0, 80.0], [50.0, 30.0, 36.1, jnp.nan, 30.0, 30.0]])
        >>> assessment = assess(42.0 * jnp.arange(6), diameters, RECIST(stable_after=42.0))
        >>> [Response(code).name for code in assessment.best.tolist()], assessment.event.tolist()
        (['PR', 'PR'], [False, True])
        >>> [Response(code).name for code in assessment.visits[1].tolist()]
        ['NE', 'PR', 'PD', 'NE', 'PR', 'PR']
    """
    check_instance("criteria", criteria, RECIST, "criteria such as `RECIST(stable_after=42.0)`")
    sums = _sums(diameters)
    return _assessed(
        _visit_times(times, sums),
        sums,
        None if nodes is None else _nodes(nodes, sums),
        None if new_lesion is None else _like("new_lesion", new_lesion, sums).astype(bool),
        None if death is None else _like("death", death, sums[..., 0]).astype(float),
        criteria,
    )


def _assess(
    times: Array, sums: Array, nodes: Array | None, new: Array | None, death: Array | None, criteria: RECIST
) -> Assessment:
    since = times - times[..., :1]
    codes = _visit_responses(sums, _are_gone(sums, nodes, criteria), new, criteria)
    progressed = codes == Response.PD
    ongoing = jnp.cumsum(progressed, axis=-1) == 0
    stable = jnp.any(ongoing & (codes >= Response.SD) & (since >= _least(criteria.stable_after)), axis=-1)
    best = jnp.where(progressed.any(-1), Response.PD, Response.NE)
    best = jnp.where(stable, Response.SD, best)
    began = {level: _response_time(codes, since, ongoing, level, criteria) for level in (Response.PR, Response.CR)}
    for level, start in began.items():
        best = jnp.where(jnp.isfinite(start), level, best)
    response_time = jnp.where(jnp.isfinite(began[Response.PR]), began[Response.PR], jnp.nan)
    change = _changes(sums)
    until = jnp.cumsum(progressed, axis=-1) - progressed == 0  # the visit of progression counts
    deepest = jnp.min(jnp.where(until & ~jnp.isnan(change), change, jnp.inf)[..., 1:], axis=-1, initial=jnp.inf)
    end = jnp.min(jnp.where(progressed, since, jnp.inf), axis=-1)
    if death is not None:
        end = jnp.fmin(end, death - times[..., 0])
    last = jnp.max(jnp.where(ongoing & (codes != Response.NE), since, 0.0), axis=-1)
    event = jnp.isfinite(end)
    time = jnp.where(event, end, last)
    return Assessment(
        visits=codes,
        change=change,
        best=best,
        deepest=jnp.where(jnp.isfinite(deepest), deepest, jnp.nan),
        time=time,
        event=event,
        response_time=response_time,
        duration=time - response_time,
    )


_assessed = program(_assess)


def _sums(diameters: ArrayInput) -> Float[Array, "*patients visits"]:
    sums = as_array("diameters", diameters).astype(float)
    if sums.ndim < 1 or not sums.shape[-1]:
        refuse("diameters", "have shape (patients, visits)", f"of shape {sums.shape}")
    known = concrete(sums)
    if known is not None and (known < 0.0).any():
        refuse("diameters", "be at least 0", known[known < 0.0][0])
    return sums


def _visit_times(times: ArrayInput, sums: Array) -> Float[Array, "*patients visits"]:
    values = as_array("times", times).astype(float)
    if values.shape not in (sums.shape, sums.shape[-1:]):
        refuse("times", f"have one number per visit ({sums.shape[-1]})", f"of shape {values.shape}")
    known = concrete(values)
    if known is not None and not (known[..., 1:] > known[..., :-1]).all():
        refuse("times", "increase from visit to visit", known.tolist())
    return jnp.broadcast_to(values, sums.shape)


def _like(argument: str, given: ArrayInput, like: Array) -> Array:
    """Return an argument that has the shape of another array."""
    values = as_array(argument, given)
    if values.shape != like.shape:
        refuse(argument, f"have shape {like.shape}", f"of shape {values.shape}")
    return values


def _nodes(nodes: ArrayInput, sums: Array) -> Float[Array, "*patients visits nodes"]:
    axes = as_array("nodes", nodes).astype(float)
    if axes.ndim != sums.ndim + 1 or axes.shape[:-1] != sums.shape:
        refuse("nodes", f"have shape {(*sums.shape, 'nodes')}", f"of shape {axes.shape}")
    known, whole = concrete(axes), concrete(sums)
    if known is not None and whole is not None and (known.sum(-1) > whole * (1.0 + 1e-6)).any():
        raise ArgumentError("nodes", "must be part of the sums `diameters`, but their own sum is greater.")
    return axes


def _are_gone(sums: Array, nodes: Array | None, criteria: RECIST) -> Bool[Array, "*patients visits"]:
    if nodes is None:
        return sums <= criteria.detectable
    others = sums - nodes.sum(-1) - _rounding(sums)
    return (others <= criteria.detectable) & (nodes < 10.0 * criteria.millimetre).all(-1)


def _rounding(sums: Array) -> Array:
    """Return what rounding may do to sums, so that 63 is 30 % below 90."""
    known = jnp.where(jnp.isnan(sums), 0.0, sums)
    return 16.0 * jnp.finfo(sums.dtype).eps * jnp.max(known, axis=-1, keepdims=True)


def _least(duration: Scalar) -> Scalar:
    """Return a duration less what rounding may do to differences of times."""
    return duration * (1.0 - 1e-9)


def _visit_responses(sums: Array, gone: Array, new: Array | None, criteria: RECIST) -> Int[Array, "*patients visits"]:
    measured, baseline, rounding = ~jnp.isnan(sums), sums[..., :1], _rounding(sums)
    lowest = jax.lax.cummin(jnp.where(measured, sums, jnp.inf), axis=sums.ndim - 1)
    nadir = jnp.concatenate([baseline, lowest[..., :-1]], axis=-1)
    larger = (sums >= 1.2 * nadir - rounding) & (sums - nadir >= 5.0 * criteria.millimetre - rounding)
    were_gone = jnp.cumsum(gone, axis=-1) - gone > 0
    grown = measured & ~gone & (larger | were_gone)
    codes = jnp.where(sums <= 0.7 * baseline + rounding, Response.PR, Response.SD)
    codes = jnp.where(gone, Response.CR, codes)
    evaluable = measured & ~jnp.isnan(baseline) & ~gone[..., :1]
    codes = jnp.where(evaluable, codes, Response.NE)
    progressive = evaluable & grown if new is None else evaluable & grown | new
    codes = jnp.where(progressive, Response.PD, codes)
    return codes.at[..., 0].set(Response.NE)


def _response_time(
    codes: Array, since: Array, ongoing: Array, level: Response, criteria: RECIST
) -> Float[Array, "*patients"]:
    """Return when a response of at least a level begins that is confirmed, if it has to be; inf where there is none."""
    reached = ongoing & (codes >= level)
    if criteria.confirmation is None:
        return jnp.min(jnp.where(reached, since, jnp.inf), axis=-1)
    ended, least = ~reached & (codes != Response.NE), _least(criteria.confirmation)

    def step(began: Array, visit: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        here, over, time = visit
        began = jnp.where(over, jnp.inf, jnp.where(here, jnp.minimum(began, time), began))
        return began, jnp.where(here & (time - began >= least), began, jnp.inf)

    visits = (jnp.moveaxis(reached, -1, 0), jnp.moveaxis(ended, -1, 0), jnp.moveaxis(since, -1, 0))
    _, confirmed = jax.lax.scan(step, jnp.full(codes.shape[:-1], jnp.inf), visits)
    return jnp.min(confirmed, axis=0)


def _changes(sums: Array) -> Float[Array, "*patients visits"]:
    baseline = sums[..., :1]
    positive = baseline > 0.0
    return jnp.where(positive, (sums - baseline) / jnp.where(positive, baseline, 1.0), jnp.nan)

"""The latent hybrid model: an expert's ODE, a latent neural ODE beside it, and a decoder to what is measured."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._checks import check_whole, refuse
from qspjax._declared import AbstractWrapper, Declared, declared
from qspjax._model import AbstractModel, Units, as_state
from qspjax._names import match, state_names
from qspjax._types import Observed, Scalar, State
from qspjax.models.hybrid._elements import Learned, called, elements, with_added


class LatentHybridState(NamedTuple):
    """The expert's states, and the latent ones, shape (latent,)."""

    expert: State
    latent: Float[Array, " latent"]


class LatentHybrid(AbstractWrapper):
    """An expert's ODE with a latent neural ODE, and a decoder to measurements: the latent hybridisation model (LHM).

    $$ z_e' = f(t, z_e), \\quad z_m' = g_\\theta(z_e, z_m), \\quad x = d_\\phi(z_e, z_m) $$

    The expert's states obey pharmacology and receive the doses; the latent ones are driven by them and explain what the
    expert does not; measurements are learned functions of both. Initial states of a patient come from his observations
    (`RecurrentEncoder`) through `starting`, and go into `simulate_cohort(initial=)`. Names of the expert become
    `expert.k` and `expert.central`. It observes what the expert does, and `outputs`.

    Args:
        expert: What is known: any model.
        slopes: The slopes of the latent states: a function of an array of shape (sees + latent,) that returns one of
            shape (latent,).
        decoder: The measurements: a function of the same array that returns one of shape (outputs,).
        outputs: The names of the measurements.
        latent: The number of latent states.
        sees: The names of the expert's states that networks see; by default all.

    Raises:
        ValueError: If a name is not a state, or a network returns another number of values.

    Reference: Qian, Zame, Fleuren, Elbers and van der Schaar 2021, arXiv:2106.02875.

    Example:
        >>> import equinox as eqx, jax, qspjax as qsp
        >>> keys = jax.random.split(jax.random.key(0))
        >>> hybrid = qsp.models.LatentHybrid(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0),
        ...     slopes=eqx.nn.Linear(1 + 2, 2, key=keys[0]),
        ...     decoder=eqx.nn.Linear(1 + 2, 3, key=keys[1]),
        ...     outputs=("heart_rate", "CRP", "D_dimer"),
        ...     latent=2,
        ... )
        >>> start = hybrid.starting([0.0, 1.0, -1.0])
        >>> solution = qsp.simulate(hybrid, qsp.bolus(3.0, to="central"), [0.0, 2.0], initial=start)
        >>> sorted(solution.observed), solution.states.latent.shape
        (['CRP', 'D_dimer', 'concentration', 'heart_rate'], (2, 2))
    """

    expert: AbstractModel
    slopes: Learned
    decoder: Learned
    outputs: tuple[str, ...] = eqx.field(static=True)
    latent: int = eqx.field(static=True)
    sees: tuple[str, ...] = eqx.field(static=True)

    # Checked only here: a check that ran again on a cohort would see parameters of many patients.
    def __init__(
        self,
        expert: AbstractModel,
        slopes: Learned,
        decoder: Learned,
        outputs: tuple[str, ...],
        latent: int,
        sees: tuple[str, ...] | None = None,
    ) -> None:
        self.expert = expert
        self.slopes = slopes
        self.decoder = decoder
        self.outputs = tuple(outputs)
        check_whole("latent", latent, 0)
        self.latent = latent
        states = state_names(expert.initial())
        chosen = states if sees is None else sees
        self.sees = tuple(states[match(name, states, "sees", "a state of `expert`")] for name in chosen)
        start = jnp.zeros(len(self.sees) + latent)
        observed = eqx.filter_eval_shape(lambda: expert.observe(0.0, expert.initial()))
        shared = [name for name in self.outputs if name in observed]
        if shared:
            refuse("outputs", "be names that `expert` does not observe", shared[0])
        for name, network, size in (("slopes", slopes, latent), ("decoder", decoder, len(self.outputs))):
            shape = eqx.filter_eval_shape(called, network, start).shape
            if shape != (size,):
                refuse(name, f"return shape {(size,)} for an input of shape {start.shape}", f"shape {shape}")

    @property
    def units(self) -> Units:
        """The units of the expert."""
        units = self.expert.units
        states = {f"expert.{name}": unit for name, unit in units.states.items()}
        return Units(units.time, units.dose, states, units.observed)

    def initial(self) -> LatentHybridState:
        return LatentHybridState(self.expert.initial(), jnp.zeros(self.latent))

    def starting(self, values: Float[Array, " numbers"]) -> LatentHybridState:
        """Return the state in which the states that networks see, and the latent ones, have the given values.

        Args:
            values: Shape (sees + latent,), such as an encoder returns; the expert's other states keep their own.
        """
        values = jnp.asarray(values, dtype=float)
        size = len(self.sees) + self.latent
        if values.shape != (size,):
            refuse("values", f"be of shape {(size,)} (for many patients use jax.vmap)", f"of shape {values.shape}")
        start = as_state(self.expert, None)
        now = elements(start)
        added = {name: value - now[name] for name, value in zip(self.sees, values, strict=False)}
        return LatentHybridState(with_added(start, start, added), values[len(self.sees) :])

    def vector_field(self, t: Scalar, y: LatentHybridState) -> LatentHybridState:
        return LatentHybridState(self.expert.vector_field(t, y.expert), called(self.slopes, self._seen(y)))

    def observe(self, t: Scalar, y: LatentHybridState) -> Observed:
        measured = called(self.decoder, self._seen(y))
        return {**self.expert.observe(t, y.expert), **{name: measured[i] for i, name in enumerate(self.outputs)}}

    def declared(self) -> Declared:
        return declared(self.expert).under("expert", self.expert.initial)

    def _seen(self, y: LatentHybridState) -> jax.Array:
        """Return what networks see, shape (sees + latent,)."""
        values = elements(y.expert)
        return jnp.concatenate([jnp.stack([jnp.asarray(values[name]) for name in self.sees]), y.latent])

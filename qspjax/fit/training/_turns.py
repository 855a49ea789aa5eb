"""Which of the two groups moves at a step of a training: the numbers of the mechanism, the weights of networks."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from qspjax._checks import check_whole
from qspjax._parameters import AbstractChecked

Moving = tuple[Bool[Array, ""], Bool[Array, ""]]
"""Whether the numbers of the mechanism move, and whether the weights do."""


class AbstractTurns(AbstractChecked):
    """Which of the two groups moves at a step.

    Example:
        >>> from qspjax.fit import AbstractTurns, Alternating
        >>> isinstance(Alternating(mechanism=10, networks=10), AbstractTurns)
        True
    """

    @abc.abstractmethod
    def moving(self, step: Int[Array, ""]) -> Moving:
        """Return which groups move.

        Args:
            step: The number of steps before.
        """


class After(AbstractTurns):
    """A group stays where it is for the first steps.

    With the networks frozen at first, the mechanism explains what it can before they learn the rest; with the mechanism
    frozen, networks that start from nothing do not lead it astray.

    Args:
        mechanism: The number of steps after which the numbers of the mechanism move.
        networks: The number of steps after which the weights of networks move.

    Example:
        >>> from qspjax.fit import After, Descent
        >>> Descent(turns=After(networks=200)).turns.networks
        200
    """

    mechanism: int = eqx.field(default=0, static=True, kw_only=True)
    networks: int = eqx.field(default=0, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("mechanism", self.mechanism, 0)
        check_whole("networks", self.networks, 0)

    def moving(self, step: Int[Array, ""]) -> Moving:
        return jnp.asarray(step >= self.mechanism), jnp.asarray(step >= self.networks)


class Alternating(AbstractTurns):
    """The groups take turns: some steps of the mechanism, then some of the networks, and again.

    Args:
        mechanism: The number of steps of the mechanism in a row.
        networks: The number of steps of the networks in a row.

    Example:
        >>> from qspjax.fit import Alternating, Descent
        >>> Descent(turns=Alternating(mechanism=5, networks=20)).turns.networks
        20
    """

    mechanism: int = eqx.field(default=1, static=True, kw_only=True)
    networks: int = eqx.field(default=1, static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_whole("mechanism", self.mechanism, 1)
        check_whole("networks", self.networks, 1)

    def moving(self, step: Int[Array, ""]) -> Moving:
        of_mechanism = step % (self.mechanism + self.networks) < self.mechanism
        return of_mechanism, ~of_mechanism

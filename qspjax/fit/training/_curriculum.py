"""Which measurements count at a step of a training, and how much: minibatches, a growing horizon, a growing emphasis.

Each is a function of the number of the step, so that one compiled program serves all steps, and a training that is
resumed goes on as it would have gone.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qspjax._checks import check_above, check_whole, refuse
from qspjax._parameters import AbstractChecked
from qspjax._random import check_key
from qspjax._types import Key
from qspjax.fit.data._output_data import OutputData

Step = Int[Array, ""]


class AbstractCurriculum(AbstractChecked):
    """Which measurements count at a step of a training, and how much.

    Example:
        >>> from qspjax.fit import AbstractCurriculum, Horizon
        >>> isinstance(Horizon(first=24.0, steps=200), AbstractCurriculum)
        True
    """

    @abc.abstractmethod
    def weights(self, rows: OutputData, subjects: Int[np.ndarray, " training"], step: Step) -> Float[Array, " rows"]:
        """Return the factor of the log likelihood of each measurement; those with 0 are not simulated.

        Args:
            rows: The measurements of an output.
            subjects: The numbers of the experiments of the training.
            step: The number of steps before.
        """

    @abc.abstractmethod
    def is_whole(self, step: Step) -> Bool[Array, ""]:
        """Return whether all measurements count by now, each as much as any other, on average."""


class Minibatches(AbstractCurriculum):
    """Some subjects at a step, drawn without replacement until all have had their turn, then in another order.

    $$ log p(y | x) \\approx \\frac{N}{B} \\sum_{i \\in batch} log p(y_i | x) $$

    It is unbiased: its mean over the draws is the log likelihood of all N subjects. Subjects beyond the last whole
    batch of an order wait for the next one. All steps are one compiled program.

    Args:
        size: The number of subjects B at a step.
        key: `jax.random.key(seed)`.

    Raises:
        ValueError: If the size is not positive.

    Reference: Robbins and Monro, Ann Math Stat 1951;22:400, doi:10.1214/aoms/1177729586.

    Example:
        >>> import jax
        >>> from qspjax.fit import Descent, Minibatches
        >>> Descent(curriculum=[Minibatches(5, key=jax.random.key(0))]).describe()
        'gradient descent in 1000 steps'
    """

    size: int = eqx.field(static=True)
    key: Key = eqx.field(kw_only=True)

    def __check_init__(self) -> None:
        check_whole("size", self.size, 1)
        check_key(self.key)

    def weights(self, rows: OutputData, subjects: Int[np.ndarray, " training"], step: Step) -> Float[Array, " rows"]:
        count = len(subjects)
        if self.size > count:
            refuse("size", f"be at most the number of subjects of the training ({count})", self.size)
        batches = count // self.size
        order = jax.random.permutation(jax.random.fold_in(self.key, step // batches), count)
        first = self.size * (step % batches)
        chosen = (order >= first) & (order < first + self.size)
        factor = jnp.zeros(1 + max(int(subjects.max()), int(rows.experiment.max())))
        return factor.at[subjects].set(jnp.where(chosen, count / self.size, 0.0))[rows.experiment]

    def is_whole(self, step: Step) -> Bool[Array, ""]:
        return jnp.ones((), bool)


class Horizon(AbstractCurriculum):
    """Early measurements first, and then ever later ones, until all count.

    $$ T(s) = T_1 (T_{end} / T_1)^{s / S} $$

    Long simulations with a network that has learned nothing yet go astray, and their gradients with them.

    Args:
        first: The horizon T_1 at the first step, in units of time.
        steps: The number of steps S until the last measurement counts.

    Raises:
        ValueError: If one is not positive.

    Reference: Rackauckas et al., arXiv:2001.04385 (2020).

    Example:
        >>> from qspjax.fit import Descent, Horizon
        >>> len(Descent(curriculum=[Horizon(first=24.0, steps=200)]).curriculum)
        1
    """

    first: float = eqx.field(static=True, kw_only=True)
    steps: int = eqx.field(static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_above("first", self.first, 0.0)
        check_whole("steps", self.steps, 1)

    def weights(self, rows: OutputData, subjects: Int[np.ndarray, " training"], step: Step) -> Float[Array, " rows"]:
        last = max(self.first, np.max(rows.time[np.isfinite(rows.time)], initial=self.first))
        until = self.first * (last / self.first) ** jnp.minimum(1.0, step / self.steps)
        return jnp.where((rows.time <= until * (1.0 + 1e-9)) | self.is_whole(step), 1.0, 0.0)

    def is_whole(self, step: Step) -> Bool[Array, ""]:
        return jnp.asarray(step >= self.steps)


class Emphasis(AbstractCurriculum):
    """Outputs that count ever more, such as the continuity of multiple shooting.

    $$ w(s) = w_1 (w_{end} / w_1)^{s / S} $$

    Args:
        outputs: The names of the outputs.
        first: Their factor at the first step.
        last: Their factor after the last of these steps.
        steps: The number of steps S.

    Raises:
        ValueError: If a factor is not positive.

    Example:
        >>> from qspjax.fit import Emphasis
        >>> Emphasis(["continuity"], first=0.1, last=100.0, steps=500).last
        100.0
    """

    outputs: tuple[str, ...] = eqx.field(static=True, converter=tuple)
    first: float = eqx.field(static=True, kw_only=True)
    last: float = eqx.field(static=True, kw_only=True)
    steps: int = eqx.field(static=True, kw_only=True)

    def __check_init__(self) -> None:
        check_above("first", self.first, 0.0)
        check_above("last", self.last, 0.0)
        check_whole("steps", self.steps, 1)

    def weights(self, rows: OutputData, subjects: Int[np.ndarray, " training"], step: Step) -> Float[Array, " rows"]:
        factor = self.first * (self.last / self.first) ** jnp.minimum(1.0, step / self.steps)
        return jnp.full(rows.value.shape, jnp.where(rows.name in self.outputs, factor, 1.0))

    def is_whole(self, step: Step) -> Bool[Array, ""]:
        return jnp.asarray(step >= self.steps)

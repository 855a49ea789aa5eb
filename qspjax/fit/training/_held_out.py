"""Subjects that are kept out of a training, to tell when it begins to learn their noise instead of their biology."""

import equinox as eqx
import numpy as np

from qspjax._checks import check_one_of, check_whole, refuse
from qspjax._parameters import AbstractChecked
from qspjax._random import generator
from qspjax._types import Key
from qspjax.fit._problem import Problem


class HeldOut(AbstractChecked):
    """Subjects that are held out of a training: the point at which they are predicted best is the answer.

    Args:
        subjects: The names of these experiments.
        patience: The training stops when so many steps have not predicted them better.
        every: They are simulated at every so-many-th step.

    Raises:
        ValueError: If there are none, or a number is not positive.

    Reference: Prechelt, Neural Netw 1998;11:761, doi:10.1016/S0893-6080(98)00010-0.

    Example:
        >>> from qspjax.fit import Descent, HeldOut
        >>> Descent(held_out=HeldOut(["7", "12"], patience=100)).held_out.subjects
        ('7', '12')
    """

    subjects: tuple[str, ...] = eqx.field(static=True, converter=tuple)
    patience: int = eqx.field(default=200, static=True, kw_only=True)
    every: int = eqx.field(default=1, static=True, kw_only=True)

    def __check_init__(self) -> None:
        if not self.subjects:
            refuse("subjects", "name at least one experiment", "empty")
        check_whole("patience", self.patience, 1)
        check_whole("every", self.every, 1)

    @classmethod
    def drawn(cls, problem: Problem, share: float, *, key: Key, patience: int = 200, every: int = 1) -> "HeldOut":
        """Return a share of the experiments of a problem, drawn at random, at least one.

        Args:
            problem: The problem.
            share: The share that is held out, between 0 and 1.
            key: `jax.random.key(seed)`.
            patience: As for the class.
            every: As for the class.
        """
        if not 0.0 < share < 1.0:
            refuse("share", "lie between 0 and 1", share)
        names = [*problem.experiments]
        count = min(max(1, round(share * len(names))), len(names) - 1)
        chosen = np.sort(generator(key).permutation(len(names))[:count])
        return cls([names[i] for i in chosen], patience=patience, every=every)

    def of(self, problem: Problem) -> np.ndarray:
        """Return which experiments of a problem are held out, shape (experiments,).

        Raises:
            ValueError: If one is no experiment of the problem, or none is left to train on.
        """
        for name in self.subjects:
            check_one_of("held_out", name, problem.experiments, "an experiment of the problem")
        held = np.isin([*problem.experiments], self.subjects)
        if held.all():
            refuse("held_out", "leave experiments to train on", "all of them")
        return held

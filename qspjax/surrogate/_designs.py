"""Designs: points between 0 and 1 that fill the space evenly."""

import abc

import equinox as eqx
import numpy as np

from qspjax._checks import check_whole


class AbstractDesign(eqx.Module):
    """The first simulations of a surrogate.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.surrogate.Sobol(128), AbstractDesign)
        True
    """

    size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def points(self, coordinates: int, random: np.random.Generator) -> np.ndarray:
        """Return points between 0 and 1, shape (size, coordinates)."""


class Sobol(AbstractDesign):
    """The first points of a scrambled Sobol sequence; their number is best a power of two.

    Args:
        size: The number of points.

    Reference: Owen, J Complex 1998;14:466, doi:10.1006/jcom.1998.0487.

    Example:
        >>> Sobol(8).points(2, np.random.default_rng(0)).shape
        (8, 2)
    """

    size: int = eqx.field(default=256, static=True)

    def __check_init__(self) -> None:
        check_whole("size", self.size, 8)

    def points(self, coordinates: int, random: np.random.Generator) -> np.ndarray:
        from scipy.stats import qmc

        power = (self.size - 1).bit_length()
        return qmc.Sobol(coordinates, scramble=True, rng=random).random_base2(power)[: self.size]


class LatinHypercube(AbstractDesign):
    """A Latin hypercube: each of `size` equal parts of each coordinate has one point.

    Args:
        size: The number of points.

    Reference: McKay, Beckman and Conover, Technometrics 1979;21:239, doi:10.1080/00401706.1979.10489755.

    Example:
        >>> sorted((4.0 * LatinHypercube(8).points(1, np.random.default_rng(0))[:, 0]).astype(int).tolist())
        [0, 0, 1, 1, 2, 2, 3, 3]
    """

    size: int = eqx.field(default=256, static=True)

    def __check_init__(self) -> None:
        check_whole("size", self.size, 8)

    def points(self, coordinates: int, random: np.random.Generator) -> np.ndarray:
        from scipy.stats import qmc

        return qmc.LatinHypercube(coordinates, rng=random).random(self.size)

"""The walls of the cube of points: they reflect."""

import numpy as np


def reflected(points: np.ndarray) -> np.ndarray:
    """Return points outside the cube as its walls reflect them.

    Example:
        >>> reflected(np.array([-0.25, 0.5, 1.25])).tolist()
        [0.25, 0.5, 0.75]
    """
    return 1.0 - np.abs(1.0 - np.mod(points, 2.0))


def bounced(points: np.ndarray) -> np.ndarray:
    """Return 1 or -1: which way a movement goes on that led to these points.

    Example:
        >>> bounced(np.array([-0.25, 0.5, 1.25, 2.25])).tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """
    return np.where(np.mod(points, 2.0) <= 1.0, 1.0, -1.0)

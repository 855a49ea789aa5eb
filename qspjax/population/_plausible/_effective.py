"""The effective sample size of chains of patients."""

import numpy as np


def effective_size(chains: np.ndarray) -> float:
    """Return how many independent patients say as much as those of some chains, for the worst coordinate.

    $$ N_{eff} = n m / (1 + 2 \\sum_t \\rho_t) $$

    The autocorrelations of n steps of m chains, about the mean of all chains, are summed up to the first pair whose sum
    is not positive.

    Reference: Geyer, Stat Sci 1992;7:473, doi:10.1214/ss/1177011137.

    Args:
        chains: Shape (steps, chains, coordinates).

    Example:
        >>> effective_size(np.random.default_rng(0).random((100, 10, 1))) > 500
        True
    """
    steps, count, _ = chains.shape
    if steps < 4:
        return float(count)
    centred = chains - chains.mean(axis=(0, 1))
    variance = np.maximum((centred**2).mean(axis=(0, 1)), np.finfo(float).tiny)
    padded = np.fft.rfft(centred, n=2 * steps, axis=0)
    correlation = np.fft.irfft(np.abs(padded) ** 2, n=2 * steps, axis=0)[:steps].mean(axis=1)
    correlation /= steps * variance  # the biased estimate, which falls to zero at long lags
    pairs = correlation[0 : 2 * (steps // 2) : 2] + correlation[1 : 2 * (steps // 2) : 2]
    positive = np.cumprod(pairs > 0, axis=0).astype(bool)
    time = np.maximum(2.0 * np.where(positive, pairs, 0.0).sum(axis=0) - 1.0, 1.0)
    return float(steps * count / time.max())

"""Whether chains agree, and to how many independent draws they correspond.

Ranks are normalised, z = Phi^-1((rank - 3/8) / (S + 1/4)), and chains split into halves, so that neither heavy tails
nor trends within a chain go unnoticed:

    R-hat = sqrt(var+ / W),   var+ = (N - 1) / N W + B / N
    ESS = S / (-1 + 2 sum_k P_k),   P_k = rho_2k + rho_2k+1, while positive, made monotone

Reference: Vehtari, Gelman, Simpson, Carpenter and Buerkner, Bayesian Anal 2021;16:667, doi:10.1214/20-BA1221.
"""

import numpy as np
from scipy.special import ndtri


def rhat(draws: np.ndarray) -> float:
    """Return the rank-normalised split R-hat, the greater of those of location and spread.

    Args:
        draws: Shape (chains, draws).

    Example:
        >>> import numpy as np
        >>> round(rhat(np.random.default_rng(0).normal(size=(4, 1000))), 2)
        1.0
    """
    if draws.shape[1] < 4 or not np.isfinite(draws).all():
        return float("nan")
    halves = _split(draws)
    return max(_plain_rhat(_normalised(halves)), _plain_rhat(_normalised(np.abs(halves - np.median(halves)))))


def bulk_ess(draws: np.ndarray) -> float:
    """Return the effective sample size for the middle of a distribution; `draws` as for `rhat`."""
    return _ess(_normalised(_split(draws)))


def tail_ess(draws: np.ndarray) -> float:
    """Return the lesser effective sample size of the 5 % and the 95 % quantile; `draws` as for `rhat`."""
    return min(_ess(_split((draws <= np.quantile(draws, level)).astype(float))) for level in (0.05, 0.95))


def _split(draws: np.ndarray) -> np.ndarray:
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, draws.shape[1] - half :]])


def _normalised(draws: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    ranks = rankdata(draws, method="average").reshape(draws.shape)
    return ndtri((ranks - 0.375) / (draws.size + 0.25))


def _plain_rhat(draws: np.ndarray) -> float:
    count = draws.shape[1]
    within, between = draws.var(axis=1, ddof=1).mean(), count * draws.mean(axis=1).var(ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.sqrt((between / within + count - 1.0) / count))


def _ess(draws: np.ndarray) -> float:
    chains, count = draws.shape
    if count < 4 or not np.isfinite(draws).all():
        return float("nan")
    if np.ptp(draws) < np.finfo(float).resolution:
        return float(draws.size)
    covariance = _autocovariances(draws).mean(axis=0)
    within = covariance[0] * count / (count - 1.0)
    total = covariance[0] + (draws.mean(axis=1).var(ddof=1) if chains > 1 else 0.0)
    rho = 1.0 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: count - count % 2].reshape(-1, 2)[: (count - 2) // 2]
    negative = np.flatnonzero(pairs.sum(axis=1) <= 0.0)
    last = negative[0] if negative.size else len(pairs) - 1
    sums = np.minimum.accumulate(pairs.sum(axis=1)[:last])
    time = -1.0 + 2.0 * sums.sum() + max(pairs[last, 0], 0.0)
    return float(draws.size / max(time, 1.0 / np.log10(draws.size)))


def _autocovariances(draws: np.ndarray) -> np.ndarray:
    """Return the autocovariances of each chain, shape (chains, draws)."""
    count = draws.shape[1]
    transform = np.fft.rfft(draws - draws.mean(axis=1, keepdims=True), n=2 * count, axis=1)
    return np.fft.irfft(transform * transform.conj(), n=2 * count, axis=1)[:, :count] / count

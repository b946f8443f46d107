"""The discrete Gaussian, for differential privacy on integers.

Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020): candidates from a
discrete Laplace distribution, thinned by rejection. Noise on the ring itself has none of the leaks that rounding
a continuous Gaussian's floats has (Mironov, CCS 2012).
"""

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.randomness import SecretStream

_Words = NDArray[np.int64]

LARGEST_SIGMA = 2**44


def discrete_gaussian(stream: SecretStream, sigma: float, count: int) -> _Words:
    """Draw ``count`` integers, int64, with probability proportional to exp(-x^2 / (2 sigma^2)).

    Coins of probability exp(-y) compare 63 random bits with a float64's value, so each is off by at most 2^-52
    of its size; a draw tosses fewer than 16 on average, and lies within 2^-48 of the exact distribution.

    Raises ValueError for a sigma that is not above 0 and at most 2^44.
    """
    if not 0 < sigma <= LARGEST_SIGMA:
        raise ValueError(f"sigma must be above 0 and at most 2^44, got {sigma}")
    scale = int(sigma) + 1
    found: list[_Words] = []
    missing = count
    while missing > 0:
        candidates = _discrete_laplace(stream, scale, 2 * missing + 16)
        distance = np.abs(candidates).astype(np.float64) - sigma**2 / scale
        kept = candidates[_coins(stream, distance**2 / (2 * sigma**2))]
        found.append(kept[:missing])
        missing -= len(found[-1])
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _discrete_laplace(stream: SecretStream, scale: int, tries: int) -> _Words:
    """Draw integers with probability proportional to exp(-|x| / scale): as many as come of ``tries``."""
    offset = stream.below(scale, tries)
    offset = offset[_coins(stream, offset / scale)]
    magnitude = offset + scale * _geometric(stream, len(offset))
    negative = stream.take_bits(len(offset)).astype(bool)
    # Zero has two signs; one of them is thrown away.
    once = ~(negative & (magnitude == 0))
    signed = np.where(negative, -magnitude, magnitude)[once]
    words: _Words = signed.astype(np.int64)
    return words


def _geometric(stream: SecretStream, count: int) -> _Words:
    """Count, for each of ``count``, the coins of probability 1/e that come up before the first that does not."""
    total = np.zeros(count, np.int64)
    going = np.arange(count)
    while len(going):
        going = going[_coins(stream, np.ones(len(going)))]
        total[going] += 1
    return total


def _coins(stream: SecretStream, exponents: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Toss a coin of probability exp(-y) for each y >= 0, float64 [n]."""
    drawn = stream.take_int64(len(exponents)) & np.int64(2**63 - 1)
    tossed: NDArray[np.bool_] = drawn.astype(np.float64) < np.exp(-exponents) * 2.0**63
    return tossed

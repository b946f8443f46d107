"""How sure is the norm check? Computes the probabilities of docs/security.md: ``python scripts/norm_check_bounds.py``.

All bounds hold for every report that a site can choose before the coins are tossed. B is the bound, A the limit of a
projection, m a sketch's buckets, p = 1 / m, x_i the share of coordinate i in the squared norm of a report. Prints
logarithms to base 2.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.norm_check import BUCKETS, LARGEST_BOUND, PROJECTIONS, ROOM, SLACK, NormBound

Values = NDArray[np.float64]


def honest_projection() -> float:
    """Return log2 of the probability that any projection of a report within B leaves [-A, A).

    For given buckets and coefficients a projection is a sum of v_i times independent signs, of which some are left
    out: Hoeffding's inequality bounds P(|p| >= 9 B) by 2 exp(-81 / 2).
    """
    return math.log2(2 * sum(PROJECTIONS)) - ROOM**2 / 2 / math.log(2)


def honest_norm(slack: float = SLACK, buckets: int = BUCKETS) -> float:
    """Return log2 of the probability that the sketch of a report within B has a squared norm above slack B^2.

    Let |v| = 1, Z = |s|^2 - 1, and V_b the sum of the x_i in bucket b. The mean over the signs of
    exp(l (s_b^2 - V_b)) grows with every coordinate that joins b, and what the buckets hold is negatively associated
    (each coordinate is in one), so E exp(l Z) <= G^m with G its mean over what b holds. Since exp(l s_b^2) is the mean
    over a standard normal g of exp(sqrt(2 l) g s_b),

        G = E_g prod_i (1 + p f_g(x_i)),   f_g(x) = cosh(sqrt(2 l x) g) exp(-l x) - 1,   E_g f_g = 0.

    With K = sum_i ln(1 + p f_g(x_i)) therefore G - 1 <= E_g (exp(K) - 1 - K), which grows with |K|; K lies between
    -p l (1 + p l) and the supremum over x in (0, 1] of ln(1 + p f_g(x)) / x, since the x_i add up to 1. Markov's
    inequality gives P(Z > z) <= exp(-l z) G^m, for the best l.
    """
    return min(
        (-exponent * (slack - 1) + cumulant(exponent, buckets)) / math.log(2) for exponent in (7.0, 8.0, 8.3, 8.6)
    )


@functools.cache
def cumulant(exponent: float, buckets: int) -> float:
    """Return m (G - 1), a bound of ln E exp(l Z)."""
    p = 1 / buckets
    normals = np.linspace(0, 50, 4001)
    shares = np.exp(np.linspace(math.log(1e-6), 0, 800))
    largest = p * exponent * (normals**2 - 1)  # the limit for small shares
    for start in range(0, len(normals), 500):
        some = normals[start : start + 500, None]
        grown = np.sqrt(2 * exponent * shares) * some
        logarithm = grown + np.log1p(np.exp(-2 * grown)) - math.log(2) - exponent * shares
        rates = np.logaddexp(math.log1p(-p), math.log(p) + logarithm) / shares
        largest[start : start + 500] = np.maximum(largest[start : start + 500], rates.max(axis=1))
    least = p * exponent * (1 + p * exponent)
    excess = np.maximum(np.expm1(np.minimum(largest, 500)) - largest, least**2)
    logs = np.where(largest > 30, largest, np.log(excess)) - normals**2 / 2
    density = np.exp(logs) * 2 / math.sqrt(2 * math.pi)
    return buckets * float(np.trapezoid(density, normals))


def projections_pass(limit: float, squared: Values, rows: int) -> Values:
    """Bound the probability that so many projections of a sketch of a squared norm all lie within [-limit, limit).

    A projection has the mean square |s|^2 / 2 and a fourth moment of at most three times that squared, so by Paley
    and Zygmund's inequality it exceeds the limit with probability (1 - t)^2 / 3 at least, t = 2 limit^2 / |s|^2.
    """
    ratio = np.minimum(2 * limit**2 / squared, 1.0)
    passed: Values = (1 - (1 - ratio) ** 2 / 3) ** rows
    return passed


def shrunk(share: Values | float, buckets: int) -> Values:
    """Bound the probability that a sketch has a squared norm of at most ``share`` of the report's.

    Its variance is at most 2 / m of the square, so this is Cantelli's inequality.
    """
    variance = 2 / buckets
    found: Values = variance / (variance + (1 - np.minimum(share, 1.0)) ** 2)
    return found


def wrapped_norm() -> float:
    """Return log2 of the probability that a first sketch whose squared norm reaches 2^62 passes its projections."""
    limit = 2.0 ** (NormBound(LARGEST_BOUND, 0, 1).projection_bits - 1)
    return float(np.log2(projections_pass(limit, np.array([2.0**62]), PROJECTIONS[0])[0]))


def large_coordinate() -> float:
    """Return log2 of the probability that a coordinate of 4 A or more, modulo 2^64, passes all sketches.

    Whatever the others hold, it leaves all buckets below 2 A in one bucket of m at most. A sketch with a bucket of
    2 A or more passes each of its projections with probability 1/2 at most.
    """
    return sum(math.log2(1 / BUCKETS + 2.0**-rows) for rows in PROJECTIONS)


def long_report(times: float, room: float = 2.0 * ROOM) -> float:
    """Return log2 of the probability that a report of ``times`` B, with no coordinate of 4 A, passes.

    ``room`` is A / B, at most twice ROOM. The first sketch must come out within SLACK; each of the others within its
    projections, whatever it comes out as: the sum over what it may be is taken by parts.
    """
    total = math.log2(shrunk(SLACK / times**2, BUCKETS))
    shares = np.linspace(1e-4, 1, 20001)
    for rows in PROJECTIONS[1:]:
        passed = projections_pass(room, shares * times**2, rows)
        total += math.log2(passed[-1] + float(np.sum(shrunk(shares[1:], BUCKETS) * -np.diff(passed))))
    return total


def main() -> None:
    """Print all bounds."""
    print(f"sketches of {BUCKETS} buckets with {PROJECTIONS} projections")
    print(f"A from {ROOM} to {2 * ROOM} B, slack {SLACK} of the squared norm")
    print(f"honest report refused: projections 2^{honest_projection():.1f}, norm 2^{honest_norm():.1f}")
    print(f"a coordinate of 4 A passes: 2^{large_coordinate():.1f}")
    print(f"a norm that wraps around passes: 2^{wrapped_norm():.1f}")
    for times in (2.5, 3, 4, 8, 16, 32, 64, 100):
        print(f"a report of {times:g} B, of any shape, passes: 2^{long_report(times):.1f}")


if __name__ == "__main__":
    main()

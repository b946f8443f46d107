"""Fixed-point encoding and additive secret sharing in Z/2^64.

A vector is the sum of one share a party. All shares but the last are the keystreams of 32-byte seeds, so that a
party receives 32 bytes instead of the vector's length (Boyle, Gilboa and Ishai call it pseudorandom sharing;
Prio3, RFC draft-irtf-cfrg-vdaf, does the same).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.errors import EncodingError
from nescient_fl.mpc.randomness import SecretStream, fresh_seed

_LARGEST = 2.0**62


@dataclass(frozen=True, repr=False)
class Split:
    """The shares of one vector: seeds for all parties but the last, the dense rest, int64 [n], for the last."""

    seeds: tuple[bytes, ...]
    last: NDArray[np.int64]


def encode(values: NDArray[np.float64], fraction_bits: int) -> NDArray[np.int64]:
    """Return round(values * 2^fraction_bits), int64, halves to even.

    Raises EncodingError for a value that is not finite or reaches 2^62 when scaled.
    """
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused
        scaled = np.multiply(values, 2.0**fraction_bits, dtype=np.float64)
    np.rint(scaled, out=scaled)
    # NaN is neither above nor below anything, and the extremes of an array that holds it.
    largest = max(float(scaled.max()), -float(scaled.min())) if scaled.size else 0.0
    if not math.isfinite(largest):
        raise EncodingError("a value is not finite")
    if largest >= _LARGEST:
        raise EncodingError("a value is too large for the fixed-point encoding")
    return scaled.astype(np.int64)


def decode(ring: NDArray[np.int64], fraction_bits: int) -> NDArray[np.float64]:
    """Return ring elements, centred at zero, as float64."""
    return ring.astype(np.float64) / 2.0**fraction_bits


def split(ring: NDArray[np.int64], parties: int) -> Split:
    """Share a vector int64 [n] among two or more parties, with fresh seeds. Any parties - 1 shares are uniform."""
    if parties < 2:
        raise ValueError("a secret is shared among two parties at least")
    seeds = tuple(fresh_seed() for _ in range(parties - 1))
    last = ring
    for seed in seeds:
        share = expand(seed, len(ring))
        last = np.subtract(last, share, out=share)
    return Split(seeds, last)


def expand(seed: bytes, count: int) -> NDArray[np.int64]:
    """Return the share, int64 [count], that a seed stands for."""
    return SecretStream(seed).take_int64(count)


def join(shares: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the vector that shares, int64 [n] each, add up to."""
    total = np.zeros_like(shares[0])
    for share in shares:
        total += share
    return total

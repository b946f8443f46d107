"""Which of the shared reports are within the norm bound? One bit a report is opened, nothing else.

A site may share any words at all, so that the sum of squares modulo 2^64 alone proves nothing: it wraps around.
docs/security.md argues why what follows is sound, and scripts/norm_check_bounds.py computes how sound. The idea of
testing random projections for wrap-around is that of PINE (Rothblum, Omri, Chen and Talwar, "PINE: Efficient
Norm-Bound Verification for Secret-Shared Vectors", 2023), carried over from a prime field to Z/2^64; sketches are
Count Sketches (Charikar, Chen and Farach-Colton, ICALP 2002).

  1. The parties toss public coins, after all reports are fixed.
  2. Each report is sketched: every coordinate joins, with a random sign, a random bucket of each of five sketches.
  3. Random sums of buckets, with coefficients -1, 0, 0 and 1, must lie within [-A, A). A report of 64 times the
     bound or more, and one whose norm could not be computed without wrap-around, fails this except with
     probability below 2^-40.
  4. The squared norm of the first sketch, which then is exact and close to the report's own, is compared with the
     bound's square, SLACK times: a report within the bound fails except with probability below 2^-40.
  5. The weight must lie in [1, weight_max].
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.mpc.bit_slices import unpack
from nescient_fl.mpc.comparison import ANDS_PER_WORD, all_of, in_range, open_bits
from nescient_fl.mpc.crypten_bridge import Exchange
from nescient_fl.mpc.errors import BoundError, SessionAborted
from nescient_fl.mpc.material import Material, MaterialRequest
from nescient_fl.mpc.randomness import SecretStream, derive_key, fresh_seed

from crypten.mpc.primitives import ArithmeticSharedTensor  # isort: skip

_Words = NDArray[np.int64]

SKETCHES = ((4096, 112), (1024, 24), (1024, 24), (1024, 24), (1024, 24))
"""Buckets and projections of each sketch; the first is the one whose norm is compared."""
ROOM = 9
"""A is at least so many times the bound: no projection of an honest report reaches it (Hoeffding: 2^-58 each)."""
LARGEST_BOUND = 2**29 // ROOM
"""So that A is at most 2^29, and 112 projections catch every sketch whose squared norm reaches 2^62."""
SLACK = 4.5
"""Of the squared norm: neither a sketch's own spread nor a few large coordinates that meet in one bucket refuse an
honest report. What may pass is 2.1 times as long as the bound."""

_CHECKS = sum(rows for _, rows in SKETCHES) + 2
_LIMB = 22


@dataclass(frozen=True)
class NormBound:
    """The public bound.

    Attributes:
        bound: largest L2 norm of a report, in ring units, up to ``LARGEST_BOUND``.
        weight_index: which word is the weight.
        weight_max: largest weight, a power of two.
    """

    bound: int
    weight_index: int
    weight_max: int

    def __post_init__(self) -> None:
        if not 1 <= self.bound <= LARGEST_BOUND:
            raise BoundError(f"the norm check is sound for bounds from 1 to {LARGEST_BOUND}, not for {self.bound}")
        if self.weight_max < 1 or self.weight_max & (self.weight_max - 1) or self.weight_max > 2**40:
            raise BoundError(f"the largest weight must be a power of two, got {self.weight_max}")

    @property
    def projection_bits(self) -> int:
        """Return log2 of 2A, where A, a power of two and at least ROOM bounds, limits a projection: -A <= p < A."""
        return (ROOM * self.bound - 1).bit_length() + 1

    @property
    def limit(self) -> int:
        """Return what the squared norm of the first sketch may be."""
        return int(SLACK * 2) * self.bound**2 // 2


def material_for(reports: int) -> MaterialRequest:
    """Return what the dealer must provide to check so many reports."""
    groups = -(-reports // 64)
    return MaterialRequest(
        squares=(reports, SKETCHES[0][0]),
        comparisons=_CHECKS * groups * 64,
        ands=groups * (_CHECKS * ANDS_PER_WORD + _CHECKS - 1),
    )


def check_norms(session: Exchange, shares: _Words, bound: NormBound, material: Material) -> NDArray[np.bool_]:
    """Check shared reports int64 [n, L]; call it alike at every party, inside ``crypten_party``.

    Returns bool [n], the same everywhere. The material must be that of ``material_for(n)``.
    """
    count, length = shares.shape
    coins = SecretStream(toss_coins(session))
    sketches = [sketch(shares, *draw_sketch(coins, length, buckets), buckets) for buckets, _ in SKETCHES]
    projections = [
        project(vector, draw_projections(coins, vector.shape[1], rows))
        for vector, (_, rows) in zip(sketches, SKETCHES, strict=True)
    ]
    squared = _squared_norm(session.rank, sketches[0], material)
    first = np.int64(1) if session.rank == 0 else np.int64(0)
    half = np.int64(1) << np.int64(bound.projection_bits - 1)
    values = [
        *((rows + first * half).T for rows in projections),
        (shares[:, bound.weight_index] - first)[None],
        (first * np.int64(bound.limit) - squared)[None],
    ]
    bits = [bound.projection_bits] * (_CHECKS - 2) + [bound.weight_max.bit_length() - 1, 62]
    within = _all_in_range(session.rank, np.concatenate(values), bits, material)
    return within[:count].astype(bool)


def toss_coins(session: Exchange) -> bytes:
    """Return 32 random bytes that no party could choose: all commit to a part before any shows it."""
    mine = fresh_seed()
    commitments = session.exchange(hashlib.sha256(mine).digest())
    parts = session.exchange(mine)
    for rank, (commitment, part) in enumerate(zip(commitments, parts, strict=True)):
        if hashlib.sha256(part).digest() != commitment:
            raise SessionAborted(f"the party of rank {rank} changed its coins")
    return derive_key(hashlib.sha256(b"".join(parts)).digest(), b"nescient/coins/1")


def draw_sketch(coins: SecretStream, length: int, buckets: int) -> tuple[_Words, _Words]:
    """Draw the bucket, in [0, buckets) with buckets a power of two, and the sign of every coordinate."""
    words = coins.take_int64(length)
    return words & np.int64(buckets - 1), np.where(words < 0, np.int64(-1), np.int64(1))


def sketch(vectors: _Words, buckets: _Words, signs: _Words, size: int) -> _Words:
    """Sketch vectors int64 [n, L] into ``size`` buckets: int64 [n, size]; sums wrap."""
    order = np.argsort(buckets, kind="stable")
    counts = np.bincount(buckets, minlength=size)
    filled = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[filled]
    signs = signs[order]
    sketched = np.zeros((len(vectors), size), np.int64)
    for row, vector in zip(sketched, vectors, strict=True):
        row[filled] = np.add.reduceat(vector[order] * signs, starts)
    return sketched


def draw_projections(coins: SecretStream, length: int, rows: int) -> NDArray[np.float64]:
    """Draw coefficients, float64 [length, rows]: 0 with probability 1/2, -1 and 1 with 1/4 each."""
    bits = coins.take_bits(2 * length * rows).astype(np.float64)
    drawn: NDArray[np.float64] = (bits[: length * rows] - bits[length * rows :]).reshape(length, rows)
    return drawn


def project(vectors: _Words, coefficients: NDArray[np.float64]) -> _Words:
    """Return vectors int64 [n, m] times coefficients [m, rows], modulo 2^64: int64 [n, rows].

    numpy has no fast product of int64 matrices; in three limbs of at most 22 bits each product of float64 ones is
    exact: its sums stay below 2^53.
    """
    mask = np.int64((1 << _LIMB) - 1)
    total = np.zeros((len(vectors), coefficients.shape[1]), np.int64)
    for limb in range(3):
        part = vectors >> np.int64(_LIMB * limb)
        part = part & mask if limb < 2 else part
        product = part.astype(np.float64) @ coefficients
        total += product.astype(np.int64) << np.int64(_LIMB * limb)
    return total


def _squared_norm(rank: int, vectors: _Words, material: Material) -> _Words:
    """Return shares of the sum of squares, modulo 2^64, of each shared vector int64 [n, m]."""
    masks, square_sums = material.take_squares(len(vectors))
    difference = ArithmeticSharedTensor.from_shares(torch.from_numpy(vectors - masks), precision=0)
    opened = difference.reveal().numpy()
    # |v|^2 = |e|^2 + 2 <e, a> + |a|^2 for the opened e = v - a.
    squared: _Words = square_sums + 2 * np.einsum("nm,nm->n", opened, masks)
    return squared + np.einsum("nm,nm->n", opened, opened) if rank == 0 else squared


def _all_in_range(rank: int, values: _Words, bits: Sequence[int], material: Material) -> NDArray[np.uint8]:
    """Return, for shared values int64 [checks, n], whether all of a column are in range: uint8 [n or more]."""
    checks, count = values.shape
    padded = np.zeros((checks, -(-count // 64) * 64), np.int64)
    padded[:, :count] = values
    each = np.repeat(np.array(bits, np.int64), padded.shape[1])
    words = in_range(rank, padded.reshape(-1), each, material)
    return unpack(open_bits(all_of(words.reshape(checks, -1))))

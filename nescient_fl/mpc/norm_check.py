"""Which of the shared reports are within the norm bound? One bit a report is opened, nothing else.

A site may share any words at all, so that the sum of squares modulo 2^64 alone proves nothing: it wraps around.
docs/security.md argues why what follows is sound, and scripts/norm_check_bounds.py computes how sound. The idea of
testing random projections for wrap-around is that of PINE (Rothblum, Omri, Chen and Talwar, "PINE: Efficient
Norm-Bound Verification for Secret-Shared Vectors", 2023), carried over from a prime field to Z/2^64; sketches are
Count Sketches (Charikar, Chen and Farach-Colton, ICALP 2002).

  1. The parties toss public coins, after all reports are fixed.
  2. Each report is sketched: every coordinate joins, with a random sign, a random bucket of each of four sketches.
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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from nescient_fl.mpc.bit_slices import unpack
from nescient_fl.mpc.comparison import ANDS_PER_WORD, all_of, in_range, open_bits
from nescient_fl.mpc.crypten_bridge import Exchange
from nescient_fl.mpc.errors import BoundError, SessionAborted
from nescient_fl.mpc.material import Material, MaterialRequest
from nescient_fl.mpc.randomness import SecretStream, derive_key, fresh_seed

from crypten.mpc.primitives import ArithmeticSharedTensor  # isort: skip

_Words = NDArray[np.int64]

BUCKETS = 4096
PROJECTIONS = (112, 32, 32, 32)
"""Of each sketch; the first is the one whose norm is compared."""
ROOM = 9
"""A is at least so many times the bound: no projection of an honest report reaches it (Hoeffding: 2^-58 each)."""
LARGEST_BOUND = 2**29 // ROOM
"""So that A is at most 2^29, and 112 projections catch every sketch whose squared norm reaches 2^62."""
SLACK = 4.5
"""Of the squared norm: neither a sketch's own spread nor a few large coordinates that meet in one bucket refuse an
honest report. What may pass is 2.1 times as long as the bound."""

_CHECKS = sum(PROJECTIONS) + 2
_LIMB = 22
_SIDE_BY_SIDE = 4


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
        squares=(reports, BUCKETS),
        comparisons=_CHECKS * groups * 64,
        ands=groups * (_CHECKS * ANDS_PER_WORD + _CHECKS - 1),
    )


def check_norms(session: Exchange, shares: Sequence[_Words], bound: NormBound, material: Material) -> NDArray[np.bool_]:
    """Check shared reports, n of int64 [L]; call it alike at every party, inside ``crypten_party``.

    Returns bool [n], the same everywhere. The material must be that of ``material_for(n)``.
    """
    count, length = len(shares), len(shares[0])
    coins = SecretStream(toss_coins(session))
    sketches = sketch(shares, [draw_sketch(coins, length, BUCKETS) for _ in PROJECTIONS], BUCKETS)
    projections = [
        project(vectors, draw_projections(coins, BUCKETS, rows))
        for vectors, rows in zip(sketches, PROJECTIONS, strict=True)
    ]
    squared = _squared_norm(session.rank, sketches[0], material)
    first = np.int64(1) if session.rank == 0 else np.int64(0)
    half = np.int64(1) << np.int64(bound.projection_bits - 1)
    values = [
        *((rows + first * half).T for rows in projections),
        np.array([[share[bound.weight_index] - first for share in shares]]),
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


def sketch(vectors: Sequence[_Words], drawn: Sequence[tuple[_Words, _Words]], size: int) -> list[_Words]:
    """Sketch n vectors int64 [L] into ``size`` buckets, once for each drawn: int64 [n, size] each; sums wrap.

    A sketch is a sparse matrix of one entry a column. It is applied to a few vectors side by side, so that whoever
    goes to a coordinate's bucket takes several values along. Words are without a sign: their sums wrap by definition.
    """
    matrices = [_matrix(buckets, signs, size) for buckets, signs in drawn]
    sketched = [np.empty((len(vectors), size), np.int64) for _ in drawn]
    for start in range(0, len(vectors), _SIDE_BY_SIDE):
        block = np.stack(vectors[start : start + _SIDE_BY_SIDE], axis=1).view(np.uint64)
        for matrix, rows in zip(matrices, sketched, strict=True):
            rows[start : start + _SIDE_BY_SIDE] = (matrix @ block).view(np.int64).T
    return sketched


def _matrix(buckets: _Words, signs: _Words, size: int) -> Any:
    columns = np.arange(len(buckets) + 1, dtype=np.int32)
    entries = (signs.view(np.uint64), buckets.astype(np.int32), columns)
    return sparse.csc_array(entries, shape=(size, len(buckets)))


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

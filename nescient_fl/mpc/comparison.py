"""Is a shared word within a power of two? A batched range check that opens nothing but masked words.

To learn whether y in Z/2^64 lies in [0, 2^g): the dealer gives a random word r, added and by its bits; the parties
open c = y + r, which is uniform. y is in range exactly when r lies in the circular interval (c - 2^g, c], that is
when [r >= lo] xor [r <= hi] xor [lo <= hi] for the public lo = c - 2^g + 1 and hi = c. Each of the two comparisons of
the bit-shared r with a public word is a tree of generate and propagate pairs (as in a carry-lookahead adder), six
levels of bitwise multiplications for 64 bits, 64 values to a word. Any number of parties.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.mpc.bit_slices import bit_planes, pack
from nescient_fl.mpc.material import Material

from crypten.mpc.primitives import ArithmeticSharedTensor, BinarySharedTensor  # isort: skip

_Words = NDArray[np.int64]
_ALL = np.int64(-1)
_LEVELS = 6

ANDS_PER_WORD = 2 * 2 * 63
"""Multiplied words for 64 range checks: two comparisons, a tree of 63 nodes of two multiplications each."""


def in_range(rank: int, shares: _Words, bits: NDArray[np.int64], material: Material) -> _Words:
    """Check shared values int64 [n], n a multiple of 64, each against its own range [0, 2^bits), bits in 0..62.

    Returns xor shares of the answers, int64 [n / 64], 64 to a word. Takes n comparisons and
    n / 64 * ANDS_PER_WORD words of triples; all parties call it alike, inside ``crypten_party``.
    """
    masks, planes = material.take_comparisons(len(shares))
    masked = ArithmeticSharedTensor.from_shares(torch.from_numpy(shares + masks), precision=0)
    opened = masked.reveal().numpy()
    low = opened - (np.int64(1) << bits) + np.int64(1)
    ordered = pack((low.view(np.uint64) <= opened.view(np.uint64)).astype(np.uint8))
    beyond = _beyond(rank, planes, bit_planes(low), bit_planes(opened))
    answer: _Words = beyond[0] ^ beyond[1]
    return answer ^ ordered if rank == 0 else answer


def all_of(words: _Words) -> _Words:
    """Multiply xor-shared bits, int64 [k, w], along the first axis: int64 [w]. Takes (k - 1) w words of triples."""
    while len(words) > 1:
        half = len(words) // 2
        products = _and(words[:half], words[half : 2 * half])
        words = np.concatenate([products, words[2 * half :]])
    product: _Words = words[0]
    return product


def open_bits(words: _Words) -> _Words:
    """Open xor-shared words int64 [w]."""
    opened: _Words = BinarySharedTensor.from_shares(torch.from_numpy(words.copy())).reveal().numpy()
    return opened


def _beyond(rank: int, planes: _Words, low: _Words, high: _Words) -> _Words:
    """Return shares of [r < low] and [r > high], int64 [2, w], for bit planes int64 [64, w].

    Of a pair (g, p) for a run of bits, g says that the run decides "beyond", p that r and the limit agree on it.
    """
    flip = _ALL if rank == 0 else np.int64(0)
    below = (planes ^ flip) & low
    above = planes & ~high
    agree_low = planes ^ (~low if rank == 0 else np.int64(0))
    agree_high = planes ^ (~high if rank == 0 else np.int64(0))
    generate = np.stack([below, above], axis=1)  # [64, 2, w]
    propagate = np.stack([agree_low, agree_high], axis=1)
    for _ in range(_LEVELS):
        lower, upper = slice(0, None, 2), slice(1, None, 2)
        products = _and(np.stack([propagate[upper], propagate[upper]]), np.stack([generate[lower], propagate[lower]]))
        generate, propagate = generate[upper] ^ products[0], products[1]
    decided: _Words = generate[0]
    return decided


def _and(left: _Words, right: _Words) -> _Words:
    """Multiply xor-shared words with CrypTen, in one exchange."""
    product = BinarySharedTensor.from_shares(torch.from_numpy(np.ascontiguousarray(left))) & (
        BinarySharedTensor.from_shares(torch.from_numpy(np.ascontiguousarray(right)))
    )
    share: _Words = product.share.numpy()
    return share

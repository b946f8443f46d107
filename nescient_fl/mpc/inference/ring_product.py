"""Products of integer matrices modulo 2^64, by floating-point products that are exact.

numpy multiplies int64 matrices without BLAS. Split into limbs small enough that every sum stays below 2^53, the
same product is a few float64 ones, each exact, and several times quicker.
"""

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.inference.fixed_point import Words

_EXACT = 53
_BLOCK = 1 << 21
"""Elements of the right matrix that are split at a time: bounds memory, and keeps the limbs in the cache."""


def multiply(left: Words, right: Words, bits: int, left_bits: int | None = None) -> NDArray[np.uint64]:
    """Return left [m, n] times right [n, p], unsigned words, modulo 2^bits: uint64 [m, p].

    ``left_bits`` says that left holds signed integers of that many bits (in two's complement), which takes fewer
    limbs; without it, left is uniform in the ring.
    """
    depth = max(left.shape[1], 1).bit_length()
    limb = (_EXACT - depth) // 2
    if left_bits is not None and left_bits <= limb:
        parts, offsets = [left.astype(np.uint64).view(np.int64).astype(np.float64)], [0]
    else:
        parts, offsets = _split(left, bits, limb)
    stacked = np.concatenate(parts)
    # What the left limbs do not use of the 53 bits, the right ones may.
    right_limb = _EXACT - depth - (left_bits if len(parts) == 1 and left_bits is not None else limb)
    rows = left.shape[0]
    product = np.zeros((rows, right.shape[1]), np.uint64)
    step = max(_BLOCK // max(right.shape[0], 1), 1)
    for start in range(0, right.shape[1], step):
        columns = slice(start, start + step)
        for limb_values, shift in zip(*_split(right[:, columns], bits, right_limb), strict=True):
            used = sum(offset + shift < bits for offset in offsets)
            partial = stacked[: used * rows] @ limb_values
            for number, offset in enumerate(offsets[:used]):
                whole = partial[number * rows : (number + 1) * rows].astype(np.int64).view(np.uint64)
                product[:, columns] += whole << np.uint64(offset + shift)
    return product


def _split(words: Words, bits: int, limb: int) -> tuple[list[NDArray[np.float64]], list[int]]:
    """Split words into limbs, float64, lowest first, with the bit that each starts at."""
    count = -(-bits // limb)
    # Even limbs rather than full ones and a rest: no smaller number of them is possible.
    limb = -(-bits // count)
    kind = words.dtype.type
    mask = kind((1 << limb) - 1)
    offsets = [number * limb for number in range(count)]
    limbs = [((words >> kind(offset)) & mask).astype(np.float64) for offset in offsets]
    return limbs, offsets

"""Weights times the windows of images, modulo 2^bits, by floating-point products that are exact.

numpy multiplies int64 matrices without BLAS. Split into limbs small enough that every sum stays below 2^53, the
same product is a few float64 ones, each exact, and several times quicker.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.inference.fixed_point import Words, word_type
from nescient_fl.mpc.inference.windows import Pair, output_size, patches

_EXACT = 53
_BLOCK = 1 << 17
"""Elements of the windows that are unfolded at a time: they stay in the cache."""


class RingMatrix:
    """Weights of a ring of ``bits`` bits, [channels, depth], split into limbs once.

    ``signed_bits`` says that the weights are signed integers of so many bits, which takes fewer limbs.
    """

    def __init__(self, weights: NDArray[Any], bits: int, signed_bits: int | None = None) -> None:
        self.channels, self.depth = weights.shape
        self.bits = bits
        room = _EXACT - self.depth.bit_length()
        if signed_bits is not None and signed_bits <= room // 2:
            limbs, self._offsets = [weights.astype(np.int64).astype(np.float64)], [0]
            self._right_limb = room - signed_bits
        else:
            limbs, self._offsets = split(weights.astype(np.uint64), bits, room // 2)
            self._right_limb = room // 2
        self._stacked = np.concatenate(limbs)

    def times_windows(self, values: Words, kernel: Pair, stride: Pair) -> Words:
        """Multiply with every window over values [B, C, H, W]: [channels, B h w], in the ring."""
        limbs, shifts = split(values, self.bits, self._right_limb)
        images, _, height, width = values.shape
        rows = output_size(height, kernel[0], stride[0])
        columns = output_size(width, kernel[1], stride[1])
        product = np.zeros((self.channels, images, rows, columns), np.uint64)
        at_once = max(_BLOCK // (self.depth * columns), 1)
        together = max(at_once // rows, 1)
        for first in range(0, images, together):
            batch = slice(first, first + together)
            for row in range(0, rows, at_once):
                seen = slice(row * stride[0], (min(row + at_once, rows) - 1) * stride[0] + kernel[0])
                part = product[:, batch, row : row + at_once]
                for limb, shift in zip(limbs, shifts, strict=True):
                    self._add(part, patches(limb[batch, :, seen], kernel, stride), shift)
        return product.reshape(self.channels, -1).astype(word_type(self.bits), copy=False)

    def _add(self, part: NDArray[np.uint64], columns: NDArray[np.float64], shift: int) -> None:
        """Add the product with one limb of the windows, [depth, n], to part [channels, ...], n in all."""
        used = sum(offset + shift < self.bits for offset in self._offsets)
        found = self._stacked[: used * self.channels] @ columns
        for number, offset in enumerate(self._offsets[:used]):
            whole = found[number * self.channels : (number + 1) * self.channels].astype(np.int64).view(np.uint64)
            part += (whole << np.uint64(offset + shift)).reshape(part.shape)


def split(words: Words, bits: int, limb: int) -> tuple[list[NDArray[np.float64]], list[int]]:
    """Split words into limbs of at most so many bits, float64, lowest first, with the bit that each starts at."""
    count = -(-bits // limb)
    # Even limbs: as few as full ones and a rest would be, and smaller.
    limb = -(-bits // count)
    kind = words.dtype.type
    mask = kind((1 << limb) - 1)
    offsets = [number * limb for number in range(count)]
    return [((words >> kind(offset)) & mask).astype(np.float64) for offset in offsets], offsets

"""Bits of many words side by side: 64 values to a word, one word array a bit position.

A Boolean circuit then works on 64 values with every operation.
"""

import numpy as np
from numpy.typing import NDArray


def pack(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pack bits, uint8 [..., n] of 0 and 1 with n a multiple of 64, into words, int64 [..., n / 64]."""
    if bits.shape[-1] % 64:
        raise ValueError("bits are packed in groups of 64")
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<i8").astype(np.int64, copy=False)


def unpack(words: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Undo ``pack``: words int64 [..., w] to bits uint8 [..., 64 w]."""
    raw = np.ascontiguousarray(words.astype("<i8", copy=False)).view(np.uint8)
    return np.unpackbits(raw, axis=-1, bitorder="little")


def bit_planes(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bits of values int64 [n], n a multiple of 64: int64 [64, n / 64], lowest bit first."""
    raw = np.ascontiguousarray(values.astype("<i8", copy=False)).view(np.uint8).reshape(-1, 8)
    return pack(np.ascontiguousarray(np.unpackbits(raw, axis=1, bitorder="little").T))

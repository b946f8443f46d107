"""Fixed-point numbers in Z/2^b: how they are encoded, held, cut and sent.

A ring of b bits is held in the smallest of uint32 and uint64 that fits it; what stands above bit b means nothing.
Addition and multiplication of the machine's words are right modulo 2^b as they are.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.errors import EncodingError, SessionAborted
from nescient_fl.mpc.randomness import SecretStream

Words = NDArray[np.unsignedinteger[Any]]
"""Ring elements, uint32 or uint64, or bits side by side, uint64."""

_LARGEST = 2.0**62


def word_type(bits: int) -> type[np.unsignedinteger[Any]]:
    """Return the type that holds a ring of 1 to 64 bits."""
    if not 1 <= bits <= 64:
        raise EncodingError(f"a ring has from 1 to 64 bits, not {bits}")
    return np.uint32 if bits <= 32 else np.uint64


def wire_bytes(bits: int) -> int:
    """Return how many bytes of each word of a ring are sent."""
    return -(-bits // 8)


def encode_integers(values: NDArray[Any], fraction_bits: int) -> NDArray[np.int64]:
    """Return round(values * 2^fraction_bits), int64, halves to even.

    Raises EncodingError for a value that is not finite or reaches 2^62 when scaled.
    """
    scaled = np.rint(np.asarray(values, np.float64) * 2.0**fraction_bits)
    # One comparison that NaN fails too.
    if not bool((np.abs(scaled) < _LARGEST).all()):
        raise EncodingError("a value is not finite, or too large for the fixed-point encoding")
    return scaled.astype(np.int64)


def to_ring(integers: NDArray[np.int64], bits: int) -> Words:
    """Return signed integers as words of a ring."""
    return integers.astype(np.uint64).astype(word_type(bits), copy=False)


def to_signed(words: Words, bits: int) -> NDArray[np.int64]:
    """Return ring elements as integers in [-2^(bits-1), 2^(bits-1)), int64."""
    unused = np.uint64(64 - bits)
    lifted = words.astype(np.uint64) << unused
    signed: NDArray[np.int64] = lifted.view(np.int64) >> unused.astype(np.int64)
    return signed


def shift_share(words: Words, ring: int, shift: int, bits: int) -> Words:
    """Cut ``shift`` low bits off one share of a ring of ``ring`` bits; the rest is a share modulo 2^bits.

    When both parties do so, their shares of v become shares of floor(v / 2^shift) - c, where c in {0, 1} is the
    carry of the low bits, exactly: what wraps around at the top is a multiple of 2^(ring - shift), which is 0 in
    the smaller ring. Needs bits <= ring - shift.
    """
    if bits > ring - shift:
        raise EncodingError(f"{ring} bits less {shift} do not leave {bits}")
    cut: Words = (words >> words.dtype.type(shift)).astype(word_type(bits), copy=False)
    return cut


def draw_words(stream: SecretStream, shape: tuple[int, ...], bits: int) -> Words:
    """Return uniform words of a ring."""
    words = np.empty(shape, np.dtype(word_type(bits)).newbyteorder("<"))
    stream.take_into(words.reshape(-1).view(np.uint8).data)
    return words.astype(word_type(bits), copy=False)


def to_wire(words: Words, bits: int) -> bytes:
    """Return the low bytes of each word, as many as the ring needs, little-endian."""
    size = wire_bytes(bits)
    flat = np.ascontiguousarray(words, np.dtype(word_type(bits)).newbyteorder("<")).reshape(-1)
    if size == flat.dtype.itemsize:
        return flat.tobytes()
    raw = flat.view(np.uint8).reshape(len(flat), -1)
    packed = np.empty((len(flat), size), np.uint8)
    # Byte by byte: numpy is several times slower with rows of three bytes.
    for byte in range(size):
        packed[:, byte] = raw[:, byte]
    return packed.tobytes()


def from_wire(payload: bytes | memoryview, shape: tuple[int, ...], bits: int) -> Words:
    """Undo ``to_wire``; the result may be read-only. Raises SessionAborted when the length is not the shape's."""
    size, kind = wire_bytes(bits), np.dtype(word_type(bits)).newbyteorder("<")
    count = int(np.prod(shape))
    if len(payload) != count * size:
        raise SessionAborted(f"{len(payload)} bytes came where {count * size} belong")
    if size == kind.itemsize:
        return np.frombuffer(payload, kind).astype(word_type(bits), copy=False).reshape(shape)
    # Words that overlap: what is read of the next one lies above the ring's bits, where nothing means anything.
    padded = np.empty(len(payload) + kind.itemsize - size, np.uint8)
    padded[: len(payload)] = np.frombuffer(payload, np.uint8)
    padded[len(payload) :] = 0
    words = np.ndarray((count,), kind, padded, strides=(size,))
    return words.astype(word_type(bits)).reshape(shape)


def lanes(count: int) -> int:
    """Return the words that ``count`` bits side by side take."""
    return -(-count // 64)


def bit_planes(words: Words, low: int, count: int) -> NDArray[np.uint64]:
    """Return bits low .. low + count - 1 of words [n], each bit's 64 to a word: uint64 [count, lanes(n)]."""
    values = words.reshape(-1)
    raw = np.ascontiguousarray(values.view(np.uint8).reshape(len(values), -1).T)
    planes = np.zeros((count, lanes(len(values)) * 8), np.uint8)
    used = -(-len(values) // 8)
    for plane, bit in zip(planes, range(low, low + count), strict=True):
        plane[:used] = np.packbits(raw[bit // 8] & np.uint8(1 << bit % 8), bitorder="little")
    return planes.view(np.uint64)


def unpack_bits(plane: NDArray[np.uint64], count: int) -> NDArray[np.uint8]:
    """Return the first ``count`` bits of a plane, uint8 of 0 and 1."""
    return np.unpackbits(plane.view(np.uint8), count=count, bitorder="little")


def as_words(plane: NDArray[np.uint64], count: int, ring: int) -> Words:
    """Return the first ``count`` bits of a plane as words of a ring, 0 and 1."""
    return unpack_bits(plane, count).astype(word_type(ring))


def flips(bits: Words) -> Words:
    """Return 1 - 2 b for words of 0 and 1: what b xor c is to c, since b xor c = b + (1 - 2 b) c."""
    factor: Words = bits.dtype.type(1) - (bits + bits)
    return factor

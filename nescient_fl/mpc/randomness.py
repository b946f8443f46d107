"""The only source of randomness for secrets: AES-256 in counter mode under seeds of the operating system.

The generators of torch, numpy and ``random`` are made for statistics: their streams can be told from random and
their seeds guessed (CrypTen's have 32 effective bits). A counter-mode keystream of AES (NIST SP 800-38A) cannot.
"""

import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

SEED_BYTES = 32

_ZEROS = bytes(1 << 20)
_BLOCK = 16


def fresh_seed() -> bytes:
    """Return 32 bytes from the operating system."""
    return os.urandom(SEED_BYTES)


def derive_key(seed: bytes, label: bytes) -> bytes:
    """Return 32 bytes for one purpose: HKDF-SHA256 (RFC 5869) of the seed, the label as its info."""
    return HKDF(algorithm=SHA256(), length=SEED_BYTES, salt=None, info=label).derive(seed)


class SecretStream:
    """The keystream of one 32-byte seed, taken piece by piece; no byte is handed out twice.

    A seed must be used for one stream only: the counter starts at zero.
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes")
        self._keystream = Cipher(algorithms.AES(seed), modes.CTR(bytes(_BLOCK))).encryptor()

    def __repr__(self) -> str:
        return "SecretStream(...)"

    def __reduce__(self) -> str:
        raise TypeError("a secret stream is never pickled")

    def take_into(self, buffer: memoryview) -> None:
        """Fill a writable buffer of bytes with the next bytes of the stream."""
        # update_into asks for room for one block less a byte beyond what it writes; only the last piece, which
        # has none, goes through a copy.
        whole = max(len(buffer) - _BLOCK, 0)
        start = 0
        while start < whole:
            size = min(len(_ZEROS), whole - start)
            self._keystream.update_into(_ZEROS[:size], buffer[start : start + size + _BLOCK - 1])
            start += size
        buffer[start:] = self._keystream.update(bytes(len(buffer) - start))

    def take_bytes(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        return self._keystream.update(bytes(size))

    def take_int64(self, *shape: int) -> NDArray[np.int64]:
        """Return the next words, uniform in Z/2^64, int64 of the shape."""
        words = np.empty(shape, np.dtype("<i8"))
        self.take_into(words.reshape(-1).view(np.uint8).data)
        return words.astype(np.int64, copy=False)

    def fill(self, tensor: torch.Tensor) -> torch.Tensor:
        """Fill a contiguous int64 tensor in place with the next words, and return it."""
        if tensor.dtype != torch.int64 or not tensor.is_contiguous() or tensor.device.type != "cpu":
            raise ValueError("a secret stream fills contiguous int64 tensors in main memory")
        if tensor.numel():
            self.take_into(tensor.view(-1).numpy().view(np.uint8).data)
        return tensor

    def take_bits(self, count: int) -> NDArray[np.uint8]:
        """Return the next ``count`` bits, uint8 of 0 and 1; the rest of their last byte is thrown away."""
        packed = np.frombuffer(self.take_bytes((count + 7) // 8), np.uint8)
        return np.unpackbits(packed, count=count)

    def below(self, bound: int, count: int) -> NDArray[np.int64]:
        """Return ``count`` integers, uniform in [0, bound), int64; bound is at most 2^62.

        Draws beyond the largest multiple of the bound are thrown away, so no value is favoured.
        """
        if not 1 <= bound <= 2**62:
            raise ValueError(f"the bound must be from 1 to 2^62, got {bound}")
        limit = 2**63 // bound * bound
        found: list[NDArray[np.int64]] = []
        missing = count
        while missing:
            drawn = self.take_int64(missing) & np.int64(2**63 - 1)
            good = drawn if limit == 2**63 else drawn[drawn < limit]
            found.append(good % bound)
            missing -= len(good)
        return np.concatenate(found) if found else np.zeros(0, np.int64)


def fresh_stream() -> SecretStream:
    """Return a stream that nobody can know the seed of."""
    return SecretStream(fresh_seed())

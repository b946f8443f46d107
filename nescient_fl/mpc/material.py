"""Correlated randomness: what the dealer makes, and how a party uses each piece of it once.

Every party gets a 32-byte seed; what the seeds' streams do not already satisfy is mended by corrections to the
last party (Beaver, "Commodity-based cryptography", STOC 1997; the compression by seeds is Boyle, Gilboa and
Ishai's pseudorandom correlation in its simplest form).
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nescient_fl.mpc import crypten_bridge  # noqa: F401 - before crypten
from nescient_fl.mpc.bit_slices import bit_planes
from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.randomness import SEED_BYTES, SecretStream, derive_key

from crypten.mpc.primitives import BinarySharedTensor  # isort: skip
from crypten.mpc.provider.provider import TupleProvider  # isort: skip

_Words = NDArray[np.int64]
_MOST_WORDS = 2**28
"""2 GiB: what a request may ask for, so that a broken party cannot exhaust the dealer."""


@dataclass(frozen=True)
class MaterialRequest:
    """How much of each kind a computation needs.

    Attributes:
        squares: (n, m): n vectors of m random words, and the sum of squares of each.
        comparisons: random words with their bits, 64 to a word along the values; a multiple of 64.
        ands: words of bitwise multiplication triples.
    """

    squares: tuple[int, int] = (0, 0)
    comparisons: int = 0
    ands: int = 0

    def __post_init__(self) -> None:
        counts = (*self.squares, self.comparisons, self.ands)
        if any(type(count) is not int or count < 0 for count in counts) or len(self.squares) != 2:
            raise MaterialError("a request counts its needs in whole numbers")
        if self.comparisons % 64:
            raise MaterialError("comparisons come in groups of 64")
        if self.words > _MOST_WORDS:
            raise MaterialError(f"a request for {self.words} words is too large")

    @property
    def words(self) -> int:
        """Words that each party's seed expands to, about."""
        return self.squares[0] * (self.squares[1] + 1) + 2 * self.comparisons + 3 * self.ands

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "MaterialRequest":
        """Read a request. Raises MaterialError for anything that ``to_json`` did not write."""
        try:
            values = json.loads(text)
            return cls(tuple(values.pop("squares")), **values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise MaterialError("a request for material cannot be read") from None


@dataclass
class _Pieces:
    """One party's words of every kind."""

    masks: _Words  # [n, m]
    square_sums: _Words  # [n]
    words: _Words  # [comparisons]
    bits: _Words  # [64, comparisons / 64]
    left: _Words  # [ands]
    right: _Words
    products: _Words

    @property
    def corrected(self) -> list[_Words]:
        return [self.square_sums, self.bits, self.products]


def _expand(request: MaterialRequest, seed: bytes) -> _Pieces:
    def words(kind: bytes, *shape: int) -> _Words:
        return SecretStream(derive_key(seed, b"nescient/material/1/" + kind)).take_int64(*shape)

    count, length = request.squares
    return _Pieces(
        words(b"masks", count, length),
        words(b"square sums", count),
        words(b"words", request.comparisons),
        words(b"bits", 64, request.comparisons // 64),
        words(b"left", request.ands),
        words(b"right", request.ands),
        words(b"products", request.ands),
    )


def deal(request: MaterialRequest, parties: int, stream: SecretStream) -> list[bytes]:
    """Make the material for ``parties`` parties from a fresh stream. Returns each one's part, by rank."""
    seeds = [stream.take_bytes(SEED_BYTES) for _ in range(parties)]
    total = _expand(request, seeds[0])
    last = total
    for seed in seeds[1:]:
        last = _expand(request, seed)
        total.masks += last.masks
        total.words += last.words
        for name in ("left", "right", "bits", "products"):
            setattr(total, name, getattr(total, name) ^ getattr(last, name))
        total.square_sums += last.square_sums
    square_sums = np.square(total.masks).sum(axis=1, dtype=np.int64)
    corrections = [
        square_sums - total.square_sums,
        bit_planes(total.words) ^ total.bits,
        (total.left & total.right) ^ total.products,
    ]
    packed = b"".join(words.astype("<i8", copy=False).tobytes() for words in corrections)
    return [*seeds[:-1], seeds[-1] + packed]


class Material(TupleProvider):  # type: ignore[misc]
    """One party's material; every piece is handed out once. It serves CrypTen as its provider of triples."""

    def __init__(self, request: MaterialRequest, pieces: _Pieces) -> None:
        super().__init__()
        self._request = request
        self._pieces: _Pieces | None = pieces
        self._squares = self._comparisons = self._ands = 0

    def __repr__(self) -> str:
        return f"Material({self._request})"

    @classmethod
    def from_blob(cls, request: MaterialRequest, rank: int, parties: int, blob: bytes) -> "Material":
        """Expand what the dealer sent. Raises MaterialError when its length is not that of the request."""
        pieces = _expand(request, blob[:SEED_BYTES].ljust(SEED_BYTES, b"\0"))
        sizes = [words.size for words in pieces.corrected] if rank == parties - 1 else []
        if len(blob) != SEED_BYTES + 8 * sum(sizes):
            raise MaterialError(f"the dealer sent {len(blob)} bytes, which is not what was asked for")
        if sizes:
            corrections = np.frombuffer(blob[SEED_BYTES:], "<i8")
            parts = np.split(corrections, np.cumsum(sizes)[:-1])
            pieces.square_sums += parts[0]
            pieces.bits ^= parts[1].reshape(pieces.bits.shape)
            pieces.products ^= parts[2]
        return cls(request, pieces)

    def take_squares(self, count: int) -> tuple[_Words, _Words]:
        """Return shares of ``count`` random vectors [count, m] and of the sum of squares of each [count]."""
        start, self._squares = self._squares, self._squares + count
        pieces = self._checked(self._squares, self._request.squares[0])
        return pieces.masks[start : start + count], pieces.square_sums[start : start + count]

    def take_comparisons(self, count: int) -> tuple[_Words, _Words]:
        """Return additive shares of ``count`` random words, and xor shares of their bits [64, count / 64]."""
        if count % 64:
            raise MaterialError("comparisons come in groups of 64")
        start, self._comparisons = self._comparisons, self._comparisons + count
        pieces = self._checked(self._comparisons, self._request.comparisons)
        return (
            pieces.words[start : start + count],
            pieces.bits[:, start // 64 : (start + count) // 64],
        )

    def generate_binary_triple(self, size0: Any, size1: Any, device: Any = None) -> tuple[Any, Any, Any]:
        """Return xor-shared a, b and a & b, int64 of the size; CrypTen's ``&`` asks for them."""
        if tuple(size0) != tuple(size1) or device not in (None, torch.device("cpu")):
            raise MaterialError("triples are for two tensors of one shape, in main memory")
        count = int(np.prod(tuple(size0)))
        start, self._ands = self._ands, self._ands + count
        pieces = self._checked(self._ands, self._request.ands)
        found = [words[start : start + count] for words in (pieces.left, pieces.right, pieces.products)]
        a, b, c = (BinarySharedTensor.from_shares(torch.from_numpy(words.copy()).view(tuple(size0))) for words in found)
        return a, b, c

    def _checked(self, used: int, there: int) -> _Pieces:
        if self._pieces is None or used > there:
            raise MaterialError("the dealer's material is used up")
        return self._pieces

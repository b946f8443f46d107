"""Correlated randomness: what the dealer makes for each kind of step, and how each party comes by its half.

Each party draws its masks from its own seed's stream, in an order that the plan fixes; the data owner also draws
its shares of the products of masks. The dealer knows both streams and corrects: what the model owner needs so that
the shares add up is sent to it (Beaver, "Commodity-based cryptography", STOC 1997). So the data owner's whole
material is a seed, and every byte of the model owner's corrections is masked by the data owner's stream.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.errors import MaterialError
from nescient_fl.mpc.inference.fixed_point import (
    Words,
    as_words,
    draw_words,
    from_wire,
    lanes,
    to_wire,
    wire_bytes,
)
from nescient_fl.mpc.inference.ring_product import RingMatrix
from nescient_fl.mpc.inference.windows import Pads, Pair, pad
from nescient_fl.mpc.randomness import SecretStream, derive_key

MODEL_OWNER, DATA_OWNER = 0, 1
BOTH = 2

Planes = NDArray[np.uint64]


class Hand:
    """One party's stream, and for the model owner the corrections, taken in order."""

    def __init__(self, rank: int, seed: bytes, corrections: bytes | memoryview = b"") -> None:
        self.rank = rank
        self._stream = SecretStream(seed)
        self._corrections = memoryview(corrections)

    def __repr__(self) -> str:
        return f"Hand({self.rank})"

    def words(self, shape: tuple[int, ...], bits: int) -> Words:
        """Draw words of a ring."""
        return draw_words(self._stream, shape, bits)

    def planes(self, *shape: int) -> Planes:
        """Draw bits side by side."""
        return draw_words(self._stream, shape, 64)

    def share(self, shape: tuple[int, ...], bits: int) -> Words:
        """Return this party's share of products: drawn, or as the dealer corrected it."""
        if self.rank == DATA_OWNER:
            return self.words(shape, bits)
        size = int(np.prod(shape)) * wire_bytes(bits)
        if len(self._corrections) < size:
            raise MaterialError("the dealer's material is shorter than the plan needs")
        part, self._corrections = self._corrections[:size], self._corrections[size:]
        return from_wire(part, shape, bits)

    def finish(self) -> None:
        """Raise MaterialError when corrections are left over."""
        if len(self._corrections):
            raise MaterialError("the dealer's material is longer than the plan needs")


@dataclass(frozen=True)
class BitProducts:
    """Random bits, and xor shares of products of some of them.

    ``owners`` says of each mask who knows it: MODEL_OWNER, DATA_OWNER, or BOTH, each having an xor share. Every
    product is a set of masks. All are planes: uint64 [masks or products, nodes, lanes].
    """

    owners: tuple[int, ...]
    products: tuple[frozenset[int], ...]
    nodes: int
    lanes: int

    def take(self, hand: Hand) -> tuple[Planes, Planes]:
        """Return the masks that a party knows or its shares of them (0 where it knows nothing), and the products."""
        masks = self._masks(hand)
        return masks, hand.share((len(self.products), self.nodes, self.lanes), 64)

    def deal(self, model_owner: Hand, data_owner: Hand) -> bytes:
        """Return the corrections for the model owner."""
        masks = self._masks(model_owner) ^ self._masks(data_owner)
        shares = data_owner.share((len(self.products), self.nodes, self.lanes), 64)
        for share, product in zip(shares, self.products, strict=True):
            share ^= np.bitwise_and.reduce(masks[sorted(product)], axis=0)
        return to_wire(shares, 64)

    def _masks(self, hand: Hand) -> Planes:
        known = [number for number, owner in enumerate(self.owners) if owner in (hand.rank, BOTH)]
        masks = np.zeros((len(self.owners), self.nodes, self.lanes), np.uint64)
        masks[known] = hand.planes(len(known), self.nodes, self.lanes)
        return masks


@dataclass(frozen=True)
class BitTimesBit:
    """A random bit at each party, and additive shares of their product in a ring: ``count`` times."""

    count: int
    ring: int

    def take(self, hand: Hand) -> tuple[Planes, Words]:
        """Return the own bits, a plane [lanes], and shares of the products [count]."""
        return hand.planes(lanes(self.count)), hand.share((self.count,), self.ring)

    def deal(self, model_owner: Hand, data_owner: Hand) -> bytes:
        """Return the corrections for the model owner."""
        ones = model_owner.planes(lanes(self.count))
        others, shares = self.take(data_owner)
        products = as_words(ones & others, self.count, self.ring)
        return to_wire(products - shares, self.ring)


@dataclass(frozen=True)
class BitTimesWord:
    """A random bit and a random word at each party, and shares of each one's word times the other's bit.

    ``count`` times, in a ring.
    """

    count: int
    ring: int

    def take(self, hand: Hand) -> tuple[Planes, Words, Words, Words]:
        """Return the own bits [lanes] and words [count], and shares of own word by bit and own bit by word."""
        bits, words = hand.planes(lanes(self.count)), hand.words((self.count,), self.ring)
        shares = hand.share((2, self.count), self.ring)
        return bits, words, shares[hand.rank], shares[1 - hand.rank]

    def deal(self, model_owner: Hand, data_owner: Hand) -> bytes:
        """Return the corrections for the model owner."""
        bits = model_owner.planes(lanes(self.count))
        words = model_owner.words((self.count,), self.ring)
        others, other_words, by_bit, by_word = self.take(data_owner)
        products = [
            words * as_words(others, self.count, self.ring) - by_word,
            other_words * as_words(bits, self.count, self.ring) - by_bit,
        ]
        return b"".join(to_wire(product, self.ring) for product in products)


@dataclass(frozen=True)
class MaskedProduct:
    """A mask for a linear step's input, at the data owner, and shares of the weights' mask times its patches.

    The weights' mask is one and the same for all images (``weight_mask``); shape is [images, C, H, W], before
    padding.
    """

    step: int
    shape: tuple[int, int, int, int]
    pads: Pads
    kernel: Pair
    stride: Pair
    channels: int
    positions: int
    ring: int

    @property
    def depth(self) -> int:
        return self.shape[1] * self.kernel[0] * self.kernel[1]

    def take(self, hand: Hand) -> tuple[Words | None, Words]:
        """Return the input's mask (None at the model owner) and the product's share [channels, images positions]."""
        mask = hand.words(self.shape, self.ring) if hand.rank == DATA_OWNER else None
        return mask, hand.share((self.channels, self.shape[0] * self.positions), self.ring)

    def deal(self, data_owner: Hand, weights: RingMatrix) -> bytes:
        """Return the corrections for the model owner, whose weights' mask is ``weights``."""
        mask, share = self.take(data_owner)
        assert mask is not None
        return to_wire(self.product(weights, mask) - share, self.ring)

    def product(self, weights: RingMatrix, values: Words) -> Words:
        """Return weights times the windows of values [images, C, H, W]: [channels, images positions]."""
        return weights.times_windows(pad(values, self.pads), self.kernel, self.stride)


Correlation = BitProducts | BitTimesBit | BitTimesWord | MaskedProduct


def weight_mask(seed: bytes, step: int, channels: int, depth: int, ring: int) -> Words:
    """Return the mask of a linear step's weights, [channels, depth], as model owner and dealer know it."""
    key = derive_key(seed, b"nescient/inference/weights/1/" + str(step).encode())
    return draw_words(SecretStream(key), (channels, depth), ring)

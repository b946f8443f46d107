"""ReLU into a larger ring, and a change of ring alone.

Shares a + b = x + 2^w c of a small non-negative x in a ring of w bits become shares in a larger ring once the
carry c is known. Since the top bit of x is 0, c is 1 exactly when the top bit of a or of b is: one product of one
private bit each, exact, where truncation in one ring would fail once in 2^(ring - size) times. ReLU needs the
carry only where x >= 0, and so takes it along with the first message of its comparison.
"""

from collections.abc import Iterator

import numpy as np

from nescient_fl.mpc.inference.carry import Circuit, sign
from nescient_fl.mpc.inference.correlations import (
    MODEL_OWNER,
    BitProducts,
    BitTimesBit,
    BitTimesWord,
    Hand,
    Planes,
)
from nescient_fl.mpc.inference.fixed_point import Words, as_words, bit_planes, flips, word_type
from nescient_fl.mpc.inference.plan import Lift, Relu
from nescient_fl.mpc.inference.select import keep_positive
from nescient_fl.mpc.inference.wire import Wire

_ALL = np.uint64(2**64 - 1)


def correlations(step: Relu | Lift, count: int) -> Iterator[BitProducts | BitTimesBit | BitTimesWord]:
    """Yield the material for ``count`` values, in order."""
    yield BitTimesBit(count, step.ring)
    if isinstance(step, Relu):
        yield from Circuit(count, step.width).correlations()
        yield BitTimesWord(count, step.ring)


def rectify(wire: Wire, hand: Hand, step: Relu, shares: Words) -> Words:
    """Return shares of max(x, 0), in the step's ring and of the same shape, for x in [-2^(width-1), 2^(width-1))."""
    return rectify_with_signs(wire, hand, step, shares)[0]


def rectify_with_signs(wire: Wire, hand: Hand, step: Relu, shares: Words) -> tuple[Words, Planes]:
    """Do the same, and return a share of the sign bits too, a plane of all values one after another."""
    flat = shares.reshape(-1)
    carries = _Carries(hand, step, flat)
    signs, theirs = sign(wire, hand, Circuit(len(flat), step.width), flat, carries.shown)
    return keep_positive(wire, hand, signs, carries.lifted(theirs), step.ring).reshape(shares.shape), signs


def lift(wire: Wire, hand: Hand, step: Lift, shares: Words) -> Words:
    """Return shares of x in the step's ring and of the same shape, for x in [-2^(width-2), 2^(width-2)); one round."""
    offset = 1 << (step.width - 2)
    flat = shares.reshape(-1)
    if hand.rank == MODEL_OWNER:
        flat = flat + flat.dtype.type(offset)
    carries = _Carries(hand, step, flat)
    (theirs,) = wire.swap_planes([carries.shown])
    lifted = carries.lifted(theirs)
    if hand.rank == MODEL_OWNER:
        lifted -= lifted.dtype.type(offset)
    return lifted.reshape(shares.shape)


class _Carries:
    """This party's part in finding the carries: what it shows, and what it makes of the other's."""

    def __init__(self, hand: Hand, step: Relu | Lift, flat: Words) -> None:
        self._rank, self._width, self._ring, self._flat = hand.rank, step.width, step.ring, flat
        self._mask, self._products = BitTimesBit(len(flat), step.ring).take(hand)
        # No carry exactly when both top bits are 0.
        self._clear = bit_planes(flat, step.width - 1, 1)[0] ^ _ALL
        self.shown: Planes = self._clear ^ self._mask

    def lifted(self, theirs: Planes) -> Words:
        """Return shares in the larger ring, given what the other party showed."""
        count, ring, kind = len(self._flat), self._ring, word_type(self._ring)
        mine, shown = as_words(self._clear, count, ring), as_words(self.shown, count, ring)
        mask, other = as_words(self._mask, count, ring), as_words(theirs, count, ring)
        # The clear bits are a = e + (1 - 2 e) x and b = f + (1 - 2 f) y, as in ``select``; this is a share of a b.
        if self._rank == MODEL_OWNER:
            no_carry = mine * other + flips(shown) * flips(other) * self._products
        else:
            no_carry = flips(shown) * (other * mask + flips(other) * self._products)
        low = self._flat & self._flat.dtype.type((1 << self._width) - 1)
        carry = kind(self._rank == MODEL_OWNER) - no_carry
        lifted: Words = low.astype(kind) - (carry << kind(self._width))
        return lifted

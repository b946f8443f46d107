"""max(x, 0) of shared numbers whose signs are known as xor shares: one round.

For own sign shares s_r and own words x_r, the integer sign is s = s_0 + s_1 - 2 s_0 s_1, so

    s x = s_0 x_0 + s_1 x_1 + s_1 (1 - 2 s_0) x_0 + s_0 (1 - 2 s_1) x_1:

each party's own product, and two products of one party's word and the other's bit, for which the dealer's masked
products serve. Either side shows its bit and its word, masked. max(x, 0) = x - s x.
"""

import numpy as np

from nescient_fl.mpc.inference.correlations import BitTimesWord, Hand, Planes
from nescient_fl.mpc.inference.fixed_point import Words, from_wire, lanes, to_wire, unpack_bits, word_type
from nescient_fl.mpc.inference.wire import Wire


def keep_positive(wire: Wire, hand: Hand, signs: Planes, shares: Words, ring: int) -> Words:
    """Return a share of max(x, 0) for a share of x [count] in a ring, and one of the sign bits, a plane."""
    count = len(shares)
    kind = word_type(ring)
    bit_mask, word_mask, word_by_bit, bit_by_word = BitTimesWord(count, ring).take(hand)
    own_sign = unpack_bits(signs, count).astype(kind)
    turned = (kind(1) - (own_sign << kind(1))) * shares
    shown = signs ^ bit_mask
    payload = shown.astype("<u8", copy=False).tobytes() + to_wire(turned - word_mask, ring)
    answer = wire.swap(payload, len(payload))
    split = 8 * lanes(count)
    their_shown = unpack_bits(_plane(answer[:split]), count).astype(kind)
    their_word = from_wire(answer[split:], (count,), ring)
    own_shown = unpack_bits(shown, count).astype(kind)
    own_mask = unpack_bits(bit_mask, count).astype(kind)
    # A bit that was shown as f and masked by m is f + (1 - 2 f) m.
    product = own_sign * shares + their_shown * turned
    product += (kind(1) - (their_shown << kind(1))) * word_by_bit
    product += (kind(1) - (own_shown << kind(1))) * (own_mask * their_word + bit_by_word)
    return shares - product


def _plane(payload: bytes) -> Planes:
    return np.frombuffer(payload, "<u8").astype(np.uint64, copy=False)

"""max(x, 0) of shared numbers whose signs are known as xor shares: one round.

For own sign shares s_r and own words x_r, the integer sign is s = s_0 + s_1 - 2 s_0 s_1, so

    s x = s_0 x_0 + s_1 x_1 + s_1 (1 - 2 s_0) x_0 + s_0 (1 - 2 s_1) x_1:

each party's own product, and two products of one party's word and the other's bit, for which the dealer's masked
products serve. Either side shows its bit and its word, masked. max(x, 0) = x - s x.
"""

import numpy as np

from nescient_fl.mpc.inference.correlations import BitTimesWord, Hand, Planes
from nescient_fl.mpc.inference.fixed_point import Words, as_words, flips, from_wire, lanes, to_wire
from nescient_fl.mpc.inference.wire import Wire


def keep_positive(wire: Wire, hand: Hand, signs: Planes, shares: Words, ring: int) -> Words:
    """Return a share of max(x, 0), for a share of x [count] in a ring and one of its sign bits, a plane."""
    count = len(shares)
    bit_mask, word_mask, word_by_bit, bit_by_word = BitTimesWord(count, ring).take(hand)
    own_sign = as_words(signs, count, ring)
    turned = flips(own_sign) * shares
    shown = signs ^ bit_mask
    payload = shown.astype("<u8", copy=False).tobytes() + to_wire(turned - word_mask, ring)
    answer = wire.swap(payload, len(payload))
    split = 8 * lanes(count)
    their_shown = as_words(np.frombuffer(answer[:split], "<u8").astype(np.uint64, copy=False), count, ring)
    their_word = from_wire(answer[split:], (count,), ring)
    own_shown, own_mask = as_words(shown, count, ring), as_words(bit_mask, count, ring)
    # A bit that was shown as f and masked by m is f + (1 - 2 f) m.
    product = own_sign * shares + their_shown * turned
    product += flips(their_shown) * word_by_bit
    product += flips(own_shown) * (own_mask * their_word + bit_by_word)
    kept: Words = shares - product
    return kept

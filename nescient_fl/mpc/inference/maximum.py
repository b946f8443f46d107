"""The largest of every pooling window: a tournament of values only, since nobody needs to know which one won."""

from collections.abc import Iterator

import numpy as np

from nescient_fl.mpc.inference.carry import Circuit, sign
from nescient_fl.mpc.inference.correlations import BitTimesWord, Correlation, Hand
from nescient_fl.mpc.inference.fixed_point import Words
from nescient_fl.mpc.inference.plan import MaxPool
from nescient_fl.mpc.inference.select import keep_positive
from nescient_fl.mpc.inference.windows import cells
from nescient_fl.mpc.inference.wire import Wire


def matches(entries: int) -> Iterator[int]:
    """Yield how many pairs play in each round of a tournament among so many; one left over waits."""
    while entries > 1:
        yield entries // 2
        entries -= entries // 2


def correlations(step: MaxPool, windows: int, ring: int) -> Iterator[Correlation]:
    """Yield the material for so many windows, in order."""
    for pairs in matches(step.kernel[0] * step.kernel[1]):
        yield from Circuit(pairs * windows, step.width).correlations()
        yield BitTimesWord(pairs * windows, ring)


def largest(wire: Wire, hand: Hand, step: MaxPool, shares: Words, ring: int) -> Words:
    """Return shares of the largest of every window, [B, C, h, w], for shares [B, C, H, W] in a ring.

    Right when no two values of a window differ by 2^(width - 1) or more.
    """
    entries = cells(shares, step.kernel, step.stride)
    shape = entries.shape[1:]
    entries = entries.reshape(len(entries), -1)
    for pairs in matches(len(entries)):
        left, right, rest = np.split(entries, [pairs, 2 * pairs])
        lead = (left - right).reshape(-1)
        signs, _ = sign(wire, hand, Circuit(len(lead), step.width), lead)
        lead = keep_positive(wire, hand, signs, lead, ring)
        entries = np.concatenate([right + lead.reshape(right.shape), rest])
    winners: Words = entries[0].reshape(shape)
    return winners

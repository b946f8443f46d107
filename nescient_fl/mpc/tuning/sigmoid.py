"""The sigmoid as a sum of ReLUs: piecewise linear, and constant beyond its outer knots, so that no logit is too large.

    p(z) = FLOOR + sum over knots k of BENDS[k] max(z - KNOTS[k], 0)

Knots lie where the sigmoid bends (evenly in the integral of the root of its curvature), heights are those of the
smallest largest error for these knots, by a linear programme. The bends add up to 0, the function is odd about 1/2,
and it never leaves [0, 1]. The numbers stand here, and are not computed, since two hosts need the very same.
"""

import numpy as np
from numpy.typing import NDArray

LOGIT_BITS = 12
"""Fraction bits of the logits and knots."""
BEND_BITS = 16
"""Fraction bits of the bends; the result has as many as both together."""

_UPPER_KNOTS = (1616, 2832, 3872, 4848, 5808, 6768, 7776, 8832, 9984, 11232, 12656, 14320, 16352, 18976, 22800, 30080)
_LOWER_BENDS = (117, 293, 458, 622, 791, 917, 1065, 1196, 1286, 1375, 1434, 1471, 1480, 1398, 1306, 1024)

KNOTS = (*(-knot for knot in reversed(_UPPER_KNOTS)), *_UPPER_KNOTS)
BENDS = (*_LOWER_BENDS, *(-bend for bend in reversed(_LOWER_BENDS)))
FLOOR = 80_096
SCORE_BITS = LOGIT_BITS + BEND_BITS
SIGMOID_ERROR = 4e-4
"""Of p against the sigmoid, at any logit, the rounding of the logit included."""


def sigmoid_in_integers(logits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return p of logits in 1 / 2^LOGIT_BITS, as integers in 1 / 2^SCORE_BITS."""
    scores = np.full(logits.shape, FLOOR, np.int64)
    for knot, bend in zip(KNOTS, BENDS, strict=True):
        scores += bend * np.maximum(logits - knot, 0)
    return scores

"""The slow twin of tuning under encryption: the same integers, with nothing shared.

As in inference, what they depend on beside the data is the carry that each cut loses, 0 or 1 in the last place; told
the low bits of the data owner's shares, the twin equals the protocol word for word. A value that leaves the width
that the plan proves raises: then the proof would be wrong.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.errors import RangeError
from nescient_fl.mpc.tuning.plan import ERROR_BITS, ERROR_WIDTH, LARGEST_WEIGHT, VALUE_BITS, WEIGHT_BITS, TuningPlan
from nescient_fl.mpc.tuning.sigmoid import SCORE_BITS, sigmoid_in_integers

Integers = NDArray[np.int64]
LowBits = Callable[[tuple[int, ...], int], Integers]
"""Given a shape and a shift: the low bits of the data owner's shares, int64 in [0, 2^shift)."""

_CLAMP = LARGEST_WEIGHT << WEIGHT_BITS


def simulate(
    plan: TuningPlan, features: Integers, labels: Integers, weights: Sequence[Integers], low_bits: LowBits
) -> list[Integers]:
    """Tune in fixed point, in clear. Returns weights as they came in, integers [outputs, inputs + 1] a layer.

    features [images, inputs + 1] have the bias's 1 as last column. Raises RangeError where a width does not suffice.
    """
    now = before = list(weights)
    for _ in range(plan.steps):
        gradients = _gradients(plan, features, labels, now, low_bits)
        moved = [
            (new << plan.update_shift)
            + plan.momentum_factor * (new - old)
            - plan.rate_factor * gradient
            - plan.decay_factor * (new - start)
            for new, old, start, gradient in zip(now, before, weights, gradients, strict=True)
        ]
        flat = np.concatenate([part.reshape(-1) for part in moved])
        cut = _cut(flat, plan.update_shift, low_bits)
        _check(np.concatenate([cut + _CLAMP, cut - _CLAMP]), plan.update_width - 1)
        clamped = np.clip(cut, -_CLAMP, _CLAMP)
        sizes = np.cumsum([part.size for part in moved])[:-1]
        before = now
        now = [part.reshape(like.shape) for part, like in zip(np.split(clamped, sizes), moved, strict=True)]
    return now


def _gradients(
    plan: TuningPlan, features: Integers, labels: Integers, weights: Sequence[Integers], low_bits: LowBits
) -> list[Integers]:
    values, positive = [features], []
    for number, layer in enumerate(weights):
        sums = _cut(values[-1] @ layer.T, WEIGHT_BITS, low_bits)
        _check(sums, plan.relu_width(number) - 1)
        if number == plan.layers - 1:
            break
        positive.append(sums >= 0)
        one = np.full((len(sums), 1), 1 << VALUE_BITS)
        values.append(np.concatenate([np.maximum(sums, 0), one], axis=1))
    scores = _cut(sigmoid_in_integers(sums[:, 0]), SCORE_BITS - ERROR_BITS, low_bits)
    errors = (scores - (labels << ERROR_BITS))[:, None]
    _check(errors, ERROR_WIDTH - 2)
    gradients: list[Integers] = []
    for number in reversed(range(plan.layers)):
        gradients.insert(0, errors.T @ values[number])
        if number:
            back = _cut(errors @ weights[number][:, :-1], WEIGHT_BITS, low_bits)
            _check(back, plan.error_width(number - 1) - 2)
            errors = back * positive[number - 1]
    return gradients


def _cut(values: Integers, shift: int, low_bits: LowBits) -> Integers:
    carry = (values & np.int64((1 << shift) - 1)) < low_bits(values.shape, shift)
    cut: Integers = (values >> np.int64(shift)) + 1 - carry
    return cut


def _check(values: Integers, bits: int) -> None:
    if values.size and (values.max() >= 1 << bits or values.min() < -(1 << bits)):
        raise RangeError("a value of the tuning is out of the plan's bounds")

"""The plain twin of the protocol: the same fixed-point numbers, element by element, with nothing shared.

The one thing that depends on the shares is the carry that truncation loses, 0 or 1 in the last place
(``fixed_point.shift_share``); the twin draws it as it is distributed, or is told the data owner's shares and then
equals the protocol exactly. A value that does not fit its width raises: the protocol would be wrong there.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.errors import RangeError
from nescient_fl.mpc.inference.bounds import LayerWeights
from nescient_fl.mpc.inference.fixed_point import encode_integers
from nescient_fl.mpc.inference.plan import Lift, Linear, MaxPool, Plan, Relu, Reshape, Step, SumPool, Truncate
from nescient_fl.mpc.inference.windows import cells, pad, patches, sum_cells
from nescient_fl.mpc.randomness import SecretStream, fresh_stream

Integers = NDArray[np.int64]
LowBits = Callable[[int, tuple[int, ...], int], Integers]
"""Given step number, shape and shift: the low bits of the data owner's shares, int64 in [0, 2^shift)."""


def simulate(
    plan: Plan,
    weights: Mapping[int, LayerWeights],
    inputs: NDArray[Any],
    low_bits: LowBits | None = None,
    trace: list[Integers] | None = None,
) -> NDArray[np.float64]:
    """Score inputs [n, channels, rows, columns]. Returns logits float64 [n, outputs].

    ``low_bits`` says what truncation meets, random by default; ``trace`` gathers the integers after every step.
    Raises RangeError when an input or a value on the way is out of the plan's bounds.
    """
    values = encode_integers(inputs, plan.input_fraction)
    if values.size and (values.min() < plan.low or values.max() > plan.high):
        raise RangeError("an input is out of the plan's bounds")
    low_bits = low_bits or drawn(fresh_stream())
    for number, step in enumerate(plan.steps):
        if isinstance(step, Linear):
            values = _linear(step, weights[number], values)
        elif isinstance(step, Truncate):
            values = _truncate(values, step.shift, low_bits(number, values.shape, step.shift))
        else:
            values = _other(step, values)
        if trace is not None:
            trace.append(values)
    if np.abs(values).max(initial=0) > plan.output_bound:
        raise RangeError("a logit is out of the plan's bounds")
    return values.reshape(len(values), -1) / 2.0**plan.output_fraction


def drawn(stream: SecretStream) -> LowBits:
    """Return low bits that are uniform, as those of the data owner's shares are."""
    return lambda _, shape, shift: stream.take_int64(*shape) & np.int64((1 << shift) - 1)


def _linear(step: Linear, weights: LayerWeights, values: Integers) -> Integers:
    rows, columns = step.crop
    results = []
    for image in values:
        padded = pad(image[None, :, :rows, :columns], step.pads)
        seen = patches(padded, step.kernel, step.stride)
        height = (padded.shape[2] - step.kernel[0]) // step.stride[0] + 1
        largest = float(np.abs(weights.matrix).max(initial=0)) * float(np.abs(seen).max(initial=0)) * len(seen)
        if largest < 2.0**53:
            # Exact in float64, and quicker.
            product = (weights.matrix.astype(np.float64) @ seen.astype(np.float64)).astype(np.int64)
        else:
            product = weights.matrix @ seen
        results.append((product + weights.bias[:, None]).reshape(len(weights.matrix), height, -1))
    return np.stack(results)


def _truncate(values: Integers, shift: int, low: Integers) -> Integers:
    mask = np.int64((1 << shift) - 1)
    # One party adds 1, so that the mean of what is lost is nearly 0.
    carry = (values & mask) < low
    cut: Integers = (values >> np.int64(shift)) + 1 - carry
    return cut


def _other(step: Step, values: Integers) -> Integers:
    if isinstance(step, SumPool):
        return sum_cells(values, step.kernel, step.stride)
    if isinstance(step, Reshape):
        return values.reshape(len(values), -1, 1, 1)
    if isinstance(step, MaxPool):
        entries = cells(values, step.kernel, step.stride)
        largest: Integers = entries.max(axis=0)
        _check(step.name, largest - entries.min(axis=0), step.width - 1)
        return largest
    assert isinstance(step, Relu | Lift)
    _check(step.name, values, step.width - (1 if isinstance(step, Relu) else 2))
    return np.maximum(values, 0) if isinstance(step, Relu) else values


def _check(name: str, values: Integers, bits: int) -> None:
    if values.size and (values.max() >= 1 << bits or values.min() < -(1 << bits)):
        raise RangeError(f"a value at {name} is out of the plan's bounds")

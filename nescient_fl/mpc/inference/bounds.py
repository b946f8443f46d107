"""How large every value of a plan can become, by interval arithmetic over the weights.

For inputs within the plan's bounds it is proved, not sampled, that nothing leaves its width; the price over bounds
seen in calibration is two or three bits a comparison, less than any test under encryption would cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.inference.plan import Linear, MaxPool, Relu, Reshape, Shape, Step, SumPool, Truncate
from nescient_fl.mpc.inference.windows import cells, pad, patches, sum_cells

Values = NDArray[np.float64]

_SLACK = 2.0**-30
"""Relative: far more than what summing in float64 can lose."""


@dataclass(frozen=True)
class LayerWeights:
    """One linear step's weights int64 [channels, depth] and bias int64 [channels], in fixed point."""

    matrix: NDArray[np.int64]
    bias: NDArray[np.int64]

    @property
    def bits(self) -> int:
        """Bits of the largest weight, its sign included."""
        return int(np.abs(self.matrix).max(initial=0)).bit_length() + 1


@dataclass(frozen=True)
class Interval:
    """Bounds of integers, float64 [C, H, W]; ``spread`` is the largest difference that a step compares."""

    low: Values
    high: Values
    spread: float = 0.0

    @property
    def largest(self) -> float:
        return float(max(np.abs(self.low).max(), np.abs(self.high).max()))


def intervals(
    steps: Sequence[Step], weights: Mapping[int, LayerWeights], shape: Shape, low: int, high: int
) -> Iterator[Interval]:
    """Yield the interval after each step, for inputs of a shape within [low, high]; ``weights`` by step number."""
    state = Interval(np.full(shape, float(low)), np.full(shape, float(high)))
    for number, step in enumerate(steps):
        state = _after(step, weights.get(number), state)
        yield state


def width_for(size: float) -> int:
    """Return the smallest odd width whose signed range holds integers up to ``size`` in size."""
    width = max(int(size).bit_length() + 1, 3)
    return width + 1 - width % 2


def _after(step: Step, weights: LayerWeights | None, state: Interval) -> Interval:
    if isinstance(step, Linear):
        assert weights is not None
        return _linear(step, weights, state)
    if isinstance(step, SumPool):
        low, high = (sum_cells(part[None], step.kernel, step.stride)[0] for part in (state.low, state.high))
        return Interval(low, high)
    if isinstance(step, Truncate):
        # floor(v / 2^shift), or one more.
        scale = 2.0**step.shift
        return Interval(np.floor(state.low / scale), np.floor(state.high / scale) + 1)
    if isinstance(step, MaxPool):
        lows, highs = (cells(part[None], step.kernel, step.stride)[:, 0] for part in (state.low, state.high))
        spread = float((highs.max(axis=0) - lows.min(axis=0)).max())
        return Interval(lows.max(axis=0), highs.max(axis=0), spread)
    if isinstance(step, Relu):
        return Interval(np.maximum(state.low, 0), np.maximum(state.high, 0))
    if isinstance(step, Reshape):
        return Interval(state.low.reshape(-1, 1, 1), state.high.reshape(-1, 1, 1))
    return state


def _linear(step: Linear, weights: LayerWeights, state: Interval) -> Interval:
    rows, columns = step.crop
    low, high = (
        patches(pad(part[None, :, :rows, :columns], step.pads), step.kernel, step.stride)
        for part in (state.low, state.high)
    )
    matrix = weights.matrix.astype(np.float64)
    up, down = np.maximum(matrix, 0), np.minimum(matrix, 0)
    offset = weights.bias.astype(np.float64)[:, None]
    least, most = up @ low + down @ high + offset, up @ high + down @ low + offset
    height = (rows + step.pads[0] + step.pads[2] - step.kernel[0]) // step.stride[0] + 1
    slack = (np.abs(least) + np.abs(most)) * _SLACK
    return Interval((least - slack).reshape(len(matrix), height, -1), (most + slack).reshape(len(matrix), height, -1))

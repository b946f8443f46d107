"""From a torch network to a public plan and the weights that go with it.

Scales are the coarsest at which the calibration inputs' logits come out within the tolerance; widths follow from
the weights and from the bounds of the inputs, which are those of the calibration inputs times a safety factor.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nescient_fl.mpc.errors import PlanError
from nescient_fl.mpc.inference.bounds import LayerWeights, intervals, width_for
from nescient_fl.mpc.inference.fixed_point import encode_integers
from nescient_fl.mpc.inference.layers import Block, read_network
from nescient_fl.mpc.inference.plan import (
    Lift,
    Linear,
    MaxPool,
    Plan,
    Relu,
    Reshape,
    Shape,
    Step,
    SumPool,
    Truncate,
)
from nescient_fl.mpc.inference.twin import simulate

Inputs = NDArray[np.float32] | NDArray[np.float64]

_AT_ONCE = 8
_LARGEST_RING = 64
_LARGEST_OUTPUT = 2.0**60

TOLERANCE = 1.5e-4
"""Largest logit error on the calibration inputs: far enough below the 1e-3 that is promised for all images."""


@dataclass(frozen=True)
class ModelWeights:
    """A model in fixed point, by step number, and the plan that it was made for."""

    plan_digest: str
    layers: Mapping[int, LayerWeights]


@dataclass(frozen=True)
class _Scales:
    """Fraction bits of inputs, weights, values that are compared many times, and values that are compared once."""

    inputs: int
    weights: int
    pooled: int
    dense: int


_CANDIDATES = (
    _Scales(12, 16, 12, 16),
    _Scales(14, 18, 14, 16),
    _Scales(15, 18, 16, 16),
    _Scales(16, 20, 18, 18),
    _Scales(18, 22, 20, 20),
)


def compile_network(
    network: nn.Sequential,
    input_shape: Shape,
    calibration: Inputs,
    safety: float = 1.5,
    bounds: tuple[float, float] | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Plan, ModelWeights]:
    """Compile a network for inputs of [channels, rows, columns].

    Args:
        calibration: typical inputs [n, channels, rows, columns].
        safety: inputs may be so many times larger than those of the calibration.
        bounds: allowed inputs instead, from and to; for a wide plan, as a fallback.
        tolerance: largest allowed error of a calibration input's logit.

    Raises PlanError for a network that cannot be compiled, naming the layer.
    """
    if calibration.shape[1:] != input_shape or not len(calibration) or not np.isfinite(calibration).all():
        raise PlanError(f"calibration inputs must be finite, at least one, of shape {input_shape}")
    blocks = read_network(network, input_shape)
    low, high = bounds or _bounds(calibration, safety)
    expected = _plain(network, calibration)
    worst = np.inf
    for scales in _CANDIDATES:
        plan, weights = _plan(blocks, input_shape, low, high, scales)
        worst = 0.0
        for start in range(0, len(calibration), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found = simulate(plan, weights.layers, calibration[part].clip(low, high))
            worst = max(worst, float(np.abs(found - expected[part]).max()))
            if worst > tolerance:
                break
        else:
            return plan, weights
    raise PlanError(f"the network's logits come out {worst:.1e} wrong in fixed point, not within {tolerance:.1e}")


def encode_weights(network: nn.Sequential, plan: Plan) -> ModelWeights:
    """Return a network's weights for a plan that was compiled before.

    Raises PlanError when the plan is of another network, or its widths do not hold for these weights.
    """
    blocks = read_network(network, plan.input_shape)
    if len(blocks) != sum(isinstance(step, Linear) for step in plan.steps):
        raise PlanError("the plan is of another network")
    weights = _encode(blocks, plan.steps, plan.input_fraction)
    needed = _fit(plan.steps, weights, plan.input_shape, plan.low, plan.high)
    for own, given in zip(needed, plan.steps, strict=True):
        if any(getattr(own, name, 0) > getattr(given, name, 0) for name in ("width", "bits", "ring")):
            raise PlanError(f"step {given.name} of the plan is too narrow for these weights: compile them anew")
    if _output_bound(plan.steps, weights, plan.input_shape, plan.low, plan.high) > plan.output_bound:
        raise PlanError("the plan's outputs are too narrow for these weights: compile them anew")
    return ModelWeights(plan.digest, weights)


def _bounds(calibration: Inputs, safety: float) -> tuple[float, float]:
    if safety < 1:
        raise PlanError(f"a safety factor is 1 or more, got {safety}")
    # Outwards to quarters: a public plan should not tell the exact brightest pixel of somebody's radiograph.
    low = math.floor(4 * safety * min(float(calibration.min()), 0.0)) / 4
    return low, math.ceil(4 * safety * max(float(calibration.max()), 0.0)) / 4


def _plain(network: nn.Sequential, inputs: Inputs) -> NDArray[np.float64]:
    """Score in float64, and leave the network as it was."""
    exact = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        scores = [exact(torch.from_numpy(part[None].astype(np.float64))).reshape(1, -1) for part in inputs]
    return torch.cat(scores).numpy()


def _plan(blocks: Sequence[Block], shape: Shape, low: float, high: float, scales: _Scales) -> tuple[Plan, ModelWeights]:
    flat = () if blocks[0].shape == shape else (Reshape("input"),)
    steps = (*flat, *_skeleton(blocks, scales))
    least, most = (int(value) for value in encode_integers(np.array([low, high]), scales.inputs))
    weights = _encode(blocks, steps, scales.inputs)
    fitted = _fit(steps, weights, shape, least, most)
    bound = _output_bound(steps, weights, shape, least, most)
    fraction = _fractions(steps, scales.inputs)[len(steps) - 1] + scales.weights
    plan = Plan(shape, scales.inputs, least, most, fraction, bound, tuple(fitted))
    return plan, ModelWeights(plan.digest, weights)


def _skeleton(blocks: Sequence[Block], scales: _Scales) -> Iterator[Step]:
    """Yield the steps with their scales; rings and widths are the largest there are."""
    fraction = scales.inputs
    for number, block in enumerate(blocks):
        yield Linear(
            block.name, block.crop, block.pads, block.kernel, block.stride, len(block.weight), scales.weights, 64
        )
        yield from (SumPool(window.name, window.kernel, window.stride) for window in block.sums)
        if number == len(blocks) - 1:
            return
        wanted = scales.pooled if block.largest else scales.dense
        yield Truncate(block.name, fraction + scales.weights - wanted, 64)
        fraction = wanted
        yield from (MaxPool(window.name, window.kernel, window.stride, 63) for window in block.largest)
        yield Relu(block.relu, 63, 64) if block.relu else Lift(block.name, 63, 64)
        yield from (SumPool(window.name, window.kernel, window.stride) for window in block.sums_after)
        if block.flatten:
            yield Reshape(block.name)


def _fractions(steps: Sequence[Step], inputs: int) -> list[int]:
    """Return the scale of what each step is given."""
    found = [inputs]
    for step in steps:
        change = step.weight_fraction if isinstance(step, Linear) else 0
        found.append(found[-1] + change - (step.shift if isinstance(step, Truncate) else 0))
    return found[:-1]


def _encode(blocks: Sequence[Block], steps: Sequence[Step], inputs: int) -> dict[int, LayerWeights]:
    linear = [(number, step) for number, step in enumerate(steps) if isinstance(step, Linear)]
    fractions = _fractions(steps, inputs)
    weights = {}
    for block, (number, step) in zip(blocks, linear, strict=True):
        if (block.kernel, block.stride, block.pads, block.crop) != (step.kernel, step.stride, step.pads, step.crop):
            raise PlanError("the plan is of another network")
        weights[number] = LayerWeights(
            encode_integers(block.weight, step.weight_fraction),
            encode_integers(block.bias, fractions[number] + step.weight_fraction),
        )
    return weights


def _fit(steps: Sequence[Step], weights: Mapping[int, LayerWeights], shape: Shape, low: int, high: int) -> list[Step]:
    """Return the steps with the narrowest widths and rings that the intervals allow."""
    states = list(intervals(steps, weights, shape, low, high))
    fitted: list[Step] = []
    for step, before, after in zip(steps, [None, *states[:-1]], states, strict=True):
        if isinstance(step, MaxPool):
            step = replace(step, width=width_for(after.spread))
        elif isinstance(step, Relu | Lift):
            assert before is not None
            step = replace(step, width=width_for(before.largest * (2 if isinstance(step, Lift) else 1)))
        fitted.append(step)
    blocks = [number for number, step in enumerate(fitted) if isinstance(step, Linear)]
    bits, rings, leaving = [], [], 0
    for start, end in zip(blocks, [*blocks[1:], len(fitted)], strict=True):
        widths = [step.width for step in fitted[start:end] if isinstance(step, MaxPool | Relu | Lift)]
        shifts = [step.shift for step in fitted[start:end] if isinstance(step, Truncate)]
        bits.append(max(widths, default=0))
        # The ring holds what is cut off and what remains, and more than came out of the block before.
        rings.append(-(-max(sum(shifts) + bits[-1], leaving + 1, 8) // 8) * 8)
        leaving = widths[-1] if widths else 0
    rings[-1] = _LARGEST_RING
    if max(rings) > _LARGEST_RING:
        raise PlanError("the network's values are too large to compute with under encryption")
    block = -1
    for number, step in enumerate(fitted):
        block += isinstance(step, Linear)
        if isinstance(step, Linear):
            fitted[number] = replace(step, ring=rings[block])
        elif isinstance(step, Truncate):
            fitted[number] = replace(step, bits=bits[block])
        elif isinstance(step, Relu | Lift):
            fitted[number] = replace(step, ring=rings[block + 1])
    return fitted


def _output_bound(steps: Sequence[Step], weights: Mapping[int, LayerWeights], shape: Shape, low: int, high: int) -> int:
    *_, last = intervals(steps, weights, shape, low, high)
    if last.largest >= _LARGEST_OUTPUT:
        raise PlanError("the network's logits are too large to compute with under encryption")
    return int(last.largest) + 1

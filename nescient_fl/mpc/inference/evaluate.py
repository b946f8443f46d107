"""The walk through a plan: at the dealer making material, at a party computing on shares."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nescient_fl.mpc.inference.correlations import (
    DATA_OWNER,
    MODEL_OWNER,
    Correlation,
    Hand,
    MaskedProduct,
    weight_mask,
)
from nescient_fl.mpc.inference.fixed_point import Words, shift_share
from nescient_fl.mpc.inference.linear import apply_weights, masked_product
from nescient_fl.mpc.inference.maximum import correlations as maximum_correlations
from nescient_fl.mpc.inference.maximum import largest
from nescient_fl.mpc.inference.plan import Lift, Linear, MaxPool, Plan, Relu, Reshape, SumPool, Truncate
from nescient_fl.mpc.inference.rectify import correlations as rectify_correlations
from nescient_fl.mpc.inference.rectify import lift, rectify
from nescient_fl.mpc.inference.ring_product import RingMatrix
from nescient_fl.mpc.inference.windows import sum_cells
from nescient_fl.mpc.inference.wire import Wire


@dataclass(frozen=True)
class Weights:
    """What one party knows of a linear step's weights.

    The model owner: the weights, and the bias [channels] in the ring. The data owner: the masked weights.
    """

    matrix: RingMatrix
    bias: Words | None = None


def correlations(plan: Plan, images: int) -> Iterator[Correlation]:
    """Yield what a batch takes, in the order that the parties take it."""
    for number, (step, state) in enumerate(zip(plan.steps, plan.states, strict=False)):
        if isinstance(step, Linear):
            yield masked_product(number, step, state, images)
        elif isinstance(step, MaxPool):
            windows = images * _after_size(plan, number)
            yield from maximum_correlations(step, windows, state.ring)
        elif isinstance(step, Relu | Lift):
            yield from rectify_correlations(step, images * state.size)


def deal(plan: Plan, images: int, mask_seed: bytes, seeds: tuple[bytes, bytes]) -> Iterator[bytes]:
    """Yield the model owner's corrections for a batch, given the seeds of both parties and of the weights' masks."""
    model_owner, data_owner = Hand(MODEL_OWNER, seeds[0]), Hand(DATA_OWNER, seeds[1])
    for correlation in correlations(plan, images):
        if isinstance(correlation, MaskedProduct):
            mask = weight_mask(mask_seed, correlation.step, correlation.channels, correlation.depth, correlation.ring)
            yield correlation.deal(data_owner, RingMatrix(mask, correlation.ring))
        else:
            yield correlation.deal(model_owner, data_owner)


def evaluate(
    wire: Wire,
    hand: Hand,
    plan: Plan,
    weights: Mapping[int, Weights],
    images: int,
    inputs: Words | None,
    trace: list[Words] | None = None,
) -> Words:
    """Compute a batch. Returns this party's shares of the logits, [images, outputs], in the last step's ring.

    ``inputs`` are the data owner's, [images, C, H, W] in the first step's ring; the model owner has None.
    ``trace`` gathers the shares after every step, for tests.
    """
    shares = inputs
    for number, (step, state) in enumerate(zip(plan.steps, plan.states, strict=False)):
        with wire.layer(step.name):
            if isinstance(step, Linear):
                known = weights[number]
                product = masked_product(number, step, state, images)
                if shares is not None:
                    shares = shares[:, :, : step.crop[0], : step.crop[1]]
                shares = apply_weights(wire, hand, product, shares, known.matrix, known.bias)
                shares = shares.reshape(images, *plan.states[number + 1].shape)
            elif shares is not None:
                shares = _step(wire, hand, step, shares, state.ring)
        if trace is not None and shares is not None:
            trace.append(shares)
    assert shares is not None
    return shares.reshape(images, -1)


def _step(wire: Wire, hand: Hand, step: object, shares: Words, ring: int) -> Words:
    if isinstance(step, SumPool):
        return sum_cells(shares, step.kernel, step.stride)
    if isinstance(step, Truncate):
        cut = shift_share(shares, ring, step.shift, step.bits)
        return cut + cut.dtype.type(1) if hand.rank == MODEL_OWNER else cut
    if isinstance(step, MaxPool):
        return largest(wire, hand, step, shares, ring)
    if isinstance(step, Relu):
        return rectify(wire, hand, step, shares)
    if isinstance(step, Lift):
        return lift(wire, hand, step, shares)
    assert isinstance(step, Reshape)
    return np.ascontiguousarray(shares).reshape(len(shares), -1, 1, 1)


def _after_size(plan: Plan, number: int) -> int:
    return plan.states[number + 1].size

"""One step of tuning on shares: forward through the layers, backward again, and the weights moved and clamped.

ReLU's sign bits are found once: shared, they select activations going forward and errors going back. Every number
that is cut to fewer bits of fraction is cut exactly (``fixed_point.shift_share``), at most a unit in the last place
off, in a ring that the plan proves to be wide enough.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nescient_fl.mpc.inference.correlations import (
    MODEL_OWNER,
    BitProducts,
    BitTimesBit,
    BitTimesWord,
    Hand,
    Planes,
)
from nescient_fl.mpc.inference.fixed_point import Words, shift_share
from nescient_fl.mpc.inference.plan import Lift, Relu
from nescient_fl.mpc.inference.rectify import correlations as rectify_correlations
from nescient_fl.mpc.inference.rectify import lift, rectify, rectify_with_signs
from nescient_fl.mpc.inference.select import keep_positive
from nescient_fl.mpc.inference.wire import Wire
from nescient_fl.mpc.tuning.plan import (
    ERROR_BITS,
    ERROR_WIDTH,
    LARGEST_WEIGHT,
    RING,
    VALUE_BITS,
    WEIGHT_BITS,
    TuningPlan,
)
from nescient_fl.mpc.tuning.products import (
    Features,
    LayerMasks,
    Opened,
    OwnedLayer,
    OwnMasks,
    SharedLayer,
    gradient_of_features,
    open_masked,
    product,
    times_features,
)
from nescient_fl.mpc.tuning.sigmoid import BENDS, FLOOR, KNOTS, SCORE_BITS

Correlation = OwnedLayer | SharedLayer | BitProducts | BitTimesBit | BitTimesWord

CLAMP = LARGEST_WEIGHT << WEIGHT_BITS
FORWARD, SIGMOID, BACKWARD, UPDATE = "forward", "sigmoid", "backward", "update"
"""What rounds and bytes are counted under."""


@dataclass
class Weights:
    """Shares of each layer's weights [outputs, inputs + 1], uint64: now, before the last step, and at the start."""

    now: list[Words]
    before: list[Words]
    start: list[Words]


def relu_step(plan: TuningPlan, layer: int) -> Relu:
    """Return the ReLU after a hidden layer, or those of the sigmoid after the last."""
    return Relu("", plan.relu_width(layer), RING)


def error_step(plan: TuningPlan, layer: int) -> Lift:
    """Return the lift of the errors that flow back to a hidden layer's outputs."""
    return Lift("", plan.error_width(layer), RING)


def update_step(plan: TuningPlan) -> Relu:
    """Return the ReLUs that clamp weights."""
    return Relu("", plan.update_width, RING)


SCORE_STEP = Lift("", ERROR_WIDTH, RING)


def correlations(plan: TuningPlan) -> Iterator[Correlation]:
    """Yield what a step takes, in the order that the parties take it."""
    for layer in range(plan.layers):
        outputs, inputs = plan.shape(layer)
        yield (SharedLayer if layer else OwnedLayer)(plan.images, inputs, outputs)
        count = len(KNOTS) if layer == plan.layers - 1 else outputs
        yield from rectify_correlations(relu_step(plan, layer), plan.images * count)
    yield from rectify_correlations(SCORE_STEP, plan.images)
    for layer in reversed(range(plan.layers - 1)):
        count = plan.images * plan.sizes[layer + 1]
        yield from rectify_correlations(error_step(plan, layer), count)
        yield BitTimesWord(count, RING)
    yield from rectify_correlations(update_step(plan), 2 * sum(map(_size, map(plan.shape, range(plan.layers)))))


class Step:
    """One party's side of one step.

    ``features`` are as ``products.show_features`` leaves them; ``labels`` uint64 [images] of 0 and 1 are the data
    owner's, None at the model owner. ``lows`` gathers the low bits that this party cut off, for tests.
    """

    def __init__(
        self,
        wire: Wire,
        hand: Hand,
        plan: TuningPlan,
        features: Features,
        labels: Words | None,
        lows: list[Words] | None = None,
    ) -> None:
        self._wire, self._hand, self._plan = wire, hand, plan
        self._features, self._labels, self._lows = features, labels, lows
        self._signs: list[Planes] = []
        self._masks: list[LayerMasks] = []
        self._inputs: list[Opened] = []
        self._opened_weights: list[Opened] = []
        self._own: OwnMasks

    def take(self, weights: Weights) -> Weights:
        """Return the weights after the step."""
        with self._wire.layer(FORWARD):
            logits = self._forward(weights.now)
        with self._wire.layer(SIGMOID):
            errors = self._errors(logits)
        with self._wire.layer(BACKWARD):
            gradients = self._backward(errors)
        with self._wire.layer(UPDATE):
            moved = self._moved(weights, gradients)
        self._hand.finish()
        return Weights(moved, weights.now, weights.start)

    def _forward(self, weights: list[Words]) -> Words:
        """Return shares of the logits, [images], with VALUE_BITS of fraction."""
        plan, values = self._plan, np.zeros(0, np.uint64)
        for layer in range(plan.layers):
            outputs, inputs = plan.shape(layer)
            if layer == 0:
                self._own = OwnedLayer(plan.images, inputs, outputs).take(self._hand)
                sums = times_features(self._wire, self._features, weights[0], self._own.weights, self._own.forward)
            else:
                masks = SharedLayer(plan.images, inputs, outputs).take(self._hand)
                opened = open_masked(self._wire, (values, masks.inputs), (weights[layer], masks.weights))
                self._masks.append(masks)
                self._inputs.append(opened[0])
                self._opened_weights.append(opened[1])
                sums = product(self._hand.rank, opened[0], opened[1].transposed, masks.forward)
            cut = self._cut(sums, WEIGHT_BITS, plan.relu_width(layer))
            if layer == plan.layers - 1:
                return cut[:, 0]
            kept, signs = rectify_with_signs(self._wire, self._hand, relu_step(plan, layer), cut)
            self._signs.append(signs)
            values = np.concatenate([kept, self._public(np.full((plan.images, 1), 1 << VALUE_BITS))], axis=1)
        raise AssertionError("a plan has a layer")

    def _errors(self, logits: Words) -> Words:
        """Return shares of the scores less the labels, [images, 1], with ERROR_BITS of fraction."""
        knots, bends = np.array(KNOTS)[:, None], np.array(BENDS)
        above = logits[None] - self._public(np.broadcast_to(knots, (len(KNOTS), len(logits)))).astype(logits.dtype)
        kept = rectify(self._wire, self._hand, relu_step(self._plan, self._plan.layers - 1), above)
        scores = bends.astype(np.uint64) @ kept + self._public(np.full(len(logits), FLOOR))
        cut = self._cut(scores, SCORE_BITS - ERROR_BITS, ERROR_WIDTH)
        if self._labels is not None:
            cut -= (self._labels << np.uint64(ERROR_BITS)).astype(cut.dtype)
        return lift(self._wire, self._hand, SCORE_STEP, cut)[:, None]

    def _backward(self, errors: Words) -> list[Words]:
        """Return shares of the gradients, summed over the images, with GRADIENT_BITS of fraction."""
        plan, rank, gradients = self._plan, self._hand.rank, []
        for layer in reversed(range(1, plan.layers)):
            masks, inputs = self._masks[layer - 1], self._inputs[layer - 1]
            (opened,) = open_masked(self._wire, (errors, masks.errors))
            gradients.append(product(rank, opened.transposed, inputs, masks.gradient))
            back = product(rank, opened, self._opened_weights[layer - 1].without_bias, masks.back)
            step = error_step(plan, layer - 1)
            lifted = lift(self._wire, self._hand, step, self._cut(back, WEIGHT_BITS, step.width))
            signs = self._signs[layer - 1]
            errors = keep_positive(self._wire, self._hand, signs, lifted.reshape(-1), RING).reshape(back.shape)
        own = self._own
        gradients.append(gradient_of_features(self._wire, self._features, errors, own.errors, own.gradient))
        return gradients[::-1]

    def _moved(self, weights: Weights, gradients: list[Words]) -> list[Words]:
        """Return shares of the weights a step further, clamped."""
        plan, moved = self._plan, []
        rate, momentum, decay = (
            np.uint64(factor) for factor in (plan.rate_factor, plan.momentum_factor, plan.decay_factor)
        )
        for now, before, start, gradient in zip(weights.now, weights.before, weights.start, gradients, strict=True):
            raised = now << np.uint64(plan.update_shift)
            moved.append(raised + momentum * (now - before) - rate * gradient - decay * (now - start))
        flat = self._cut(np.concatenate([part.reshape(-1) for part in moved]), plan.update_shift, plan.update_width)
        bound = self._public(np.full(len(flat), CLAMP))
        step = update_step(plan)
        both = np.concatenate([flat + bound.astype(flat.dtype), flat - bound.astype(flat.dtype)])
        above, beyond = np.split(rectify(self._wire, self._hand, step, both), 2)
        clamped = above - beyond - bound
        sizes = np.cumsum([part.size for part in moved])[:-1]
        return [part.reshape(like.shape) for part, like in zip(np.split(clamped, sizes), moved, strict=True)]

    def _cut(self, shares: Words, shift: int, bits: int) -> Words:
        """Cut ``shift`` bits of fraction off: floor of the value, or one more."""
        if self._lows is not None:
            self._lows.append(shares & np.uint64((1 << shift) - 1))
        cut = shift_share(shares, RING, shift, bits)
        return cut + cut.dtype.type(1) if self._hand.rank == MODEL_OWNER else cut

    def _public(self, values: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> Words:
        """Return a share of public integers: the model owner has them, the data owner 0."""
        return values.astype(np.uint64) if self._hand.rank == MODEL_OWNER else np.zeros(values.shape, np.uint64)


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]

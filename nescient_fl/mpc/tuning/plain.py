"""Tuning in clear, in floating point and with the sigmoid itself: what encrypted tuning is held against."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.tuning.plan import LARGEST_WEIGHT, TuningPlan

Floats = NDArray[np.float64]


def tune_in_clear(
    plan: TuningPlan,
    features: Floats,
    labels: Floats,
    weights: Sequence[Floats],
    tick: Callable[[int], None] | None = None,
) -> list[Floats]:
    """Take a plan's steps, at its rate as fixed point rounds it.

    features [images, inputs], labels [images] of 0 and 1, weights [outputs, inputs + 1] a layer, the bias last;
    returns weights. ``tick`` is told each step's number.
    """
    tuned = list(weights)
    steps = descend(features, labels, weights, plan.effective_rate, plan.momentum, plan.decay)
    for step in range(plan.steps):
        if tick is not None:
            tick(step)
        tuned = next(steps)
    return tuned


def descend(
    features: Floats, labels: Floats, weights: Sequence[Floats], rate: float, momentum: float, decay: float
) -> Iterator[list[Floats]]:
    """Yield the weights after every step, without end; steps are as ``plan`` says."""
    now = before = list(weights)
    inputs = with_one(features)
    while True:
        values = layer_inputs(inputs, now)
        errors = 0.5 + 0.5 * np.tanh(values[-1] @ now[-1].T / 2) - labels[:, None]
        gradients: list[Floats] = []
        for number in reversed(range(len(now))):
            gradients.insert(0, errors.T @ values[number] / len(inputs))
            if number:
                errors = errors @ now[number][:, :-1] * (values[number - 1] @ now[number - 1].T >= 0)
        moved = [
            np.clip(
                new + momentum * (new - old) - rate * (gradient + decay * (new - start)),
                -LARGEST_WEIGHT,
                LARGEST_WEIGHT,
            )
            for new, old, start, gradient in zip(now, before, weights, gradients, strict=True)
        ]
        before, now = now, moved
        yield now


def layer_inputs(inputs: Floats, weights: Sequence[Floats]) -> list[Floats]:
    """Return the inputs of every layer, [images, inputs + 1] with the bias's 1."""
    values = [inputs]
    for layer in weights[:-1]:
        values.append(with_one(np.maximum(values[-1] @ layer.T, 0)))
    return values


def logistic_loss(features: Floats, labels: Floats, weights: Sequence[Floats]) -> float:
    """Return the mean logistic loss."""
    logits = (layer_inputs(with_one(features), weights)[-1] @ weights[-1].T)[:, 0]
    return float(np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean())


def with_one(values: Floats) -> Floats:
    """Return values [n, m] with a last column of ones."""
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)

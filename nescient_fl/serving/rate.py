"""How large a step may be, found by the model's owner with features of its own alone."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from nescient_fl.mpc.tuning.plain import Floats, descend, layer_inputs, logistic_loss, with_one

MOMENTUM = 0.8
"""Costs nothing under encryption, and comes as far in 60 steps as several hundred without it."""
_HALVINGS = 20
_ROOM = 1.01


def safe_rate(features: Floats, weights: Sequence[Floats], steps: int, decay: float) -> float:
    """Return a rate at which descent does not diverge on features [n, inputs] like these, or twice as steep.

    It begins with ``curvature_rate``, which is right where the descent begins. With several layers the loss grows
    steeper as weights grow; so the descent is tried on these very features, at twice the rate, with labels that ask
    for the largest moves: each image's opposite to how the model scores it, and then every second one. Where the
    loss rises above its first value, the rate is halved.
    """
    logits = (layer_inputs(with_one(features), weights)[-1] @ weights[-1].T)[:, 0]
    hard = [(logits < np.median(logits)).astype(np.float64), (np.arange(len(features)) % 2).astype(np.float64)]
    rate = curvature_rate(features, weights)
    for _ in range(_HALVINGS):
        if all(_falls(features, labels, weights, steps, 2 * rate, decay) for labels in hard):
            break
        rate /= 2
    return rate


def curvature_rate(features: Floats, weights: Sequence[Floats]) -> float:
    """Return half the rate at which descent would begin to diverge, for small moves.

    The logistic loss of n images, seen as a function of all weights together, bends by J' S J / n, plus what comes of
    the logits' own bends (the Gauss-Newton part and the rest): J has the derivatives of the logits by every weight, and
    S is 1/4 at most. The largest eigenvalue of J' J is that of J J', [n, n], a sum over layers of products of inputs
    and of errors. Descent is stable up to 2 over the largest bend, and momentum only raises that.
    """
    values = layer_inputs(with_one(features), weights)
    errors, gram = np.ones((len(features), 1)), np.zeros((len(features), len(features)))
    for number in reversed(range(len(weights))):
        gram += (values[number] @ values[number].T) * (errors @ errors.T)
        if number:
            errors = errors @ weights[number][:, :-1] * (values[number - 1] @ weights[number - 1].T >= 0)
    largest = float(np.linalg.eigvalsh(gram)[-1]) / len(features)
    return 4 / largest


def _falls(features: Floats, labels: Floats, weights: Sequence[Floats], steps: int, rate: float, decay: float) -> bool:
    first = logistic_loss(features, labels, weights)
    descent = islice(descend(features, labels, weights, rate, MOMENTUM, decay), steps)
    return all(logistic_loss(features, labels, now) <= _ROOM * first for now in descent)

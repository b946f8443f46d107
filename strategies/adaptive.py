"""FedAdam and FedYogi (Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2): the server takes
the mean update for a gradient and scales its step for each weight by what that weight's updates were like so far.
"""

from collections.abc import Callable

from torch import Tensor

from nescient_fl.lesion.network import Weights

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99
"""The paper's beta 1 and beta 2."""
ADAPTIVITY = 1e-3
"""The paper's tau: updates much smaller than this are not scaled up to a whole step."""

SecondMoment = Callable[[Tensor, Tensor], Tensor]


def adam_second_moment(before: Tensor, squared: Tensor) -> Tensor:
    """Return a decaying mean of squared updates, float64."""
    return SECOND_DECAY * before + (1 - SECOND_DECAY) * squared


def yogi_second_moment(before: Tensor, squared: Tensor) -> Tensor:
    """Return Yogi's: it moves towards the squared updates by an amount that does not depend on how far it is."""
    return before - (1 - SECOND_DECAY) * squared * (before - squared).sign()


def adaptive_step(
    weights: Weights,
    averaged: Weights,
    moments: tuple[Weights, Weights] | None,
    learning_rate: float,
    second_moment: SecondMoment,
) -> tuple[Weights, tuple[Weights, Weights]]:
    """Return the new global weights and the two moments, float32, from the old weights and their FedAvg successor.

    Before round 1 (``moments`` is None) the first moment is 0 and the second tau squared; neither is corrected
    for that, as in the paper.
    """
    new_weights: Weights = {}
    first: Weights = {}
    second: Weights = {}
    for name, value in weights.items():
        update = averaged[name].double() - value.double()
        mean = update.new_zeros(update.shape) if moments is None else moments[0][name].double()
        spread = update.new_full(update.shape, ADAPTIVITY**2) if moments is None else moments[1][name].double()
        mean = FIRST_DECAY * mean + (1 - FIRST_DECAY) * update
        spread = second_moment(spread, update.square())
        first[name], second[name] = mean.to(value.dtype), spread.to(value.dtype)
        step = learning_rate * mean / (spread.sqrt() + ADAPTIVITY)
        new_weights[name] = (value.double() + step).to(value.dtype)
    return new_weights, (first, second)

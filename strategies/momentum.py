"""Server momentum, FedAvgM (Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification", 2019): the mean update joins a decaying sum of earlier ones.

Averaging updates that point different ways shortens the step: five sites of the default study move the model
far less in a round than one optimiser on all data does in the same image passes. Momentum gives that back.
"""

from nescient_fl.lesion.network import Weights


def with_momentum(
    weights: Weights, averaged: Weights, velocity: Weights | None, momentum: float
) -> tuple[Weights, Weights | None]:
    """Return the new global weights and velocity, float32, from the old weights and their FedAvg successor.

    velocity' = momentum * velocity + (averaged - weights), and the new weights are weights + velocity'.
    Without momentum the successor itself is the answer, bit for bit, and there is no velocity.
    """
    if momentum == 0:
        return averaged, None
    new_weights: Weights = {}
    new_velocity: Weights = {}
    for name, value in weights.items():
        step = averaged[name].double() - value.double()
        if velocity is not None:
            step += momentum * velocity[name].double()
        new_velocity[name] = step.to(value.dtype)
        new_weights[name] = (value.double() + step).to(value.dtype)
    return new_weights, new_velocity

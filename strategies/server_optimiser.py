"""What the server makes of a round's average, whichever way it was aggregated: avg, avgm, adam or yogi."""

from collections.abc import Mapping
from dataclasses import dataclass

from nescient_fl.lesion.network import Weights
from strategies.adaptive import adam_second_moment, adaptive_step, yogi_second_moment
from strategies.momentum import with_momentum

VELOCITY, FIRST_MOMENT, SECOND_MOMENT = "velocity", "first_moment", "second_moment"
MEMORIES = (VELOCITY, FIRST_MOMENT, SECOND_MOMENT)
"""What optimisers carry from round to round, by the names that checkpoints have for it."""

_SECOND_MOMENTS = {"adam": adam_second_moment, "yogi": yogi_second_moment}


@dataclass(frozen=True)
class ServerOptimiser:
    """How the global model moves.

    Attributes:
        name: ``avg`` takes the average itself; ``avgm`` has momentum; ``adam`` and ``yogi`` are adaptive.
        momentum: of ``avgm``: share of the last step that joins the next.
        learning_rate: of ``adam`` and ``yogi``: about the length of a weight's step.

    Raises ValueError for another name, or a value that its optimiser does not take.
    """

    name: str = "avg"
    momentum: float = 0.0
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("avg", "avgm", *_SECOND_MOMENTS):
            raise ValueError(f"there is no server optimiser {self.name!r}")
        if not 0 <= self.momentum < 1 or (self.momentum and self.name != "avgm"):
            raise ValueError(f"{self.name} takes no momentum of {self.momentum}")
        if (self.learning_rate > 0) != (self.name in _SECOND_MOMENTS):
            raise ValueError(f"{self.name} takes no learning rate of {self.learning_rate}")

    def step(
        self, weights: Weights, averaged: Weights, memory: Mapping[str, Weights]
    ) -> tuple[Weights, dict[str, Weights]]:
        """Return the next global weights and the next memory, from the old weights and their FedAvg successor.

        ``memory`` is what the step before returned, empty before round 1.
        """
        if self.name in _SECOND_MOMENTS:
            moments = (memory[FIRST_MOMENT], memory[SECOND_MOMENT]) if memory else None
            rule = _SECOND_MOMENTS[self.name]
            moved, (first, second) = adaptive_step(weights, averaged, moments, self.learning_rate, rule)
            return moved, {FIRST_MOMENT: first, SECOND_MOMENT: second}
        moved, velocity = with_momentum(weights, averaged, memory.get(VELOCITY), self.momentum)
        return moved, {} if velocity is None else {VELOCITY: velocity}

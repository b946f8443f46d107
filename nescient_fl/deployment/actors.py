"""What is known of one actor of a deployment, as its worker or its health page says it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nescient_fl.study.report_values import printable

_LONGEST_TEXT = 200


@dataclass
class ActorView:
    """What is known of one actor, for a view.

    Attributes:
        state: starting, ended, or what its worker says.
        round, last, bytes_in, bytes_out, problem: as its worker says.
        restarts: how often it was started again.
    """

    name: str
    role: str
    state: str = "starting"
    round: int = 0
    last: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    problem: str = ""
    restarts: int = 0

    def note(self, told: Mapping[str, Any]) -> None:
        """Take over what an actor tells of itself; a field of another kind, or none, leaves what was known."""
        for name in ("state", "last", "problem"):
            if isinstance(value := told.get(name), str):
                setattr(self, name, printable(value)[:_LONGEST_TEXT])
        for name in ("round", "bytes_in", "bytes_out"):
            if type(value := told.get(name)) is int and value >= 0:
                setattr(self, name, value)

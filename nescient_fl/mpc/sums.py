"""What the relay asks the parties for, and what they answer: one sum over one set of reports."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nescient_fl.mpc.errors import HeaderError
from nescient_fl.mpc.terms import Terms, binding

_DIGEST = re.compile("[0-9a-f]{64}")

PROTOCOL = 1
"""Version of reports and of what parties say to each other about them."""
BEYOND_BOUND = "its update is beyond the norm bound"
"""Why a report that the norm check left out is not in a sum."""


@dataclass(frozen=True)
class SumRequest:
    """What the relay asks of every party, none of it trusted: reports must be bound to the same.

    Attributes:
        run, round: which round of which run.
        model: SHA-256 of the global model's weights, in hex.
        order: the round's order to the sites, as bytes.
        terms: the terms that the sites were told too.
        session: 32 bytes, in hex, that name this attempt.

    Raises HeaderError for fields of another kind.
    """

    run: str
    round: int
    model: str
    order: bytes
    terms: Terms
    session: str

    def __post_init__(self) -> None:
        texts = [self.run, self.model, self.session]
        if any(type(text) is not str for text in texts) or type(self.round) is not int or type(self.order) is not bytes:
            raise HeaderError("the relay's question has fields of another kind")
        if not all(_DIGEST.fullmatch(text) for text in (self.model, self.session)):
            raise HeaderError("a model and a session are named by 64 hex digits")

    @cached_property
    def binding(self) -> str:
        return binding(self.model, self.order, self.terms)


@dataclass(frozen=True)
class SumResult:
    """What a party answers, the same at every party but for seconds and bytes.

    Attributes:
        total: the opened sum, int64 [dimension], noise included.
        sites: whose reports are in it, in name order.
        excluded: whose reports the norm check left out.
        refused: reasons by site, for reports that never came into the set.
        seconds: what the party worked and waited; bytes: what it sent to parties and dealer.
        stored: whether the sum had been opened or committed to before.
    """

    total: NDArray[np.int64]
    sites: tuple[str, ...]
    excluded: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    bytes: int = 0
    stored: bool = False

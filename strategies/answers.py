"""What an aggregation makes of a round's replies: the same for updates in clear and for sealed ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights
from nescient_fl.messages import RoundOrder

Failures = list[dict[str, str]]


@dataclass(frozen=True)
class RoundResult:
    """One round, aggregated.

    Attributes:
        sites: whose updates are in the average, in name order.
        averaged: the global weights moved by the weighted mean update; None when the round only scored.
        counts: validation counts of the model that was sent.
        images: the weights' sum.
        loss, accuracy: means over training images, None where nobody may know them.
        by_site, validation_by_site: what is known of single sites, lines for rounds.jsonl.
        failures: sites that an aggregation left out, with reasons, beyond those that did not answer.
        notes: what else the round's line should hold.
    """

    sites: tuple[str, ...]
    averaged: Weights | None
    counts: ScoreCounts
    images: int
    loss: float | None
    accuracy: float | None
    by_site: Sequence[Mapping[str, Any]]
    validation_by_site: Sequence[Mapping[str, Any]]
    failures: Failures = field(default_factory=list)
    notes: Mapping[str, Any] = field(default_factory=dict)


class RoundAborted(Exception):
    """A round whose sum could not be opened; nothing was learned, and asking the sites again may help."""


class BudgetSpent(Exception):
    """The study may open no further sum; what it has learned stands."""


class Aggregation(Protocol):
    """Turns the sites' replies into one result."""

    def extend(self, content: RecordDict, train: bool, weights: Weights) -> RecordDict:
        """Add to a round's order what the sites need to know."""

    def read(self, reply: Message, site: str) -> Any:
        """Return a site's answer, or in words why it does not count."""

    def combine(self, grid: Grid, order: RoundOrder, weights: Weights, answers: Mapping[str, Any]) -> RoundResult:
        """Aggregate the answers that ``read`` returned, by site in name order.

        Raises UserError when the study cannot go on, RoundAborted when the round may be tried again, and
        BudgetSpent when the study is over.
        """


def figures(counts: ScoreCounts, private: bool = False) -> dict[str, Any]:
    """Return validation figures for a line of rounds.jsonl; recall is at 0.5.

    Private counts are scaled and noisy: how many images there are, and the loss, are not in them.
    """
    return {
        "images": None if private else counts.images,
        "loss": None if private else counts.loss,
        "auroc": counts.auroc,
        "recall": counts.recall(0.5),
    }

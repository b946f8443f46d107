"""Secure aggregation at the coordinator: a blind relay between sites and compute parties.

It sees headers, sizes and who answered; it passes each party its sealed share of every report, and gets back
the sum over a set of sites, or the reason why there is none.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import Weights, weights_sha256
from nescient_fl.messages import PARTY, RoundOrder, order_json, payload_bytes
from nescient_fl.mpc.envelope import ReportHeader, SealedReport, copy_for
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.sums import SumRequest, SumResult
from nescient_fl.mpc.terms import Terms, fraction_bits_for
from nescient_fl.sealed_messages import (
    AGGREGATE,
    DEAL,
    SUM,
    SecureOrder,
    SharedMetrics,
    add_secure_order,
    read_opened,
    read_refusal,
    read_sealed,
    sum_content,
)
from nescient_fl.sealed_vector import (
    dimension,
    noise_for,
    read_sum,
    shapes_of,
    update_words,
)
from strategies.answers import RoundAborted, RoundResult
from strategies.averaging import moved_by
from strategies.exchange import Exchanger, Nodes, failure_reason

if TYPE_CHECKING:
    from nescient_fl.mpc.privacy import PrivacyLedger  # takes a second to import, and only noise needs it

SESSION_SECONDS = 40.0
"""How long the coordinator waits for the parties; they themselves give up, and say why, within 30 s."""

_RETRIED = {"SessionAborted", "MaterialError"}
"""Refusals that another attempt, with fresh shares, may mend."""


@dataclass(frozen=True)
class SecurePlan:
    """What the coordinator needs for secure rounds.

    Attributes:
        run: the run's identity that reports are bound to.
        roster: the signed roster, read and checked.
        clip: largest L2 norm of an update; weight_max: largest weight, a power of two.
        minimum: fewest sites in a sum; strict_membership: see ``Terms``.
        noise_multiplier: standard deviation of the noise by sensitivity; 0 is no differential privacy.
        ledger: what was spent, when there is noise.
    """

    run: str
    roster: Roster
    clip: float
    weight_max: int
    minimum: int
    strict_membership: bool = False
    noise_multiplier: float = 0.0
    ledger: "PrivacyLedger | None" = None

    @property
    def private(self) -> bool:
        return self.noise_multiplier > 0

    def terms(self, weights: Weights, train: bool) -> Terms:
        """Return the terms of one round. Raises BoundError when the clip is too large for the norm check."""
        shapes = shapes_of(weights) if train else None
        weight_max = 1 if self.private else self.weight_max
        bits = fraction_bits_for(self.clip, weight_max)
        words = update_words(shapes)
        update_noise, metrics_noise = noise_for(self.noise_multiplier, self.clip, bits, words, dimension(shapes))
        return Terms(
            dimension=dimension(shapes),
            update_words=words,
            fraction_bits=bits,
            clip=self.clip,
            weight_max=weight_max,
            minimum=self.minimum,
            strict_membership=self.strict_membership,
            update_noise=update_noise,
            metrics_noise=metrics_noise,
        )


@dataclass(frozen=True)
class SealedAnswer:
    """One site's sealed answer, and what it chose to share."""

    report: SealedReport
    shared: SharedMetrics | None
    bytes: int


class SecureAggregation:
    """FedAvg over sealed updates: only the sum is ever opened."""

    def __init__(self, plan: SecurePlan, nodes: Nodes, exchanger: Exchanger) -> None:
        self._plan, self._nodes, self._exchange = plan, nodes, exchanger

    def extend(self, content: RecordDict, train: bool, weights: Weights) -> RecordDict:
        """Add run, roster and terms to an order."""
        plan = self._plan
        return add_secure_order(content, SecureOrder(plan.run, plan.roster.digest, plan.terms(weights, train)))

    def read(self, reply: Message, site: str) -> SealedAnswer | str:
        """Return a site's sealed answer, or in words why it does not count."""
        try:
            report, shared = read_sealed(reply.content)
            header = ReportHeader.from_bytes(report.header)
        except (KeyError, TypeError, ValueError, MpcError) as error:
            return f"its answer cannot be read ({error!r})"
        if header.site != site or (shared is not None and shared.site != site):
            return f"it answered in the name of {header.site}"
        if len(report.ciphertexts) != len(self._plan.roster.parties):
            return f"it sealed {len(report.ciphertexts)} shares for {len(self._plan.roster.parties)} parties"
        return SealedAnswer(report, shared, payload_bytes(reply.content))

    def combine(
        self, grid: Grid, order: RoundOrder, weights: Weights, answers: Mapping[str, SealedAnswer]
    ) -> RoundResult:
        """Have the parties open the sum. Raises UserError, or RoundAborted when a retry may help."""
        plan = self._plan
        request = SumRequest(
            run=plan.run,
            round=order.round,
            model=weights_sha256(weights),
            order=order_json(order).encode(),
            terms=plan.terms(weights, order.train),
            session=os.urandom(32).hex(),
        )
        if plan.ledger is not None:
            plan.ledger.charge(request.model)
        result = self._ask(grid, request, answers)
        shapes = shapes_of(weights) if order.train else None
        summed = read_sum(result.total, shapes, request.terms)
        if summed.weight <= 0:
            raise UserError(f"round {order.round}: the sites' weights add up to {summed.weight}")
        averaged = None if summed.update is None else moved_by(weights, summed.update, summed.weight)
        shared = {name: answers[name].shared for name in result.sites if name in answers}
        return RoundResult(
            sites=result.sites,
            averaged=averaged,
            counts=summed.counts,
            images=summed.weight,
            loss=None if plan.private else summed.loss / summed.weight,
            accuracy=None if plan.private else summed.accuracy / summed.weight,
            by_site=[_site_line(name, answers.get(name)) for name in result.sites],
            validation_by_site=[
                {"site": name, **metrics.validation} for name, metrics in shared.items() if metrics is not None
            ],
            failures=[
                *({"site": name, "reason": reason} for name, reason in sorted(result.refused.items())),
                *({"site": name, "reason": "its update is beyond the norm bound"} for name in result.excluded),
            ],
            notes={
                "secure": {
                    "party_seconds": round(result.seconds, 3),
                    "party_bytes": result.bytes,
                    "excluded": list(result.excluded),
                    "shared_metrics": [name for name, metrics in shared.items() if metrics is not None],
                    "stored": result.stored,
                }
            },
        )

    def _ask(self, grid: Grid, request: SumRequest, answers: Mapping[str, SealedAnswer]) -> SumResult:
        reports = [answer.report for answer in answers.values()]
        names = {node: name for name, node in self._nodes.parties.items()}
        kind = f"query.{AGGREGATE}"
        messages = []
        for rank, party in enumerate(self._plan.roster.parties):
            copies = [copy_for(report, rank) for report in reports]
            messages.append(Message(sum_content(request, copies), self._nodes.parties[party.name], kind))
        assert self._nodes.dealer is not None
        deal = RecordDict({SUM: ConfigRecord({"session": request.session})})
        messages.append(Message(deal, self._nodes.dealer, f"query.{DEAL}"))
        names[self._nodes.dealer] = "the dealer"
        results: dict[str, SumResult] = {}
        problems: dict[str, str] = {}
        retry = True
        for reply in self._exchange(grid, messages, SESSION_SECONDS):
            name = names[reply.metadata.src_node_id]
            if reply.has_error():
                problems[name] = failure_reason(reply)
            elif refusal := read_refusal(reply.content):
                problems[name] = refusal[1]
                retry = retry and refusal[0] in _RETRIED
            elif name in self._nodes.parties:
                results[name] = read_opened(reply.content)
        for name in self._nodes.parties:
            if name not in results:
                problems.setdefault(name, f"no answer within {SESSION_SECONDS:g} s")
        if len(results) < len(self._nodes.parties):
            words = "; ".join(f"{name}: {reason}" for name, reason in sorted(problems.items()))
            if retry:
                raise RoundAborted(words)
            raise UserError(f"round {request.round}: the {PARTY}s opened no sum ({words})")
        return _same(list(results.values()), request.round)


def _same(results: list[SumResult], number: int) -> SumResult:
    """Return the parties' one result, with the seconds and bytes of the slowest."""
    first = results[0]
    for other in results[1:]:
        same = other.sites == first.sites and other.excluded == first.excluded
        if not same or not np.array_equal(other.total, first.total):
            raise UserError(f"round {number}: the parties opened different sums; one of them is not to be trusted")
    return max(results, key=lambda result: result.seconds)


def _site_line(name: str, answer: SealedAnswer | None) -> dict[str, object]:
    line: dict[str, object] = {"site": name, "bytes_up": None if answer is None else answer.bytes}
    if answer is not None and answer.shared is not None:
        shared = answer.shared
        line |= {"images": shared.images, "loss": shared.loss, "accuracy": shared.accuracy}
        line["seconds"] = round(shared.seconds, 3)
    return line

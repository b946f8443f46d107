"""Secure aggregation at the coordinator: a blind relay between sites and compute parties.

It sees headers, sizes and who answered; it passes each party its sealed share of every report, and gets back
the sum over a set of sites, or the reason why there is none.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from nescient_fl.errors import UserError
from nescient_fl.lesion.network import Weights, weights_sha256
from nescient_fl.messages import RoundOrder, order_json, payload_bytes
from nescient_fl.mpc.envelope import ReportHeader, SealedReport, copy_for
from nescient_fl.mpc.errors import MpcError, SetMismatchError
from nescient_fl.mpc.roster import Roster
from nescient_fl.mpc.sums import BEYOND_BOUND, SumRequest, SumResult
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
from strategies.answers import BudgetSpent, RoundAborted, RoundResult
from strategies.averaging import moved_by
from strategies.exchange import Exchanger, Nodes, Patience, failure_reason

if TYPE_CHECKING:
    from nescient_fl.mpc.privacy import PrivacyLedger  # takes a second to import, and only noise needs it

SESSION_SECONDS = 28.0
"""How long the coordinator waits for the parties; they themselves give up, and say why, within 20 s."""
GRACE_SECONDS = 6.0
"""How long, once one of them has a sum or cannot go on, it waits for the others, which are as far by then."""

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
        """Have the parties open the sum. Raises UserError, BudgetSpent, or RoundAborted when a retry may help."""
        plan = self._plan
        request = SumRequest(
            run=plan.run,
            round=order.round,
            model=weights_sha256(weights),
            order=order_json(order).encode(),
            terms=plan.terms(weights, order.train),
            session=os.urandom(32).hex(),
        )
        self._pay(request.model)
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
                *({"site": name, "reason": BEYOND_BOUND} for name in result.excluded),
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

    def _pay(self, model: str) -> None:
        """Charge the privacy ledger for the sum over one model, once, however often it is asked for."""
        if self._plan.ledger is None:
            return
        from nescient_fl.mpc import privacy

        try:
            self._plan.ledger.charge(model)
        except privacy.BudgetSpent as error:
            raise BudgetSpent(str(error)) from None

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
        names[self._nodes.dealer] = self._plan.roster.dealer.name
        heard = _Heard(tuple(names.values()), self._plan.roster.dealer.name)
        patience = Patience(SESSION_SECONDS)
        for reply in self._exchange(grid, messages, patience):
            heard.take(names[reply.metadata.src_node_id], reply, request, self._plan.roster)
            if len(heard.results) == len(self._nodes.parties):
                return _same(heard.results, request.round)
            if heard.problems or heard.results:
                patience.shorten(GRACE_SECONDS)
        raise heard.failure(request.round)


@dataclass
class _Heard:
    """What parties and dealer said about one sum: results, or why there is none and who was lost."""

    names: tuple[str, ...]
    dealer: str
    results: dict[str, SumResult] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    silent: set[str] = field(init=False)
    final: bool = False

    def __post_init__(self) -> None:
        self.silent = set(self.names)

    def take(self, name: str, reply: Message, request: SumRequest, roster: Roster) -> None:
        """Hear one answer."""
        self.silent.discard(name)
        if reply.has_error():
            self.problems[name] = failure_reason(reply)
            self.lost.add(name)
            return
        try:
            if refusal := read_refusal(reply.content):
                kind, self.problems[name], lost = refusal
                self.final = self.final or kind not in _RETRIED
                if lost in self.names:
                    self.lost.add(lost)
            elif name != self.dealer:
                self.results[name] = _checked(read_opened(reply.content), request, roster)
        except (KeyError, TypeError, ValueError) as error:
            self.problems[name] = f"its answer cannot be read ({error!r})"
            self.lost.add(name)

    def failure(self, number: int) -> UserError | RoundAborted:
        """Return why there is no sum: for good, or so that another attempt may help."""
        self.problems.update(dict.fromkeys(self.silent, "no answer"))
        self.lost |= self.silent - {self.dealer}
        if not self.lost:  # The dealer is silent for longest when it is a party that was lost.
            self.lost |= self.silent
        words = "; ".join(f"{name}: {reason}" for name, reason in sorted(self.problems.items()))
        if self.final:
            return UserError(f"round {number}: the parties opened no sum ({words})")
        return RoundAborted(f"lost {' and '.join(sorted(self.lost))} ({words})" if self.lost else words)


def _checked(result: SumResult, request: SumRequest, roster: Roster) -> SumResult:
    """Return a party's result if it can be one of this request. Raises ValueError."""
    if result.total.shape != (request.terms.dimension,):
        raise ValueError(f"a sum of {result.total.size} words, not {request.terms.dimension}")
    if not {*result.sites, *result.excluded} <= {site.name for site in roster.sites}:
        raise ValueError("a sum over sites that the roster has not")
    return result


def _same(results: Mapping[str, SumResult], number: int) -> SumResult:
    """Return the parties' one result, with the seconds and bytes of the slowest, and everybody's reasons."""
    (first, *others) = results.values()
    for other in others:
        same = other.sites == first.sites and other.excluded == first.excluded
        if not same or not np.array_equal(other.total, first.total):
            raise UserError(f"round {number}: the parties opened different sums; one of them is not to be trusted")
    refused: dict[str, str] = {}
    for result in results.values():
        for site, reason in result.refused.items():
            # That another party did not take a report says less than that party's reason.
            if site not in refused or refused[site].startswith(SetMismatchError.__name__):
                refused[site] = reason
    return replace(max(results.values(), key=lambda result: result.seconds), refused=refused)


def _site_line(name: str, answer: SealedAnswer | None) -> dict[str, object]:
    line: dict[str, object] = {"site": name, "bytes_up": None if answer is None else answer.bytes}
    if answer is not None and answer.shared is not None:
        shared = answer.shared
        line |= {"images": shared.images, "loss": shared.loss, "accuracy": shared.accuracy}
        line["seconds"] = round(shared.seconds, 3)
    return line

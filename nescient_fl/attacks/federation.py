"""A secure federation in one process, with everything that its relay and its parties see kept for an attacker.

Keys, sealing, signatures, sessions (TLS over Unix sockets), the dealer and the parties' memories are the ones that
a study uses; only Flower's transport is left out, and the relay is whatever an attack makes of it.
"""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from nescient_fl.errors import UserError
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.lesion.network import Weights, weights_sha256
from nescient_fl.messages import RoundOrder, SiteReport, order_content, order_json
from nescient_fl.mpc.dealer import serve_session
from nescient_fl.mpc.envelope import PartyCopy, SealedReport, copy_for
from nescient_fl.mpc.errors import MpcError, SessionAborted
from nescient_fl.mpc.material import MaterialRequest
from nescient_fl.mpc.party import aggregate
from nescient_fl.mpc.session import Session
from nescient_fl.mpc.sums import SumRequest, SumResult
from nescient_fl.mpc.terms import Terms
from nescient_fl.mpc.vault import create_vault
from nescient_fl.sealed_messages import (
    SUM,
    SecureOrder,
    opened_content,
    read_secure_order,
    read_sum,
    refusal_content,
    sealed_content,
)
from sites.sealing import Answer, SitePolicy, check_order, seal_answer
from strategies.answers import RoundResult
from strategies.exchange import Nodes, Patience
from strategies.secure import SecureAggregation, SecurePlan

_RELAY = 1
_PARTY_SECONDS = 60.0
"""A session's limits here: an attack may run on a busy machine, and no time limit is under test."""


@dataclass(frozen=True)
class Passing:
    """One message that the relay handled: from whom, to whom, what."""

    sender: str
    receiver: str
    content: RecordDict

    @property
    def wire(self) -> bytes:
        """The content as Flower serialises it."""
        serialised: bytes = recorddict_to_proto(self.content).SerializeToString()
        return serialised


@dataclass
class PartyView:
    """What one party saw of one sum: the relay's question, its peers' messages, the dealer's material, the sum."""

    copies: Sequence[PartyCopy]
    heard: list[bytes] = field(default_factory=list)
    material: bytes = b""
    result: SumResult | None = None
    refusal: MpcError | None = None


class _Overheard:
    """A session that notes for its party what it heard."""

    def __init__(self, session: Session, view: PartyView) -> None:
        self._session, self._view = session, view
        self.rank, self.parties = session.rank, session.parties

    def exchange(self, payload: bytes) -> list[bytes]:
        answers = self._session.exchange(payload)
        self._view.heard += [answer for rank, answer in enumerate(answers) if rank != self.rank]
        return answers

    def material(self, request: MaterialRequest) -> bytes:
        self._view.material = self._session.material(request)
        return self._view.material

    @property
    def bytes_sent(self) -> int:
        return self._session.bytes_sent


class Federation:
    """Sites, parties and dealer of one study.

    Attributes:
        plan: the coordinator's part of the secure study.
        passed: every message that the relay handled in ``take_round``, in order.
    """

    def __init__(
        self,
        folder: Path,
        sites: int = 5,
        parties: int = 2,
        minimum: int | None = None,
        clip: float = 8.0,
        weight_max: int = 512,
        noise_multiplier: float = 0.0,
    ) -> None:
        self.sites = [f"site-{number:02d}" for number in range(1, sites + 1)]
        minimum = max(3, -(-4 * sites // 5)) if minimum is None else minimum
        self.vault = create_vault(folder / "vault", "audit", self.sites, parties, minimum)
        self.roster = self.vault.roster()
        self.parties = [party.name for party in self.roster.parties]
        self.plan = SecurePlan(
            run=uuid.uuid4().hex,
            roster=self.roster,
            clip=clip,
            weight_max=weight_max,
            minimum=minimum,
            noise_multiplier=noise_multiplier,
        )
        self._policies = {name: SitePolicy(self.vault.keys(name), self.roster, minimum) for name in self.sites}
        self.passed: list[Passing] = []

    def secure_order(self, order: RoundOrder, weights: Weights) -> SecureOrder:
        """Return what an honest coordinator tells the sites beside the order."""
        return SecureOrder(self.plan.run, self.roster.digest, self.plan.terms(weights, order.train))

    def seal(self, answer: Answer, order: RoundOrder, weights: Weights, terms: Terms | None = None) -> SealedReport:
        """Seal one site's answer, named in its report, as that site does; ``terms`` are what the relay tells it."""
        secure = self.secure_order(order, weights)
        secure = secure if terms is None else replace(secure, terms=terms)
        policy = self._policies[answer.report.site]
        check_order(secure, policy)
        return seal_answer(answer, order, order_json(order).encode(), weights, secure, policy)

    def request(self, order: RoundOrder, weights: Weights, **changes: Any) -> SumRequest:
        """Return what the relay asks the parties: an honest question, but for ``changes``."""
        request = SumRequest(
            run=self.plan.run,
            round=order.round,
            model=weights_sha256(weights),
            order=order_json(order).encode(),
            terms=self.plan.terms(weights, order.train),
            session=os.urandom(32).hex(),
        )
        return replace(request, **changes)

    def ask(self, request: SumRequest, copies: Sequence[Sequence[PartyCopy]]) -> list[PartyView]:
        """Ask every party, by rank, for the sum of what the relay gives it. Returns what each saw and answered.

        Raises UserError when they could not even meet.
        """
        session_id = bytes.fromhex(request.session)
        views = [PartyView(given) for given in copies]

        def party(rank: int) -> None:
            view, name = views[rank], self.parties[rank]

            @contextmanager
            def session() -> Iterator[_Overheard]:
                keys = self.vault.keys(name)
                with Session(keys, self.roster, session_id, _PARTY_SECONDS, _PARTY_SECONDS) as opened:
                    yield _Overheard(opened, view)

            try:
                # The store is opened anew each time, as by a party that was restarted.
                with self.vault.store(name) as store:
                    view.result = aggregate(request, view.copies, self.vault.keys(name), self.roster, store, session)
            except MpcError as error:
                view.refusal = error

        def dealer() -> None:
            with suppress(MpcError):  # the parties say why
                serve_session(self.vault.keys("dealer"), self.roster, session_id, _PARTY_SECONDS, _PARTY_SECONDS)

        with ThreadPoolExecutor(len(views) + 1) as pool:
            tasks = [pool.submit(dealer), *(pool.submit(party, rank) for rank in range(len(views)))]
        for task in tasks:
            task.result()
        reasons = [view.refusal for view in views]
        if all(isinstance(reason, SessionAborted) for reason in reasons):
            # Nobody refused: nobody was asked. An attack must not count that as a defence.
            raise UserError(f"the audit's own parties did not meet: {reasons[0]}")
        return views

    def ask_alike(self, request: SumRequest, reports: Sequence[SealedReport]) -> list[PartyView]:
        """Give every party its copy of the same reports."""
        return self.ask(request, [[copy_for(report, rank) for report in reports] for rank in range(len(self.parties))])

    def take_round(self, order: RoundOrder, weights: Weights, answers: Mapping[str, Answer]) -> RoundResult:
        """Run one whole round through the coordinator's own code; ``passed`` keeps what the relay handled."""
        names = [*self.sites, *self.parties, "dealer"]
        numbers = {name: 100 + index for index, name in enumerate(names)}
        nodes = Nodes(
            {name: numbers[name] for name in self.sites},
            {name: numbers[name] for name in self.parties},
            numbers["dealer"],
        )

        def exchange(grid: Grid, messages: Iterable[Message], patience: Patience) -> list[Message]:  # noqa: ARG001
            by_name = {names[message.metadata.dst_node_id - 100]: message for message in messages}
            self.passed += [Passing("relay", name, message.content) for name, message in by_name.items()]
            contents = self._answer_question({name: message.content for name, message in by_name.items()})
            self.passed += [Passing(name, "relay", content) for name, content in contents.items()]
            return [Message(content, reply_to=by_name[name]) for name, content in contents.items()]

        with _as_coordinator():
            aggregation = SecureAggregation(self.plan, nodes, exchange)
            sealed = {}
            for name, answer in answers.items():
                content = aggregation.extend(order_content(order, weights), order.train, weights)
                asked = Message(content, numbers[name], "train")
                secure = read_secure_order(content)
                assert secure is not None
                reply = Message(sealed_content(self.seal(answer, order, weights), None), reply_to=asked)
                self.passed += [Passing("relay", name, content), Passing(name, "relay", reply.content)]
                found = aggregation.read(reply, name)
                assert not isinstance(found, str), found
                sealed[name] = found
            return aggregation.combine(cast(Grid, None), order, weights, sealed)

    def _answer_question(self, contents: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
        """Answer what the coordinator asked the parties and the dealer, as their nodes do."""
        questions = [read_sum(contents[name]) for name in self.parties]
        assert str(contents["dealer"].config_records[SUM]["session"]) == questions[0][0].session
        views = self.ask(questions[0][0], [copies for _, copies in questions])
        answers = {"dealer": RecordDict()}
        for name, view in zip(self.parties, views, strict=True):
            if view.result is not None:
                answers[name] = opened_content(view.result)
            else:
                answers[name] = refusal_content(type(view.refusal).__name__, str(view.refusal), None)
        return answers

    def opened_anything(self, model: str) -> bool:
        """Say whether any party committed to or opened a sum over a global model."""
        found = False
        for name in self.parties:
            with self.vault.store(name) as store:
                found = found or store.sum_for(model) is not None
        return found

    def close(self) -> None:
        """Delete the keys."""
        self.vault.remove()


def answer_of(site: str, update: Weights | None, images: int, counts: ScoreCounts | None = None) -> Answer:
    """Return a site's answer in clear for an update."""
    return Answer(SiteReport(site, images, 0.693, 0.5, 0.1), counts or ScoreCounts.empty(), update)


@contextmanager
def _as_coordinator() -> Iterator[None]:
    """Be the sender of Flower's messages: without a SuperLink nobody else says who that is."""
    names = ("_task_id", "_run_id", "_node_id")
    before = [getattr(TaskIdentity, name) for name in names]
    for name in names:
        setattr(TaskIdentity, name, _RELAY)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(TaskIdentity, name, value)

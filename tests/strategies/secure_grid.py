"""A whole secure federation in one process: toy sites that seal, real parties that meet in memory, a relay's grid."""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Error, Message, RecordDict

from nescient_fl.lesion.network import Weights
from nescient_fl.messages import DEALER, ORDER, PARTY, RoundOrder, node_content
from nescient_fl.mpc.envelope import SealedReport
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.party import aggregate
from nescient_fl.mpc.randomness import fresh_seed
from nescient_fl.mpc.vault import Vault, create_vault
from nescient_fl.sealed_messages import (
    opened_content,
    read_secure_order,
    read_sum,
    refusal_content,
    sealed_content,
)
from sites.sealing import Answer, SitePolicy, check_order, seal_answer
from strategies.secure import SecurePlan
from tests.mpc.federation_in_memory import Dealt
from tests.mpc.in_memory import InMemoryExchange, run_parties
from tests.strategies.fake_grid import FakeGrid, ToySite

NAMES = ("a-1", "b-1", "c-1", "d-1")
CLIP, WEIGHT_MAX = 8.0, 64


@dataclass
class SealingSite(ToySite):
    """Seals what a toy site makes; ``sealed`` keeps every report that left it, ``changed`` may alter its answer."""

    policy: SitePolicy | None = None
    sealed: list[SealedReport] = field(default_factory=list)
    changed: Callable[[Answer], Answer] = lambda answer: answer
    tampered: Callable[[SealedReport], SealedReport] = lambda report: report

    def worked(self, order: RoundOrder, weights: Weights, content: RecordDict) -> RecordDict:
        secure = read_secure_order(content)
        assert secure is not None
        assert self.policy is not None
        check_order(secure, self.policy)
        order_bytes = str(content.config_records[ORDER]["json"]).encode()
        answer = self.changed(Answer(*self.parts(order, weights)))
        report = self.tampered(seal_answer(answer, order, order_bytes, weights, secure, self.policy))
        self.sealed.append(report)
        return sealed_content(report, None)


@dataclass
class HelperNode:
    """A party or the dealer: says who it is, and what the grid prepared for it to say."""

    name: str
    role: str
    prepared: RecordDict | Error | None = None

    def answer(self, content: RecordDict) -> RecordDict | Error | None:
        if not content:
            return node_content(self.name, self.role)
        return self.prepared


Spoil = Callable[[str, int, RecordDict], RecordDict | Error | None]


class SecureGrid(FakeGrid):
    """Sites, parties and dealer behind one grid.

    ``spoil`` is shown a party's name, the number of the sum that was asked for and the answer, and may put another
    in its place; ``sums`` counts the sums asked for.
    """

    def __init__(self, sites: Iterable[SealingSite], vault: Vault, seed: int = 0) -> None:
        self.vault, self.roster = vault, vault.roster()
        self.helpers = {party.name: HelperNode(party.name, PARTY) for party in self.roster.parties}
        self.helpers["dealer"] = HelperNode("dealer", DEALER, RecordDict())
        super().__init__([*sites, *self.helpers.values()], seed)  # type: ignore[list-item]
        self.spoil: Spoil = lambda _name, _number, content: content
        self.sums = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        given = list(messages)
        nodes = {id(message): self.sites[message.metadata.dst_node_id] for message in given}
        asked = {node.name: m.content for m in given if (node := nodes[id(m)]).name in self.helpers and m.content}
        asked.pop("dealer", None)
        if asked:
            self.sums += 1
            for name, content in self._opened(asked).items():
                self.helpers[name].prepared = self.spoil(name, self.sums, content)
        return super().push_messages(given)

    def _opened(self, asked: dict[str, RecordDict]) -> dict[str, RecordDict]:
        seed = fresh_seed()

        def party(end: InMemoryExchange) -> RecordDict:
            name = self.roster.parties[end.rank].name

            @contextmanager
            def session() -> Any:
                yield Dealt(end, seed)

            try:
                request, copies = read_sum(asked[name])
                with self.vault.store(name) as store:
                    return opened_content(
                        aggregate(request, copies, self.vault.keys(name), self.roster, store, session)
                    )
            except MpcError as error:
                end.leave()
                return refusal_content(type(error).__name__, str(error), None)
            except threading.BrokenBarrierError:
                return refusal_content("SessionAborted", "the other party gave up", None)

        names = [party.name for party in self.roster.parties]
        return dict(zip(names, run_parties(len(names), party), strict=True))


@dataclass
class SecureFederation:
    """Keys for a few sites, K parties and a dealer, and the plan that a coordinator has of them."""

    vault: Vault
    names: tuple[str, ...]
    minimum: int

    @classmethod
    def create(
        cls, folder: Path, names: Sequence[str] = NAMES[:3], parties: int = 2, minimum: int = 3
    ) -> "SecureFederation":
        return cls(create_vault(folder / "vault", "test", names, parties, minimum), tuple(names), minimum)

    def plan(self, **changes: Any) -> SecurePlan:
        given = {"run": "run", "clip": CLIP, "weight_max": WEIGHT_MAX, "minimum": self.minimum, **changes}
        return SecurePlan(roster=self.vault.roster(), **given)

    def sites(self, **changes: dict[str, Any]) -> list[SealingSite]:
        """Sites with 10, 20, ... images; ``changes`` are by a site's letter."""
        return [
            SealingSite(
                name,
                images=10 * place,
                policy=SitePolicy(self.vault.keys(name), self.vault.roster(), self.minimum),
                **{"scale": 0.1, **changes.get(name[0], {})},
            )
            for place, name in enumerate(self.names, 1)
        ]

    def grid(self, sites: Iterable[SealingSite] | None = None, seed: int = 0) -> SecureGrid:
        return SecureGrid(self.sites() if sites is None else sites, self.vault, seed)

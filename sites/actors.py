"""What stands behind a node: a site, a compute party or the dealer at work.

An actor hears a message's kind and content and returns the content of its answer. In a simulation the Flower app
calls it directly; in a deployment it lives in a long-lived worker behind a Unix socket. It is the same object.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from flwr.app import RecordDict

from nescient_fl.actions import DEAL_OUT, DEALER, PARTY, QUERY, SITE, SUM_UP, TRAIN
from nescient_fl.errors import UserError
from nescient_fl.lesion.network import Weights
from nescient_fl.messages import ORDER, RoundOrder, node_content, read_order, report_content
from nescient_fl.mpc.keys import MemberKeys
from nescient_fl.mpc.party_store import PartyStore
from nescient_fl.mpc.roster import Roster
from nescient_fl.sealed_messages import SecureOrder, SharedMetrics, read_secure_order, sealed_content
from sites.sealing import Answer, SitePolicy, check_order, seal_answer
from sites.site import Site
from sites.transcript import record_departure


class Actor(Protocol):
    """One node's work."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> str: ...

    def handle(self, kind: str, content: RecordDict) -> RecordDict:
        """Answer a message of Flower's type ``kind``. Raises UserError for a kind that is not this role's."""
        ...


class SiteActor:
    """A hospital: trains on its own images, seals what leaves, and keeps a record of it.

    ``policy`` is what it decides about secure sums; None when the federation sends updates in clear.
    """

    role = SITE

    def __init__(self, site: Site, transcript: Path, policy: SitePolicy | None) -> None:
        self._site = site
        self._transcript = transcript
        self._policy = policy
        self.name = site.data.name

    def handle(self, kind: str, content: RecordDict) -> RecordDict:
        if kind == QUERY:
            answer = node_content(self.name, self.role)
            record_departure(self._transcript, self.name, None, answer)
            return answer
        if kind != TRAIN:
            raise UserError(f"a site does not answer {kind!r}")
        order, weights = read_order(content)
        secure = read_secure_order(content)
        seconds = None
        if secure is None:
            found = self._site.answer(order, weights)
            answer = report_content(*found)
        else:
            answer, seconds = self._sealed(order, weights, content, secure)
        record_departure(self._transcript, self.name, order, answer, seconds)
        return answer

    def _sealed(
        self, order: RoundOrder, weights: Weights, content: RecordDict, secure: SecureOrder
    ) -> tuple[RecordDict, float]:
        """Return the site's sealed answer, and the seconds that clipping, sharing, sealing and signing took."""
        if self._policy is None:
            raise UserError(f"{self.name} has no keys: it takes part in sums in clear only")
        check_order(secure, self._policy)
        answer = Answer(*self._site.answer(order, weights))
        started = time.perf_counter()
        order_bytes = str(content.config_records[ORDER]["json"]).encode()
        report = seal_answer(answer, order, order_bytes, weights, secure, self._policy)
        seconds = time.perf_counter() - started
        return sealed_content(report, _shared(answer) if self._policy.share_metrics else None), seconds


class PartyActor:
    """A compute party. Its memory is opened for each sum, so that it may lie where several processes take turns."""

    role = PARTY

    def __init__(
        self, keys: MemberKeys, roster: Roster, open_store: Callable[[], AbstractContextManager[PartyStore]]
    ) -> None:
        self._keys = keys
        self._roster = roster
        self._open_store = open_store
        self.name = keys.name

    def handle(self, kind: str, content: RecordDict) -> RecordDict:
        if kind == QUERY:
            return node_content(self.name, self.role)
        if kind != SUM_UP:
            raise UserError(f"a party does not answer {kind!r}")
        # Only parties need CrypTen, which takes a second to import.
        from sites.parties import open_sum

        torch.set_num_threads(1)
        try:
            with self._open_store() as store:
                return open_sum(content, self._keys, self._roster, store)
        except sqlite3.OperationalError as error:
            raise UserError(f"its memory of sums cannot be used ({error})") from None


class DealerActor:
    """The dealer of correlated randomness."""

    role = DEALER

    def __init__(self, keys: MemberKeys, roster: Roster) -> None:
        self._keys = keys
        self._roster = roster
        self.name = keys.name

    def handle(self, kind: str, content: RecordDict) -> RecordDict:
        if kind == QUERY:
            return node_content(self.name, self.role)
        if kind != DEAL_OUT:
            raise UserError(f"the dealer does not answer {kind!r}")
        from sites.parties import deal

        return deal(content, self._keys, self._roster)


def _shared(answer: Answer) -> SharedMetrics:
    counts, report = answer.counts, answer.report
    return SharedMetrics(
        site=report.site,
        images=report.images,
        loss=report.loss,
        accuracy=report.accuracy,
        validation={
            "images": counts.images,
            "loss": counts.loss,
            "auroc": counts.auroc,
            "recall": counts.recall(0.5),
        },
        seconds=report.seconds,
    )

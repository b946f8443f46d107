"""However the steps of several sessions over one model mix at the parties, one sum at most gets all its shares out."""

import random
import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest

from nescient_fl.mpc import party, party_store
from nescient_fl.mpc.errors import MpcError
from nescient_fl.mpc.party_store import PartyStore, StoredSum


class Session:
    """One session at all parties; each party's part is a generator that stops before every step and at every wait."""

    def __init__(self, name: str, stores: list[PartyStore], out: dict[tuple[str, ...], set[int]]) -> None:
        self._name, self._stores, self._out = name, stores, out
        self._said: dict[str, dict[int, object]] = {"memories": {}, "committed": {}}
        self.parts = {rank: self._part(rank) for rank in range(len(stores))}

    def _all_said(self, word: str) -> bool:
        return len(self._said[word]) == len(self._stores)

    def _part(self, rank: int) -> Iterator[None]:
        store = self._stores[rank]
        mine = store.sum_for("m")
        self._said["memories"][rank] = None if mine is None else party._Held.of(mine)
        while not self._all_said("memories"):
            yield
        yield
        states = [self._said["memories"][other] for other in range(len(self._stores))]
        found = party._settled(mine, states, "terms", store)  # type: ignore[arg-type]
        yield
        if found is None:
            # Its own set of reports, so that two sessions' sums must never both come out.
            found = StoredSum("m", "terms", self._name, f"reports {self._name}", ("a", "b"), (), np.zeros(1, np.int64))
            store.commit(found)
            yield
            self._said["committed"][rank] = True
            while not self._all_said("committed"):
                yield
        yield
        store.release(found)
        yield
        self._out.setdefault((found.session, found.reports), set()).add(rank)
        yield
        store.opened(found, np.ones(1, np.int64))


def memory() -> PartyStore:
    """Return a party's store that lives in main memory: thousands are made."""
    store = PartyStore.__new__(PartyStore)
    store._database = sqlite3.connect(":memory:", isolation_level=None)
    store._database.executescript(party_store._SCHEMA)
    store._kept_sums = party_store.KEPT_SUMS
    return store


def take_turns(parts: list[Iterator[None]], draw: random.Random, stop: float) -> None:
    """Let the parts go on in bursts, in an order that is drawn, until none can; each may be stopped for good."""
    patience = {id(part): 30 for part in parts}
    while parts:
        part = draw.choice(parts)
        for _ in range(draw.randint(1, 6)):
            patience[id(part)] -= 1
            try:
                next(part)
            except (MpcError, StopIteration):
                patience[id(part)] = 0
                break
        # One that waits for a party that is gone hangs, until its session is given up.
        if patience[id(part)] <= 0 or draw.random() < stop:
            parts.remove(part)


@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize("stop", [0.0, 0.1], ids=["nobody stops", "some stop"])
def test_no_interleaving_lets_two_sums_of_one_model_out(parties: int, stop: float) -> None:
    opened = 0
    for number in range(1000):
        draw = random.Random(number)
        stores = [memory() for _ in range(parties)]
        out: dict[tuple[str, ...], set[int]] = {}
        sessions = [Session(f"{place}", stores, out) for place in range(draw.randint(2, 4))]
        take_turns([part for session in sessions for part in session.parts.values()], draw, stop)
        complete = [key for key, ranks in out.items() if len(ranks) == parties]
        # Whatever became of these, a session that nobody disturbs opens what came out, or nothing else.
        take_turns(list(Session("last", stores, out).parts.values()), draw, 0.0)
        after = [key for key, ranks in out.items() if len(ranks) == parties]
        assert len(after) <= 1, number
        assert set(complete) <= set(after), number
        opened += len(complete)
        for store in stores:
            store._database.close()
    assert opened > 50

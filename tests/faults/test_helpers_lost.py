"""Parties and the dealer, as real processes over TLS, killed or stalled at every step of a sum.

The sum is opened or the session ends, naming who was lost; the next attempt opens one sum; no model has two.
"""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.faults.actors import Halt
from tests.faults.cluster import Attempt, Cluster
from tests.mpc.federation_in_memory import vector_of

TIMES = {"timeout": 3.0, "deadline": 9.0}
"""Shorter than the product's, in which every test of a stall would take its ten seconds."""

BEFORE_COMMITMENT = [
    Halt("session", after=False),
    Halt("session"),
    Halt("memories"),
    Halt("reports"),
    Halt("signatures"),
    Halt("remember"),
    Halt("material"),
    Halt("norm check"),
    Halt("norm check", 4),
    Halt("commit", after=False),
]
AFTER_COMMITMENT = [Halt("commit"), Halt("committed"), Halt("release")]
AFTER_OPENING = [Halt("opening"), Halt("opened"), Halt("answer", after=False)]
DEALER = [
    Halt("session", after=False),
    Halt("accept"),
    Halt("accept", 2),
    Halt("requests"),
    Halt("deal"),
    Halt("part"),
]
"""After its second part the dealer has done all that is asked of it."""


def stalled(halt: Halt) -> Halt:
    return replace(halt, how=signal.SIGSTOP)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
def attempts() -> Iterator[list[Attempt]]:
    begun: list[Attempt] = []
    yield begun
    for attempt in begun:
        attempt.end()


def total_of(*numbers: int) -> bytes:
    return np.sum([vector_of(number) for number in numbers], axis=0).astype(np.int64).tobytes()


FIRST, SECOND = (0, 1, 2, 3, 4), (0, 1, 2, 3)


def lose_and_retry(cluster: Cluster, attempts: list[Attempt], name: str, halt: Halt) -> tuple[Attempt, Attempt]:
    """Have one actor stop in a first attempt; then all of them try again, with fresh reports of fewer sites."""
    request = cluster.request()
    first = cluster.attempt(request, cluster.reports(request, FIRST), halts={name: halt}, times=TIMES)
    attempts.append(first)
    first.end()
    again = replace(request, session="ab" * 32)
    second = cluster.attempt(again, cluster.reports(again, SECOND))
    attempts.append(second)
    assert second.refusals == {}
    assert set(second.sums) == {party.name for party in cluster.roster.parties}
    sums = [*first.sums.values(), *second.sums.values()]
    assert len({result.total.tobytes() for result in sums}) == 1, "two sums of one model were opened"
    assert len({result.sites for result in sums}) == 1
    for stored in cluster.stored(request.model):
        assert stored is not None
        assert stored.released
        assert stored.opened is not None
        assert stored.opened.tobytes() == sums[0].total.tobytes()
        assert stored.sites == sums[0].sites
    assert len({stored.reports for stored in cluster.stored(request.model) if stored}) == 1
    return first, second


def opened_anew(second: Attempt) -> None:
    for result in second.sums.values():
        assert not result.stored
        assert result.total.tobytes() == total_of(*SECOND)


def opened_as_committed(second: Attempt) -> None:
    for result in second.sums.values():
        assert result.stored
        assert result.total.tobytes() == total_of(*FIRST)


LOST_PARTIES = [
    *(("party-2", halt) for halt in BEFORE_COMMITMENT),
    ("party-1", Halt("session", after=False)),
    ("party-1", Halt("signatures")),
    ("party-1", Halt("commit", after=False)),
]


@pytest.mark.parametrize(("name", "halt"), LOST_PARTIES, ids=str)
def test_a_party_killed_before_its_commitment(cluster: Cluster, attempts: list[Attempt], name: str, halt: Halt) -> None:
    first, second = lose_and_retry(cluster, attempts, name, halt)
    assert first.sums == {}
    assert set(first.refusals) == {*cluster.helpers} - {name, *({"dealer"} - set(first.refusals))}
    assert first.lost == {name}, first.refusals
    opened_anew(second)


@pytest.mark.parametrize(
    ("name", "halt"),
    [*(("party-2", halt) for halt in AFTER_COMMITMENT), ("party-1", Halt("commit"))],
    ids=str,
)
def test_a_party_killed_between_commitment_and_opening(
    cluster: Cluster, attempts: list[Attempt], name: str, halt: Halt
) -> None:
    first, second = lose_and_retry(cluster, attempts, name, halt)
    assert first.sums == {}
    assert first.lost == {name}, first.refusals
    opened_as_committed(second)


@pytest.mark.parametrize("halt", AFTER_OPENING, ids=str)
def test_a_party_killed_once_its_share_is_out(cluster: Cluster, attempts: list[Attempt], halt: Halt) -> None:
    first, second = lose_and_retry(cluster, attempts, "party-2", halt)
    # The other party has all it needs.
    assert set(first.sums) == {"party-1"}
    opened_as_committed(second)


@pytest.mark.parametrize("halt", DEALER, ids=str)
def test_a_dealer_that_is_killed(cluster: Cluster, attempts: list[Attempt], halt: Halt) -> None:
    first, second = lose_and_retry(cluster, attempts, "dealer", halt)
    assert first.sums == {}
    assert set(first.refusals) == {"party-1", "party-2"}
    assert first.lost == {"dealer"}, first.refusals
    opened_anew(second)


def test_a_dealer_killed_after_its_last_part_is_not_missed(cluster: Cluster, attempts: list[Attempt]) -> None:
    first, second = lose_and_retry(cluster, attempts, "dealer", Halt("part", 2))
    assert set(first.sums) == {"party-1", "party-2"}
    assert first.refusals == {}
    opened_as_committed(second)


STALLED_PARTIES = [*LOST_PARTIES, *(("party-2", halt) for halt in AFTER_COMMITMENT)]


@pytest.mark.slow
def test_stalled_parties_and_dealers_are_named_in_time(tmp_path: Path, attempts: list[Attempt]) -> None:
    """All at once, each in a federation of its own: a stall takes as long as the others' patience."""
    cases = [*STALLED_PARTIES, *(("dealer", halt) for halt in DEALER)]
    for start in range(0, len(cases), 5):
        begun = []
        for place, (name, halt) in enumerate(cases[start : start + 5]):
            folder = tmp_path / f"{start}-{place}"
            folder.mkdir()
            cluster = Cluster(folder)
            request = cluster.request()
            reports = cluster.reports(request, FIRST)
            attempt = cluster.start(request, reports, halts={name: stalled(halt)}, times=TIMES)
            attempts.append(attempt)
            begun.append((cluster, request, attempt, name, halt))
        for cluster, request, attempt, name, halt in begun:
            where = f"{name} {stalled(halt)}"
            cluster.finish(attempt)
            assert attempt.sums == {}, where
            assert {party.name for party in cluster.roster.parties} - {name} <= set(attempt.refusals), where
            assert attempt.lost == {name}, (where, attempt.refusals)
            assert attempt.seconds < TIMES["deadline"] + 5, where
            for stored in cluster.stored(request.model):
                assert stored is None or stored.opened is None, where


LATE = [Halt("signatures"), Halt("commit", after=False), *AFTER_COMMITMENT]


@pytest.mark.parametrize("halt", [stalled(halt) for halt in LATE], ids=str)
def test_a_stalled_party_that_goes_on_late_spoils_nothing(
    cluster: Cluster, attempts: list[Attempt], halt: Halt
) -> None:
    """Another process of the party is at the next attempt already when the first one wakes up."""
    request = cluster.request()
    first = cluster.attempt(request, cluster.reports(request, FIRST), halts={"party-2": halt}, times=TIMES)
    attempts.append(first)
    again = replace(request, session="ab" * 32)
    second = cluster.start(again, cluster.reports(again, SECOND))
    attempts.append(second)
    first.actors["party-2"].resume()
    cluster.finish(second)
    late = first.actors["party-2"].answer()
    assert late is not None
    # The late one may have got in the way of the second attempt, by its commitment for instance; not of a third.
    third = cluster.attempt(replace(request, session="cd" * 32), cluster.reports(request, FIRST))
    attempts.append(third)
    assert set(third.sums) == {"party-1", "party-2"}, third.refusals
    sums = [*second.sums.values(), *third.sums.values()]
    assert len({result.total.tobytes() for result in sums}) == 1
    assert {result.sites for result in sums} <= {tuple(cluster.sites), tuple(cluster.sites[:4])}
    assert all(stored is not None and stored.opened is not None for stored in cluster.stored(request.model))


THREE = [
    ("party-1", Halt("memories")),
    ("party-2", Halt("session", after=False)),
    ("party-2", Halt("norm check")),
    ("party-2", Halt("commit")),
    ("party-3", Halt("session")),
    ("party-3", Halt("commit")),
    ("dealer", Halt("part", 2)),
]


@pytest.mark.parametrize(("name", "halt"), [*THREE, *((name, stalled(halt)) for name, halt in THREE[::2])], ids=str)
def test_of_three_parties_one_is_lost(tmp_path: Path, attempts: list[Attempt], name: str, halt: Halt) -> None:
    cluster = Cluster(tmp_path, parties=3)
    first, second = lose_and_retry(cluster, attempts, name, halt)
    assert first.sums == {}
    assert first.lost == {name}, first.refusals
    (opened_as_committed if halt.step == "commit" else opened_anew)(second)

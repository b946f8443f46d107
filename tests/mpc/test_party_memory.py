"""What a party's memory keeps it from: two sums of one model, whatever comes late, twice or from a broken party."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from nescient_fl.actions import SUM_UP
from nescient_fl.errors import UserError
from nescient_fl.mpc.envelope import SealedReport
from nescient_fl.mpc.errors import AlreadyOpenedError, MembershipError, QuorumError, SessionAborted
from nescient_fl.mpc.party_store import PartyStore, StoredSum
from nescient_fl.mpc.sums import SumRequest
from sites.actors import PartyActor
from tests.mpc.federation_in_memory import TERMS, Dealt, Federation, vector_of


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def reports_of(federation: Federation, request: SumRequest, numbers: list[int] | None = None) -> list[SealedReport]:
    chosen = range(len(federation.sites)) if numbers is None else numbers
    return [federation.report(federation.sites[number], vector_of(number), request) for number in chosen]


def total_of(*numbers: int) -> np.ndarray[Any, Any]:
    return np.sum([vector_of(number) for number in numbers], axis=0)


def entry(model: str = "m", session: str = "s", reports: str = "r", sites: tuple[str, ...] = ("a", "b")) -> StoredSum:
    return StoredSum(model, "binding", session, reports, sites, (), np.arange(4, dtype=np.int64))


@pytest.fixture
def store(tmp_path: Path) -> PartyStore:
    return PartyStore(tmp_path / "memory.sqlite")


def test_a_sum_is_committed_released_and_opened_and_each_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite"
    stages: list[Callable[[PartyStore], None]] = [
        lambda store: store.commit(entry()),
        lambda store: store.release(entry()),
        lambda store: store.opened(entry(), np.full(4, 7, np.int64)),
    ]
    seen = []
    for stage in stages:
        with PartyStore(path) as store:
            stage(store)
        with PartyStore(path) as store:
            found = store.sum_for("m")
            assert found is not None
            np.testing.assert_array_equal(found.share, np.arange(4))
            assert found.sites == ("a", "b")
            seen.append((found.released, found.opened is not None, store.last_opened() is not None))
    # Once the share may have left, others may have opened the sum: strict membership counts it from there on.
    assert seen == [(False, False, False), (True, False, True), (True, True, True)]


def test_a_second_commitment_for_a_model_is_refused(store: PartyStore) -> None:
    store.commit(entry())
    with pytest.raises(SessionAborted, match="another session committed"):
        store.commit(entry(session="late"))
    assert store.sum_for("m") is not None


def test_what_was_withdrawn_is_not_released_and_what_was_released_not_withdrawn(store: PartyStore) -> None:
    store.commit(entry())
    store.withdraw(entry())
    with pytest.raises(SessionAborted, match="meanwhile"):
        store.release(entry())
    store.commit(entry(session="next"))
    with pytest.raises(SessionAborted, match="meanwhile"):
        store.release(entry())
    with pytest.raises(SessionAborted, match="meanwhile"):
        store.withdraw(entry())
    store.release(entry(session="next"))
    with pytest.raises(SessionAborted, match="meanwhile"):
        store.withdraw(entry(session="next"))


def test_a_sum_that_was_not_released_is_not_noted_as_opened(store: PartyStore) -> None:
    store.commit(entry())
    with pytest.raises(SessionAborted):
        store.opened(entry(), np.zeros(4, np.int64))


def test_the_words_of_old_sums_go_and_that_they_were_opened_stays(tmp_path: Path) -> None:
    sizes = []
    with PartyStore(tmp_path / "memory.sqlite", kept_sums=2) as store:
        for number in range(12):
            large = replace(entry(f"m{number}"), share=np.full(50_000, number, np.int64))
            store.commit(large)
            store.release(large)
            store.opened(large, large.share)
            sizes.append((tmp_path / "memory.sqlite").stat().st_size)
        found = [store.sum_for(f"m{number}") for number in range(12)]
        assert [item is not None and item.kept for item in found] == [False] * 10 + [True] * 2
        assert all(item is not None and item.released and item.sites == ("a", "b") for item in found)
        for number in (10, 11):
            item = found[number]
            assert item is not None
            assert item.opened is not None
            np.testing.assert_array_equal(item.opened, np.full(50_000, number))
        # A second sum of a model that was let go of is still refused.
        with pytest.raises(SessionAborted, match="another session committed"):
            store.commit(entry("m0", session="late"))
        last = store.last_opened()
        assert last is not None
        assert last.model == "m11"
    # A sum is 0.4 MB twice: the file grows no more once two of them, and the one that comes, have their place.
    assert sizes[-1] - sizes[5] < 100_000


@pytest.mark.parametrize("forgetful", [(1,), (2,), (1, 2)])
def test_a_sum_that_one_party_can_tell_no_more_is_refused_by_all(
    federation: Federation, forgetful: tuple[int, ...]
) -> None:
    first = federation.request()
    federation.open(first, reports_of(federation, first))
    for number in forgetful:
        with federation.vault.store(f"party-{number}") as store:
            store._database.execute("UPDATE sums SET share = x'', opened = NULL")
    again = replace(first, session="ab" * 32)
    with pytest.raises(AlreadyOpenedError, match="newer copy of the run"):
        federation.open(again, reports_of(federation, again))


def halted_at(monkeypatch: pytest.MonkeyPatch, name: str, number: int, meanwhile: Callable[[], None]) -> None:
    """Have one party do something else before it goes on with a step of its memory."""
    original, done = getattr(PartyStore, name), []

    def late(self: PartyStore, *arguments: Any) -> Any:
        if f"party-{number}" in str(self._database.execute("PRAGMA database_list").fetchone()) and not done:
            done.append(True)
            meanwhile()
        return original(self, *arguments)

    monkeypatch.setattr(PartyStore, name, late)


@pytest.mark.parametrize("step", ["remember", "commit", "release"])
def test_a_party_that_comes_late_to_a_session_opens_no_second_sum(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A relay that asks again, for another set, while a party still stands in the first session."""
    first = federation.request()
    again = replace(first, session="ab" * 32)
    sums = []

    def retried() -> None:
        sums.extend(federation.open(again, reports_of(federation, again, [0, 1, 2])))

    halted_at(monkeypatch, step, 2, retried)
    if step == "remember":
        # Nothing was committed: the second session opened its sum, and the first finds that out.
        with pytest.raises(SessionAborted):
            federation.open(first, reports_of(federation, first))
    elif step == "commit":
        # Party 1 may have committed: it withdrew that for the second session, so the first cannot release it.
        with pytest.raises((SessionAborted, AlreadyOpenedError)):
            sums.extend(federation.open(first, reports_of(federation, first)))
    else:
        # All committed, so the second session opens the first one's sum, and the first does too.
        sums.extend(federation.open(first, reports_of(federation, first)))
    totals = {result.total.tobytes() for result in sums}
    assert len(totals) == 1
    with federation.vault.store("party-1") as one, federation.vault.store("party-2") as two:
        stored = [store.sum_for(first.model) for store in (one, two)]
    assert all(found is not None and found.released for found in stored)
    assert len({found.reports for found in stored if found is not None}) == 1


def test_commitments_that_differ_are_withdrawn_if_no_share_ever_left(federation: Federation) -> None:
    request = federation.request()
    for number in (1, 2):
        with federation.vault.store(f"party-{number}") as store:
            store.commit(replace(entry(request.model, session=f"{number}"), binding=request.binding))
    results = federation.open(request, reports_of(federation, request))
    np.testing.assert_array_equal(results[0].total, total_of(0, 1, 2, 3, 4))
    assert not results[0].stored


def test_a_commitment_on_other_terms_is_withdrawn_if_no_share_ever_left(federation: Federation) -> None:
    request = federation.request()
    for number in (1, 2):
        with federation.vault.store(f"party-{number}") as store:
            store.commit(entry(request.model))
    np.testing.assert_array_equal(
        federation.open(request, reports_of(federation, request))[0].total, total_of(0, 1, 2, 3, 4)
    )


@pytest.mark.parametrize("released_by", [1, 2])
def test_where_a_share_left_nothing_else_is_opened(federation: Federation, released_by: int) -> None:
    request = federation.request()
    for number in (1, 2):
        held = replace(entry(request.model, session=f"{number}"), binding=request.binding)
        with federation.vault.store(f"party-{number}") as store:
            store.commit(held)
            if number == released_by:
                store.release(held)
    with pytest.raises(AlreadyOpenedError):
        federation.open(request, reports_of(federation, request))
    with federation.vault.store(f"party-{3 - released_by}") as store:
        assert store.sum_for(request.model) is not None


def test_a_relays_name_for_a_session_does_not_make_two_sums_one(federation: Federation) -> None:
    """The relay chooses the session's name, so the parties go by the reports that a sum is of."""
    request = federation.request()
    for number, sites in ((1, ("site-1", "site-2", "site-3")), (2, ("site-3", "site-4", "site-5"))):
        held = entry(request.model, session=request.session, reports=f"{number}", sites=sites)
        with federation.vault.store(f"party-{number}") as store:
            store.commit(replace(held, binding=request.binding))
    result = federation.open(request, reports_of(federation, request))[0]
    assert not result.stored
    np.testing.assert_array_equal(result.total, total_of(0, 1, 2, 3, 4))


GARBAGE = [b"", b"\xff\x00", b"[1,", b"7", b'"x"', b'{"sum": 3}', b'[["a"]]', b"[" * 100_000, b"{}" * 3]


@pytest.mark.parametrize("exchange", [1, 2])
@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda value: repr(value[:8]))
def test_a_party_that_answers_garbage_is_named(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, exchange: int, garbage: bytes
) -> None:
    request, original = federation.request(), Dealt.exchange

    def spoiled(self: Dealt, payload: bytes) -> list[bytes]:
        return original(self, garbage if self.rank == 1 and len(self.sent) == exchange - 1 else payload)

    monkeypatch.setattr(Dealt, "exchange", spoiled)
    with pytest.raises(SessionAborted, match="party-2 said what cannot be read") as caught:
        federation.open(request, reports_of(federation, request))
    assert caught.value.lost == "party-2"
    with federation.vault.store("party-1") as store:
        assert store.sum_for(request.model) is None


def test_a_party_that_does_not_say_that_it_committed_is_named(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, original = federation.request(), Dealt.exchange

    def spoiled(self: Dealt, payload: bytes) -> list[bytes]:
        return original(self, b"no" if self.rank == 1 and payload == b"committed" else payload)

    monkeypatch.setattr(Dealt, "exchange", spoiled)
    with pytest.raises(SessionAborted, match="party-2 did not say that it committed"):
        federation.open(request, reports_of(federation, request))
    with federation.vault.store("party-1") as store:
        found = store.sum_for(request.model)
        assert found is not None
        assert not found.released


def test_too_few_sites_are_told_with_the_reasons_of_the_others(federation: Federation) -> None:
    request = federation.request()
    reports = reports_of(federation, request, [0, 1])
    reports.append(federation.report("site-3", vector_of(2), request, round=9))
    reports.append(federation.report("site-4", vector_of(3, norm=800.0), request))
    with pytest.raises(QuorumError) as caught:
        federation.open(request, reports)
    for words in ("2 sites are in the sum, 3 are needed", "site-3: HeaderError", "site-4: its update is beyond"):
        assert words in str(caught.value)


def test_a_partys_own_reason_is_kept_when_the_other_took_the_report(federation: Federation) -> None:
    request = federation.request()
    reports = reports_of(federation, request)

    def torn(copies: list[Any]) -> list[Any]:
        return [replace(copies[0], ciphertext=copies[0].ciphertext[:-1]), *copies[1:]]

    one, two = federation.open(request, reports, {1: torn})
    assert "SetMismatchError" in one.refused["site-1"]
    assert "SealError" in two.refused["site-1"]


def test_strict_membership_is_about_the_set_that_is_opened(tmp_path: Path) -> None:
    """A site that the norm check leaves out is not in the sum: the difference to the last set counts without it."""
    federation = Federation(tmp_path)
    terms = replace(TERMS, strict_membership=True)
    first = federation.request(model=1, terms=terms)
    federation.open(first, reports_of(federation, first))
    second = federation.request(model=2, terms=terms)
    reports = reports_of(federation, second)
    reports[4] = federation.report("site-5", vector_of(4, norm=800.0), second)
    with pytest.raises(MembershipError, match="change by 1 sites"):
        federation.open(second, reports)
    for name in ("party-1", "party-2"):
        with federation.vault.store(name) as store:
            assert store.sum_for(second.model) is None


def test_strict_membership_and_one_sum_a_model_survive_a_restart(tmp_path: Path) -> None:
    # Every sum here opens the parties' memories anew, as a restarted process does.
    federation = Federation(tmp_path)
    terms = replace(TERMS, strict_membership=True)
    first = federation.request(model=1, terms=terms)
    federation.open(first, reports_of(federation, first))
    second = federation.request(model=2, terms=terms)
    with pytest.raises(MembershipError):
        federation.open(second, reports_of(federation, second, [0, 1, 2, 3]))
    again = replace(first, session="34" * 32)
    result = federation.open(again, reports_of(federation, again, [0, 1, 2]))[0]
    assert (result.stored, result.sites) == (True, tuple(federation.sites))


def test_a_full_disk_takes_nothing_back_of_what_a_party_remembers(tmp_path: Path) -> None:
    """SQLite itself is told that no page more will do, as it is on a full disk."""
    path = tmp_path / "memory.sqlite"
    with PartyStore(path) as store:
        store.commit(entry())
        store.release(entry())
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        large = replace(entry("n"), share=np.arange(100_000, dtype=np.int64))
        with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
            store.commit(large)
        assert store.sum_for("n") is None
    with PartyStore(path) as store:
        found = store.sum_for("m")
        assert found is not None
        assert found.released
        store.commit(large)
        assert store.sum_for("n") is not None


def test_a_party_whose_disk_is_full_says_so_in_one_line(federation: Federation) -> None:
    def full() -> PartyStore:
        raise sqlite3.OperationalError("database or disk is full")

    party = federation.vault.roster().parties[0].name
    actor = PartyActor(federation.vault.keys(party), federation.vault.roster(), full)
    with pytest.raises(UserError, match=r"^its memory of sums cannot be used \(database or disk is full\)$"):
        actor.handle(SUM_UP, RecordDict())

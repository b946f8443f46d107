"""One round at the compute parties: what is opened, what is refused, and what survives a crash."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nescient_fl.mpc import party
from nescient_fl.mpc.envelope import PartyCopy, SealedReport, copy_for, seal_report
from nescient_fl.mpc.errors import AlreadyOpenedError, MembershipError, QuorumError, SetMismatchError
from nescient_fl.mpc.shares import split
from tests.mpc.federation_in_memory import TERMS, UPDATE, Federation, vector_of


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def all_reports(federation: Federation, request: Any, sites: list[str] | None = None) -> list[SealedReport]:
    return [
        federation.report(site, vector_of(federation.sites.index(site)), request) for site in sites or federation.sites
    ]


def total_of(*numbers: int) -> np.ndarray[Any, Any]:
    return np.sum([vector_of(number) for number in numbers], axis=0)


@pytest.mark.parametrize("parties", [2, 3])
def test_every_party_learns_the_sum_and_the_same(tmp_path: Path, parties: int) -> None:
    federation = Federation(tmp_path, parties=parties)
    request = federation.request()
    results = federation.open(request, all_reports(federation, request))
    assert len(results) == parties
    for result in results:
        np.testing.assert_array_equal(result.total, total_of(0, 1, 2, 3, 4))
        assert (result.sites, result.excluded, result.refused) == (tuple(federation.sites), (), {})


def test_a_report_is_good_once_and_its_site_alone_is_left_out(federation: Federation) -> None:
    first = federation.request(model=1)
    reports = all_reports(federation, first)
    federation.open(first, reports)
    # The same bytes cannot be bound to another model; a replay within one model meets the stored sum. What is left
    # is an aborted sum, whose reports must not come back.
    second = federation.request(model=2)
    fresh = all_reports(federation, second)
    for rank in range(2):
        with federation.vault.store(f"party-{rank + 1}") as store:
            copy = party.verify_copy(copy_for(fresh[0], rank), federation.roster, rank)
            store.remember([copy.report_id], "earlier")
    result = federation.open(second, fresh)[0]
    assert result.sites == tuple(federation.sites[1:])
    assert "ReplayError" in result.refused["site-1"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "other"),
        ("round", 2),
        ("roster", "0" * 64),
        ("model", "0" * 64),
        ("protocol", 2),
        ("fraction_bits", 13),
    ],
)
def test_a_report_for_something_else_is_left_out_by_name(federation: Federation, field: str, value: Any) -> None:
    request = federation.request()
    reports = all_reports(federation, request)
    reports[2] = federation.report("site-3", vector_of(2), request, **{field: value})
    result = federation.open(request, reports)[0]
    assert f"another {field}" in result.refused["site-3"]
    np.testing.assert_array_equal(result.total, total_of(0, 1, 3, 4))


def test_two_reports_of_one_site_count_for_none(federation: Federation) -> None:
    request = federation.request()
    reports = [*all_reports(federation, request), federation.report("site-1", vector_of(0), request)]
    result = federation.open(request, reports)[0]
    assert "two reports" in result.refused["site-1"]
    np.testing.assert_array_equal(result.total, total_of(1, 2, 3, 4))


def test_a_stranger_is_not_counted(federation: Federation, tmp_path: Path) -> None:
    request = federation.request()
    others = Federation(tmp_path / "others")
    stranger = seal_report(
        federation.header("site-2", request), split(vector_of(1), 2), federation.roster, others.vault.keys("site-2")
    )
    reports = all_reports(federation, request, ["site-1", "site-3", "site-4"])
    result = federation.open(request, [*reports, stranger])[0]
    assert "SignatureInvalidError" in result.refused["site-2"]
    assert result.sites == ("site-1", "site-3", "site-4")


def test_a_relay_that_shows_the_parties_different_reports_of_a_site_loses_that_site(federation: Federation) -> None:
    request = federation.request()
    reports = all_reports(federation, request)
    twin = federation.report("site-2", vector_of(7), request)

    def swapped(copies: list[PartyCopy]) -> list[PartyCopy]:
        return [copies[0], copy_for(twin, 1), *copies[2:]]

    for result in federation.open(request, reports, {1: swapped}):
        assert "did not all accept" in result.refused["site-2"]
        np.testing.assert_array_equal(result.total, total_of(0, 2, 3, 4))


def test_too_few_sites_open_nothing(federation: Federation) -> None:
    request = federation.request()
    with pytest.raises(QuorumError, match="2 sites are in the sum, 3 are needed"):
        federation.open(request, all_reports(federation, request, ["site-1", "site-2"]))
    for name in ("party-1", "party-2"):
        with federation.vault.store(name) as store:
            assert store.sum_for(request.model) is None


def test_a_sites_own_minimum_counts_too(federation: Federation) -> None:
    request = federation.request()
    reports = all_reports(federation, request, ["site-1", "site-2", "site-3"])
    reports.append(federation.report("site-4", vector_of(3), request, minimum=5))
    with pytest.raises(QuorumError, match="4 sites are in the sum, 5 are needed"):
        federation.open(request, reports)


@pytest.mark.parametrize(
    "bad",
    [
        vector_of(2, norm=800.0),
        np.concatenate([vector_of(2)[:-7], [0], vector_of(2)[-6:]]),
        np.where(np.arange(TERMS.dimension) == 5, -(2**63), vector_of(2)),
        np.where(np.arange(TERMS.dimension) == UPDATE, TERMS.weight_max + 1, vector_of(2)),
    ],
    ids=["x100", "weight 0", "2^63", "weight too large"],
)
def test_an_update_beyond_the_bound_is_left_out_and_the_others_go_on(
    federation: Federation, bad: np.ndarray[Any, Any]
) -> None:
    request = federation.request()
    reports = all_reports(federation, request)
    reports[2] = federation.report("site-3", bad.astype(np.int64), request)
    for result in federation.open(request, reports):
        assert result.excluded == ("site-3",)
        np.testing.assert_array_equal(result.total, total_of(0, 1, 3, 4))


def test_quorum_is_checked_again_after_the_norm_check(federation: Federation) -> None:
    request = federation.request()
    reports = all_reports(federation, request, ["site-1", "site-2"])
    reports.append(federation.report("site-3", vector_of(2, norm=800.0), request))
    with pytest.raises(QuorumError, match="2 sites are in the sum"):
        federation.open(request, reports)


def test_asked_again_the_parties_return_what_they_opened(federation: Federation) -> None:
    first = federation.request()
    federation.open(first, all_reports(federation, first))
    again = replace(first, session="ab" * 32)
    others = all_reports(federation, again, ["site-1", "site-2", "site-3"])
    for result in federation.open(again, others):
        assert result.stored
        assert result.sites == tuple(federation.sites)
        np.testing.assert_array_equal(result.total, total_of(0, 1, 2, 3, 4))


def test_one_model_is_opened_on_one_set_of_terms(federation: Federation) -> None:
    first = federation.request()
    federation.open(first, all_reports(federation, first))
    other = federation.request(order=b"another order")
    with pytest.raises(AlreadyOpenedError, match="on other terms"):
        federation.open(other, all_reports(federation, other, ["site-1", "site-2", "site-3"]))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_party_lost_before_opening_finds_the_same_set_when_it_is_back(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    request = federation.request()
    original = party._open

    def lost(stored: Any, session: Any) -> Any:
        if session.rank == rank:
            raise RuntimeError("the party's power failed")
        return original(stored, session)

    monkeypatch.setattr(party, "_open", lost)
    with pytest.raises(RuntimeError):
        federation.open(request, all_reports(federation, request))
    monkeypatch.undo()
    again = replace(request, session="cd" * 32)
    for result in federation.open(again, all_reports(federation, again, ["site-1", "site-2", "site-3"])):
        assert result.sites == tuple(federation.sites)
        np.testing.assert_array_equal(result.total, total_of(0, 1, 2, 3, 4))


def test_a_commitment_that_the_other_party_never_made_is_withdrawn(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = federation.request()
    original = party.PartyStore.commit

    def commit(self: Any, entry: Any) -> None:
        if "party-2" in str(self._database.execute("PRAGMA database_list").fetchone()):
            raise RuntimeError("the disk is full")
        original(self, entry)

    monkeypatch.setattr(party.PartyStore, "commit", commit)
    with pytest.raises(RuntimeError):
        federation.open(request, all_reports(federation, request))
    monkeypatch.undo()
    again = replace(request, session="ef" * 32)
    result = federation.open(again, all_reports(federation, again, ["site-1", "site-2", "site-3"]))[0]
    assert not result.stored
    np.testing.assert_array_equal(result.total, total_of(0, 1, 2))


def test_a_party_that_forgot_an_opened_sum_opens_no_other(federation: Federation) -> None:
    request = federation.request()
    federation.open(request, all_reports(federation, request))
    (federation.vault.folder / "party-2" / "memory.sqlite").unlink()
    again = replace(request, session="12" * 32)
    with pytest.raises(AlreadyOpenedError, match="knows nothing of"):
        federation.open(again, all_reports(federation, again, ["site-1", "site-2", "site-3"]))


def test_strict_membership_lets_the_set_change_by_nobody_or_by_enough(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=8)
    terms = replace(TERMS, strict_membership=True)

    def opened(model: int, sites: list[str]) -> tuple[str, ...]:
        request = federation.request(model=model, terms=terms)
        return federation.open(request, all_reports(federation, request, sites))[0].sites

    names = federation.sites
    assert opened(1, names[:5]) == tuple(names[:5])
    assert opened(2, names[:5]) == tuple(names[:5])
    with pytest.raises(MembershipError, match="change by 1 sites"):
        opened(3, names[:6])
    assert opened(3, names) == tuple(names)


def test_noise_of_both_parties_is_in_the_sum(federation: Federation) -> None:
    terms = replace(TERMS, update_noise=1000.0, metrics_noise=50.0)
    errors = []
    for model in range(6):
        request = federation.request(model=model, terms=terms)
        reports = all_reports(federation, request)
        results = federation.open(request, reports)
        np.testing.assert_array_equal(results[0].total, results[1].total)
        errors.append(results[0].total - total_of(0, 1, 2, 3, 4))
    noise = np.array(errors)
    # 1,200 draws of variance 2 * 1000^2: the sample's deviation is within 10% but for one run in a million.
    assert noise[:, :UPDATE].std() == pytest.approx(2**0.5 * 1000, rel=0.1)
    assert (noise[:, UPDATE] == 0).all()
    assert 30 < noise[:, UPDATE + 1 :].std() < 120


def test_a_party_that_signs_another_set_is_found_out(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    request = federation.request()
    original = party._digests

    def digests(answer: bytes) -> dict[str, str]:
        return {name: digest for name, digest in original(answer).items() if name != "site-1"}

    # One party drops a site on its own account; the other signs the whole set.
    calls = {"n": 0}

    def one_of_them(answer: bytes) -> dict[str, str]:
        import threading

        calls.setdefault("thread", threading.get_ident())
        return digests(answer) if threading.get_ident() == calls["thread"] else original(answer)

    monkeypatch.setattr(party, "_digests", one_of_them)
    with pytest.raises(SetMismatchError, match="signed another set"):
        federation.open(request, all_reports(federation, request))

"""A malicious relay's choice of who is in a sum: it singles a site out of plain averages, and out of no sealed sum."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nescient_fl.attacks import cohorts
from nescient_fl.attacks.cohorts import attack_singleton, attack_split_view, attack_sybil
from nescient_fl.attacks.evidence import Finding
from nescient_fl.attacks.federation import Federation, answer_of
from nescient_fl.attacks.reopening import attack_by_reopening
from nescient_fl.attacks.tries import sealed_reports, site_updates
from nescient_fl.attacks.victims import Scene
from nescient_fl.errors import UserError
from nescient_fl.lesion.network import weights_sha256
from nescient_fl.mpc import party
from nescient_fl.mpc.envelope import copy_for, verify_copy
from nescient_fl.mpc.errors import SessionAborted, SignatureInvalidError, UnknownMemberError
from nescient_fl.mpc.vault import create_vault

Attack = Callable[[Scene, Federation], Finding]


def answers(finding: Finding) -> dict[str, set[str]]:
    return {attempt["what"]: set(attempt["answers"]) for attempt in finding.secure.figures["tries"]}


@pytest.mark.parametrize("attack", [attack_singleton, attack_sybil, attack_split_view])
def test_every_party_refuses_by_quorum_and_nothing_is_opened(
    scene: Scene, federation: Federation, attack: Attack
) -> None:
    finding = attack(scene, federation)
    assert finding.shown
    assert finding.verdict == "held"
    assert all(kinds == {"QuorumError"} for kinds in answers(finding).values()), answers(finding)
    assert len(answers(finding)) >= 4
    assert not federation.opened_anything(weights_sha256(scene.weights))


def test_three_parties_refuse_alike(scene: Scene, make: Callable[..., Federation]) -> None:
    finding = attack_split_view(scene, make(sites=6, parties=3))
    assert finding.verdict == "held"
    assert all(kinds == {"QuorumError"} for kinds in answers(finding).values())


def test_a_federation_that_allows_two_sites_is_found_wanting(scene: Scene, make: Callable[..., Federation]) -> None:
    finding = attack_singleton(scene, make(minimum=2))
    assert finding.verdict == "broken"
    assert answers(finding)["two sites' reports"] == {"opened 2"}
    assert answers(finding)["one site's report alone"] == {"QuorumError"}


def test_parties_that_cannot_meet_are_no_defence(
    scene: Scene, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_session(*_: object) -> None:
        raise SessionAborted("cannot listen", "party-1")

    monkeypatch.setattr("nescient_fl.attacks.federation.Session", no_session)
    monkeypatch.setattr("nescient_fl.attacks.federation._PARTY_SECONDS", 0.5)
    order, updates = scene.order(1), site_updates(scene, federation)
    reports = sealed_reports(scene, federation, updates, order)
    with pytest.raises(UserError, match="did not meet: cannot listen"):
        federation.ask_alike(federation.request(order, scene.weights), list(reports.values()))


def test_a_federation_that_needs_every_site_has_no_two_sets(scene: Scene, make: Callable[..., Federation]) -> None:
    with pytest.raises(ValueError, match="some to spare"):
        attack_split_view(scene, make(sites=3))


def test_forged_and_renamed_reports_are_refused_each_for_its_reason(
    scene: Scene, federation: Federation, tmp_path: Path
) -> None:
    order = scene.order()
    request = federation.request(order, scene.weights)
    own = create_vault(tmp_path / "forged", "forged", ["site-02", "sybil-1", "sybil-2"], 2, 3)
    report = sealed_reports(scene, federation, site_updates(scene, federation), order)["site-01"]
    for forged, error in (
        (cohorts._forged(federation, own, "sybil-1", request), UnknownMemberError),
        (cohorts._forged(federation, own, "site-02", request), SignatureInvalidError),
        (cohorts._renamed(report, "site-02"), SignatureInvalidError),
    ):
        with pytest.raises(error):
            verify_copy(copy_for(forged, 0), federation.roster, 0)
    assert verify_copy(copy_for(report, 0), federation.roster, 0).site == "site-01"


def test_without_the_signature_check_sybils_would_get_through(
    scene: Scene, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsigned(copy, roster, rank):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return party.ReportHeader.from_bytes(copy.header)

    monkeypatch.setattr(party, "verify_copy", unsigned)
    finding = attack_sybil(scene, federation)
    assert finding.verdict == "broken"
    assert "opened 5" in answers(finding)["the roster's sites, signed with the relay's keys"]


def test_a_second_opening_gives_the_first_sum_or_none(scene: Scene, federation: Federation) -> None:
    finding = attack_by_reopening(scene, federation)
    assert finding.shown
    assert finding.verdict == "held"
    assert [sorted(kinds) for kinds in answers(finding).values()] == [
        ["the first sum again"],
        ["the first sum again"],
        ["AlreadyOpenedError"],
        ["AlreadyOpenedError"],
    ]


def test_parties_without_a_memory_would_open_twice(
    scene: Scene, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(party.PartyStore, "sum_for", lambda self, model: None)  # noqa: ARG005
    for step in ("commit", "release", "opened"):
        monkeypatch.setattr(party.PartyStore, step, lambda *_: None)
    finding = attack_by_reopening(scene, federation)
    assert finding.verdict == "broken"
    assert answers(finding)["fresh reports of the other sites, after a restart"] == {"opened 4"}


def test_a_site_that_asks_for_more_than_the_relay_does_is_heard(scene: Scene, federation: Federation) -> None:
    order = scene.order()
    low = replace(federation.plan.terms(scene.weights, True), minimum=2)
    updates = site_updates(scene, federation)
    reports = [federation.seal(answer_of(name, updates[name], 1), order, scene.weights, low) for name in updates]
    views = federation.ask_alike(replace(federation.request(order, scene.weights), terms=low), reports[:3])
    assert [type(view.refusal).__name__ for view in views] == ["QuorumError"] * 2
    assert "4 are needed" in str(views[0].refusal)

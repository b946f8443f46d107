"""The blind relay over real parties: who is left out and named, what is tried again, and what ends a study."""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, RecordDict
from test_federation import final, final_sha256, kill_at, lines_of, new_run, plan

from nescient_fl.errors import UserError
from nescient_fl.lesion.counts import ScoreCounts
from nescient_fl.mpc.envelope import ReportHeader, SealedReport, _signed
from nescient_fl.mpc.privacy import PrivacyBudget, PrivacyLedger
from nescient_fl.sealed_messages import OPENED, SEALED, SHARED, SUM, refusal_content
from sites import sealing
from strategies import federation as federation_module
from strategies import secure
from strategies.federation import FederatedAveraging, FederationPlan
from tests.strategies.fake_grid import Notes
from tests.strategies.secure_grid import NAMES, SealingSite, SecureFederation, SecureGrid

Content = RecordDict | Error | None


@pytest.fixture
def four(tmp_path: Path) -> SecureFederation:
    return SecureFederation.create(tmp_path, NAMES)


def secure_plan(run: Path, made: SecureFederation, **changes: Any) -> FederationPlan:
    options = {"rounds": 1, "sites": len(made.names), "needed_sites": 3, "secure": made.plan(), **changes}
    return plan(run, **options)


def federate(made: FederationPlan, grid: SecureGrid) -> Notes:
    notes = Notes()
    FederatedAveraging(made, notes, threading.Event()).start(grid)
    return notes


def torn(report: SealedReport) -> SealedReport:
    first = bytearray(report.ciphertexts[0])
    first[40] ^= 1
    return replace(report, ciphertexts=(bytes(first), *report.ciphertexts[1:]))


def test_a_refused_report_is_a_failure_of_its_site_and_the_round_goes_on(
    tmp_path: Path, four: SecureFederation
) -> None:
    run = new_run(tmp_path / "run")
    notes = federate(secure_plan(run, four), four.grid(four.sites(d={"tampered": torn})))
    line = lines_of(run)[1]
    assert line["sites"] == ["a-1", "b-1", "c-1"]
    (failure,) = line["failures"]
    assert failure["site"] == "d-1"
    assert failure["reason"].startswith("SignatureInvalidError: the signature of d-1 does not fit")
    assert (1, "d-1", failure["reason"]) in notes.problems
    assert notes.aborted == []


def test_a_site_beyond_the_bound_is_named_and_left_out(
    tmp_path: Path, four: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A dishonest site does not clip; the others stay below the clip by themselves.
    monkeypatch.setattr(sealing, "clip_update", lambda update, _: update)
    run = new_run(tmp_path / "run")
    notes = federate(secure_plan(run, four), four.grid(four.sites(b={"scale": 100.0})))
    line = lines_of(run)[1]
    assert line["sites"] == ["a-1", "c-1", "d-1"]
    assert line["secure"]["excluded"] == ["b-1"]
    assert line["failures"] == [{"site": "b-1", "reason": "its update is beyond the norm bound"}]
    assert (1, "b-1", "its update is beyond the norm bound") in notes.problems


def test_too_few_good_reports_open_nothing_and_the_reasons_are_told(tmp_path: Path, four: SecureFederation) -> None:
    run = new_run(tmp_path / "run")
    grid = four.grid(four.sites(a={"tampered": torn}, d={"tampered": torn}))
    with pytest.raises(UserError) as caught:
        federate(secure_plan(run, four), grid)
    for words in ("round 1: the parties opened no sum", "2 sites are in the sum, 3 are needed", "a-1: ", "d-1: "):
        assert words in str(caught.value)
    # Another attempt would be no better: nobody is asked again.
    assert grid.sums == 1
    for name in ("party-1", "party-2"):
        with four.vault.store(name) as store:
            assert store.last_opened() is None


def drop_record(content: RecordDict) -> None:
    del content[SEALED]


def drop_an_envelope(content: RecordDict) -> None:
    del content.config_records[SEALED]["envelope-1"]


def another_name(content: RecordDict) -> None:
    record = content.config_records[SEALED]
    header = ReportHeader.from_bytes(bytes(record["header"]))  # type: ignore[arg-type]
    record["header"] = replace(header, site="a-1").to_bytes()


def no_header(content: RecordDict) -> None:
    content.config_records[SEALED]["header"] = b"{}"


def text_for_bytes(content: RecordDict) -> None:
    content.config_records[SEALED]["signature"] = "x"


def garbled_metrics(content: RecordDict) -> None:
    content[SHARED] = ConfigRecord({"json": '{"site": "d-1"}'})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_record, "cannot be read"),
        (drop_an_envelope, "it sealed 1 shares for 2 parties"),
        (another_name, "in the name of a-1"),
        (no_header, "cannot be read"),
        (text_for_bytes, "cannot be read"),
        (garbled_metrics, "cannot be read"),
    ],
)
def test_a_sealed_answer_that_makes_no_sense_counts_as_a_failure(
    tmp_path: Path, four: SecureFederation, spoil: Callable[[RecordDict], None], words: str
) -> None:
    class Garbled(SealingSite):
        def worked(self, *arguments: Any) -> RecordDict:
            content = super().worked(*arguments)
            spoil(content)
            return content

    *honest, last = four.sites()
    run = new_run(tmp_path / "run")
    notes = federate(secure_plan(run, four), four.grid([*honest, Garbled(**vars(last))]))
    assert lines_of(run)[1]["sites"] == ["a-1", "b-1", "c-1"]
    assert [(number, site) for number, site, _ in notes.problems] == [(1, "d-1"), (2, "d-1")]
    assert words in notes.problems[0][2]


@pytest.fixture
def three(tmp_path: Path) -> SecureFederation:
    return SecureFederation.create(tmp_path)


def opened(content: Content) -> dict[str, Any]:
    assert isinstance(content, RecordDict)
    return dict(content.config_records[OPENED])


def changed(content: Content, **changes: Any) -> RecordDict:
    """Return a party's answer with some of its values changed."""
    record = opened(content)
    values = json.loads(record["json"]) | {key: value for key, value in changes.items() if key != "total"}
    total = changes.get("total", record["total"])
    return RecordDict({OPENED: ConfigRecord({"json": json.dumps(values), "total": total})})


def one_more(content: Content) -> RecordDict:
    return changed(content, total=(np.frombuffer(opened(content)["total"], "<i8") + 1).tobytes())


@pytest.mark.parametrize(
    "lie",
    [one_more, lambda content: changed(content, sites=["a-1", "b-1"]), lambda c: changed(c, excluded=["c-1"])],
    ids=["total", "sites", "excluded"],
)
def test_parties_that_say_different_sums_are_found_out(
    tmp_path: Path, three: SecureFederation, lie: Callable[[Content], RecordDict]
) -> None:
    run, grid = new_run(tmp_path / "run"), three.grid()
    grid.spoil = lambda name, _, content: lie(content) if name == "party-2" else content
    with pytest.raises(UserError, match="round 1: the parties opened different sums"):
        federate(secure_plan(run, three), grid)
    assert final_or_none(run) is None


def final_or_none(run: Path) -> Any:
    from nescient_fl.study.run_folder import RunFolder
    from strategies.state import load_state

    return load_state(RunFolder(run).checkpoints)


GARBAGE: dict[str, Callable[[Content], Content]] = {
    "an error": lambda _: Error(1, "<class 'x'>:<'\nException ClientAppException occurred. Message: disk full'>"),
    "no record": lambda _: RecordDict(),
    "another record": lambda _: RecordDict({SUM: ConfigRecord({"x": 1})}),
    "no JSON": lambda _: RecordDict({OPENED: ConfigRecord({"json": "{", "total": b""})}),
    "not even numbers": lambda content: changed(content, seconds="soon"),
    "a short sum": lambda content: changed(content, total=b"\0" * 80),
    "half a word": lambda content: changed(content, total=b"\0" * 9),
    "no bytes": lambda content: changed(content, total="x"),
    "strangers": lambda content: changed(content, sites=["a-1", "b-1", "z-1"]),
    "a refusal without a reason": lambda _: RecordDict({"refused": ConfigRecord({"kind": "SessionAborted"})}),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
def test_a_party_that_answers_garbage_is_named_and_the_next_attempt_gets_the_stored_sum(
    tmp_path: Path, three: SecureFederation, garbage: Callable[[Content], Content]
) -> None:
    run, sites = new_run(tmp_path / "run"), three.sites()
    grid = three.grid(sites)
    grid.spoil = lambda name, number, content: garbage(content) if (name, number) == ("party-2", 1) else content
    notes = federate(secure_plan(run, three), grid)
    ((number, reason),) = notes.aborted
    assert number == 1
    assert reason.startswith("lost party-2 (party-2: ")
    line = lines_of(run)[1]
    assert line["aborted"] == [reason]
    # Both opened it the first time: they say the same again, and open nothing anew.
    assert line["secure"]["stored"]
    assert line["sites"] == ["a-1", "b-1", "c-1"]


def test_the_next_attempt_has_fresh_shares_of_every_site(tmp_path: Path, three: SecureFederation) -> None:
    run, sites = new_run(tmp_path / "run"), three.sites()
    grid = three.grid(sites)
    lost = refusal_content("SessionAborted", "party-1 was silent for too long", "party-1")

    def spoil(name: str, number: int, content: Content) -> Content:
        if number > 1:
            return content
        # It did not take part: its memory is as it was before.
        (three.vault.folder / name / "memory.sqlite").unlink()
        return lost if name == "party-2" else None

    grid.spoil = spoil
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secure, "GRACE_SECONDS", 0.2)
        notes = federate(secure_plan(run, three), grid)
    assert time.monotonic() - started < secure.SESSION_SECONDS
    assert notes.aborted == [(1, "lost party-1 (party-1: no answer; party-2: party-1 was silent for too long)")]
    line = lines_of(run)[1]
    assert not line["secure"]["stored"]
    for site in sites:
        first, second, _ = (ReportHeader.from_bytes(report.header) for report in site.sealed)
        assert (first.round, second.round) == (1, 1)
        assert first.report_id != second.report_id
        assert not set(site.sealed[0].ciphertexts) & set(site.sealed[1].ciphertexts)


def test_after_three_attempts_the_lost_one_is_named_with_a_way_on(tmp_path: Path, three: SecureFederation) -> None:
    run, grid = new_run(tmp_path / "run"), three.grid()
    grid.spoil = lambda name, _, content: Error(1, "gone") if name == "party-1" else content
    with pytest.raises(UserError) as caught:
        federate(secure_plan(run, three), grid)
    for words in ("round 1", "3 attempts", "lost party-1", "party-1: gone", f"--resume {run}"):
        assert words in str(caught.value)
    assert grid.sums == 3
    whole = new_run(tmp_path / "whole")
    (tmp_path / "other").mkdir()
    other = SecureFederation.create(tmp_path / "other")
    federate(secure_plan(whole, other), other.grid())
    federate(secure_plan(run, three), three.grid())
    assert final_sha256(run) == final_sha256(whole)


def test_a_silent_party_is_named_when_the_time_is_up(
    tmp_path: Path, three: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure, "SESSION_SECONDS", 1.0)
    run, grid = new_run(tmp_path / "run"), three.grid()
    # The dealer, which waits for the party too, has nothing to say by then.
    grid.helpers["dealer"].prepared = None
    grid.spoil = lambda name, number, content: None if (name, number) == ("party-2", 1) else content
    notes = federate(secure_plan(run, three), grid)
    assert notes.aborted == [(1, "lost party-2 (dealer: no answer; party-2: no answer)")]


def test_nobody_waits_for_a_dealer_once_the_sum_is_there(tmp_path: Path, three: SecureFederation) -> None:
    run, grid = new_run(tmp_path / "run"), three.grid()
    grid.helpers["dealer"].prepared = None
    started = time.monotonic()
    notes = federate(secure_plan(run, three), grid)
    assert time.monotonic() - started < secure.SESSION_SECONDS
    assert notes.aborted == []


def test_each_partys_own_reason_for_refusing_a_report_is_told(tmp_path: Path, four: SecureFederation) -> None:
    def second_torn(report: SealedReport) -> SealedReport:
        parts = (report.ciphertexts[0], report.ciphertexts[1][:-1])
        digests = [hashlib.sha256(part).digest() for part in parts]
        signature = four.vault.keys("d-1").signing.sign(_signed(report.header, digests))
        return SealedReport(report.header, parts, signature)

    run = new_run(tmp_path / "run")
    federate(secure_plan(run, four), four.grid(four.sites(d={"tampered": second_torn})))
    # Party 1 could open its own envelope; only party 2 knows what was wrong.
    (failure,) = lines_of(run)[1]["failures"]
    assert failure == {"site": "d-1", "reason": "SealError: the envelope of d-1 cannot be opened"}


@pytest.mark.parametrize(("name", "call"), [("append_line", 1), ("append_line", 2), ("save_state", 1)])
def test_a_relay_that_fell_after_the_parties_opened_gets_the_same_sum_again(
    tmp_path: Path, three: SecureFederation, name: str, call: int
) -> None:
    from test_federation import Killed

    run = new_run(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, federation_module, name, call, before=True)
        with pytest.raises(Killed):
            federate(secure_plan(run, three, rounds=2), three.grid())
    sites = three.sites(a={"fails": {call: "not now"}})
    federate(secure_plan(run, three, rounds=2, needed_sites=2), three.grid(sites, seed=1))
    line = lines_of(run)[call]
    # Though a site failed in the second attempt, the sum is the first one's, and counts it.
    assert line["secure"]["stored"]
    assert line["sites"] == ["a-1", "b-1", "c-1"]
    (tmp_path / "other").mkdir()
    other, whole = SecureFederation.create(tmp_path / "other"), new_run(tmp_path / "whole")
    federate(secure_plan(whole, other, rounds=2), other.grid())
    assert final_sha256(run) == final_sha256(whole)


DELTA, MULTIPLIER = 1e-5, 0.02


def private(made: SecureFederation, folder: Path, sums: int) -> tuple[dict[str, Any], PrivacyLedger]:
    """Return a plan's secure part with noise and a budget for so many sums, and its ledger."""
    enough = PrivacyBudget(1.0, DELTA, MULTIPLIER).spent(sums)
    ledger = PrivacyLedger(folder / "ledger.jsonl", PrivacyBudget(enough, DELTA, MULTIPLIER))
    return {"secure": made.plan(noise_multiplier=MULTIPLIER, ledger=ledger)}, ledger


def scored(site: SealingSite) -> SealingSite:
    """Have a site whose private, coarse counts hold both classes in plenty."""
    generator = np.random.default_rng(len(site.name))
    labels = (np.arange(400) % 2).astype(np.float32)
    counts = ScoreCounts.of(generator.normal(labels, 1.0), labels)
    site.changed = lambda answer: replace(answer, counts=counts)
    return site


def test_a_study_whose_privacy_budget_is_spent_ends_with_the_last_validated_model_and_says_so(
    tmp_path: Path, three: SecureFederation
) -> None:
    run = new_run(tmp_path / "run")
    options, ledger = private(three, tmp_path, sums=2)
    made = secure_plan(run, three, rounds=4, **options)
    notes = federate(made, three.grid([scored(site) for site in three.sites()]))
    (reason,) = notes.ended
    assert "the privacy budget is spent" in reason
    assert len(ledger.keys) == 2
    # Two sums: that of round 1, and that of round 2, which validated the model of round 1.
    ended = final(run)
    assert (ended.finished, ended.ended, ended.round) == (True, reason, 2)
    assert ended.best is not None
    assert ended.best.round == 1
    assert [line["round"] for line in lines_of(run)] == [0, 1]
    # Finished is finished: nobody is asked again.
    sites = three.sites()
    federate(made, three.grid(sites))
    assert all(site.orders == [] for site in sites)


def test_a_sum_that_is_asked_for_again_is_not_paid_for_again(tmp_path: Path, three: SecureFederation) -> None:
    run, grid = new_run(tmp_path / "run"), three.grid([scored(site) for site in three.sites()])
    options, ledger = private(three, tmp_path, sums=2)
    grid.spoil = lambda name, number, content: Error(1, "gone") if (name, number) == ("party-1", 1) else content
    notes = federate(secure_plan(run, three, **options), grid)
    assert len(notes.aborted) == 1
    assert notes.ended == []
    assert len(ledger.keys) == len(set(ledger.keys)) == 2


def test_a_budget_for_no_sum_at_all_is_an_error(tmp_path: Path, three: SecureFederation) -> None:
    options, ledger = private(three, tmp_path, sums=1)
    ledger.charge("another model's")
    with pytest.raises(UserError, match="before a round was finished"):
        federate(secure_plan(new_run(tmp_path / "run"), three, **options), three.grid())

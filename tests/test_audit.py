"""The audit as a user runs it: what it says, writes and refuses, and its exit status."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nescient_fl.attacks import suite
from nescient_fl.attacks.evidence import NOISE, SEALING, Finding, Trial
from nescient_fl.attacks.run_transcript import read_departures
from nescient_fl.attacks.subject import default_subject, subject_of
from nescient_fl.audit import audit
from nescient_fl.cli import COMMANDS, run_command
from nescient_fl.study.run_folder import RunFolder, append_line, write_json
from nescient_fl.study.settings import StudySettings


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What an audit reads of a finished secure study."""
    folder = tmp_path / "study"
    return write_run(folder, StudySettings(clients=5, parties=3, clip=2.0, seed=4))


def write_run(folder: Path, settings: StudySettings, **changes: Any) -> Path:
    folder.mkdir()
    config = {"settings": settings.as_dict(), "secure": {"weight_max": 64, "noise_multiplier": 0.0}}
    write_json(folder / "config.json", {**config, **changes})
    write_json(folder / "metrics.json", {"format": 1})
    return folder


def run_audit(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["audit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_command(audit)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def some_attacks(monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    monkeypatch.setattr(suite, "ATTACKS", {key: suite.ATTACKS[key] for key in keys})


def test_the_audit_of_a_run_writes_its_page_and_ends_well(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some_attacks(monkeypatch, "uniformity", "split_view", "transcript")
    for kind in ("name", "sealed update", "sealed scores"):
        append_line(run / "transcript.jsonl", {"site": "site-1", "kind": kind, "records": ["sealed"]})
    assert run_audit(run, monkeypatch=monkeypatch) == 0
    record = json.loads((run / "audit.json").read_text())
    assert [finding["key"] for finding in record["findings"]] == ["uniformity", "split_view", "transcript"]
    assert {finding["outcome"] for finding in record["findings"]} == {"held"}
    assert record["passed"] is True
    assert record["run"] == "study"
    assert record["subject"]["parties"] == 3
    # The study's three parties are the ones that were attacked.
    assert "party-3's share" in record["findings"][0]["secure"]["figures"]["repeated"]
    assert (run / "audit.html").is_file()
    shown = capsys.readouterr().out
    assert "Tell shares from chance" in shown
    assert "SYNTHETIC" in shown
    assert f"Page: {run / 'audit.html'}" in shown


def test_an_attack_that_succeeds_ends_with_status_1(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Finding("key", "Break in", "All.", None, Trial(True, "all of it", "All of it."))

    def found(subject: Any, told: Any) -> Iterator[Finding]:  # noqa: ARG001
        yield broken

    monkeypatch.setattr(suite, "run_attacks_apart", found)
    assert run_audit(run, monkeypatch=monkeypatch) == 1
    assert "1 attack succeeded against what should have stopped them: Break in." in capsys.readouterr().out
    assert json.loads((run / "audit.json").read_text())["passed"] is False


def test_without_a_run_the_defaults_are_audited_into_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_attacks(monkeypatch, "uniformity", "transcript")
    monkeypatch.chdir(tmp_path)
    assert run_audit(monkeypatch=monkeypatch) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    record = json.loads((folder / "audit.json").read_text())
    assert record["run"] is None
    assert [finding["key"] for finding in record["findings"]] == ["uniformity"]
    assert "Default settings" in (folder / "audit.html").read_text()


def test_an_audit_leaves_no_keys_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    some_attacks(monkeypatch, "uniformity", "singleton")
    assert run_audit(run, monkeypatch=monkeypatch) == 0
    assert list(place.iterdir()) == []
    assert "PRIVATE KEY" not in capsys.readouterr().out
    assert not any("PRIVATE KEY" in path.read_text() for path in run.iterdir() if path.is_file())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("absent", "holds no run (no config.json)"),
        ("plain", "sent its updates in clear"),
        ("unfinished", "is not finished: go on with --resume"),
        ("no settings", "is damaged (it holds no settings)"),
        ("bad settings", "is damaged (unknown option"),
        ("no terms", "holds no terms of secure aggregation"),
        ("no json", "is damaged"),
    ],
)
def test_a_run_that_cannot_be_audited_is_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
    message: str,
) -> None:
    folder = tmp_path / "study"
    if broken != "absent":
        aggregation = "plain" if broken == "plain" else "secure"
        write_run(folder, StudySettings(aggregation=aggregation))
    if broken == "unfinished":
        (folder / "metrics.json").unlink()
    if broken == "no settings":
        write_json(folder / "config.json", {"settings": None})
    if broken == "bad settings":
        write_json(folder / "config.json", {"settings": {"clientele": 5}})
    if broken == "no terms":
        write_json(folder / "config.json", {"settings": StudySettings().as_dict(), "secure": None})
    if broken == "no json":
        (folder / "config.json").write_text("{")
    assert run_audit(folder, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_the_subject_is_the_studys_own(run: Path, tmp_path: Path) -> None:
    subject = subject_of(run)
    assert (subject.parties, subject.clip, subject.seed, subject.weight_max) == (3, 2.0, 4, 64)
    assert not subject.private
    assert subject.budget.epsilon == 1.0
    private = subject_of(write_run(tmp_path / "private", StudySettings(dp_epsilon=4.0, dp_delta=1e-6, rounds=3)))
    assert private.private
    assert private.weight_max == 1
    assert (private.budget.epsilon, private.budget.delta) == (4.0, 1e-6)
    # Four sums of that noise cost what the study may spend.
    assert private.budget.spent(4) == pytest.approx(4.0, rel=0.01)
    assert default_subject().run is None


def test_a_transcript_with_a_plain_update_or_unasked_figures_is_noticed(run: Path) -> None:
    folder = RunFolder(run)
    assert list(read_departures(folder)) == []
    append_line(folder.transcript, {"site": "site-1", "kind": "name", "records": ["node"]})
    append_line(folder.transcript, {"site": "site-1", "kind": "sealed update", "records": ["sealed"]})
    (finding,) = read_departures(folder)
    assert finding.verdict == "held"
    append_line(folder.transcript, {"site": "site-2", "kind": "sealed update", "records": ["sealed", "shared"]})
    (finding,) = read_departures(folder)
    assert finding.secure.figures["shared_unasked"] == ["site-2"]
    assert finding.verdict == "broken"
    append_line(folder.transcript, {"site": "site-3", "kind": "update", "records": ["arrays", "report"]})
    (finding,) = read_departures(folder)
    assert finding.secure.figures["in_clear"] == 1


@pytest.mark.parametrize(
    ("plain", "secure", "protection", "private", "outcome"),
    [
        (True, False, SEALING, False, "held"),
        (None, False, SEALING, False, "held"),
        (True, True, SEALING, False, "broken"),
        (False, False, SEALING, False, "inconclusive"),
        (True, False, NOISE, False, "open"),
        (True, False, NOISE, True, "held"),
        (True, True, NOISE, True, "broken"),
    ],
)
def test_verdicts(plain: bool | None, secure: bool, protection: str, private: bool, outcome: str) -> None:
    trials = [None if worked is None else Trial(worked, "", "") for worked in (plain, secure)]
    assert trials[1] is not None
    assert Finding("k", "t", "s", trials[0], trials[1], protection).outcome(private) == outcome


def test_the_umbrella_command_knows_the_audit() -> None:
    assert COMMANDS["audit"] == ("nescient_fl.audit", "audit")


@pytest.mark.slow
def test_no_attack_stands_in_the_way_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    some_attacks(monkeypatch, "relay_bytes", "singleton", "sybil", "split_view", "reopening")
    told: list[str] = []
    findings = list(suite.run_attacks_apart(default_subject(), lambda key, phrase: told.append(key)))  # noqa: ARG005
    assert [finding.key for finding in findings] == list(suite.ATTACKS)
    assert all(finding.shown and finding.verdict == "held" for finding in findings), findings
    refused = [{answer for t in found.secure.figures["tries"] for answer in t["answers"]} for found in findings[1:4]]
    assert refused == [{"QuorumError"}] * 3
    assert set(told) == {"scene", *suite.ATTACKS}

"""Whole rounds with a site, the relay, a party or the dealer lost, the actors being processes of their own."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nescient_fl.lesion.network import weights_sha256
from nescient_fl.mpc.envelope import ReportHeader
from nescient_fl.mpc.vault import Vault
from nescient_fl.study.run_folder import RunFolder, read_lines
from strategies import secure
from strategies.federation import TOO_LATE
from strategies.state import load_state
from tests.faults.actors import Halt
from tests.faults.cluster import PATIENCE, Actor
from tests.faults.relay import (
    NAMES,
    Faults,
    Log,
    ProcessGrid,
    new_vault,
    relay_plan,
    run_doomed_relay,
    run_relay,
    run_watched_relay,
)

TIMES = {"timeout": 3.0, "deadline": 9.0}

Federate = Callable[..., tuple[Log, ProcessGrid]]


@pytest.fixture
def federate() -> Iterator[Federate]:
    """Run a coordinator over processes, which are gone afterwards."""
    grids: list[ProcessGrid] = []

    def run(
        folder: Path, vault: Vault, faults: Faults, times: dict[str, float], wakes: bool = False, **changes: Any
    ) -> Any:
        grids.append(ProcessGrid(vault, faults, times, wakes))
        return run_relay(relay_plan(folder, vault, **changes), grids[-1]), grids[-1]

    yield run
    for grid in grids:
        grid.close()


def new_run(folder: Path) -> Path:
    return RunFolder.create(folder).path


def sha256_of(run: Path) -> str:
    state = load_state(RunFolder(run).checkpoints)
    assert state is not None
    assert state.finished
    return weights_sha256(state.weights)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of one round without a fault."""
    folder = tmp_path_factory.mktemp("whole")
    vault, run = new_vault(folder), new_run(folder / "run")
    grid = ProcessGrid(vault, {}, {})
    run_relay(relay_plan(run, vault), grid)
    grid.close()
    return sha256_of(run)


@pytest.fixture(scope="module", autouse=True)
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Actor]]:
    """A coordinator that waits for a stalled party for as long as it does in use, while the other tests run."""
    folder = tmp_path_factory.mktemp("patient")
    vault, run = new_vault(folder), new_run(folder / "run")
    faults = {("party-2", 1): Halt("session", after=False, how=signal.SIGSTOP)}
    relay = Actor.start(run_watched_relay, run, vault.folder, faults, halt=None, daemon=False)
    yield run, relay
    relay.end()


HOW = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stalled"])


def lose_a_site_a_round(folder: Path, federate: Federate, how: signal.Signals, wakes: bool = False) -> tuple[Log, str]:
    """Lose the first site in round 1, the second in round 2 and the third in round 3; return the log and the model."""
    folder.mkdir()
    steps = [Halt("training", after=False), Halt("training"), Halt("sealing")]
    faults = {(NAMES[place], 1 + place): replace(halt, how=how) for place, halt in enumerate(steps)}
    run = new_run(folder / "run")
    # The other sites' answers are there before anybody waits.
    log, _ = federate(run, new_vault(folder), faults, {}, wakes=wakes, rounds=3, round_timeout=1.0)
    for number, line in enumerate(read_lines(RunFolder(run).rounds)[1:], 1):
        assert line["sites"] == [name for place, name in enumerate(NAMES, 1) if place != number]
        assert line["failures"] == [{"site": NAMES[number - 1], "reason": "no answer within 1 s"}]
    assert log.aborted == []
    return log, sha256_of(run)


def test_a_round_is_finished_without_a_site_that_was_lost_and_what_it_says_too_late_changes_nothing(
    tmp_path: Path, federate: Federate
) -> None:
    lost = [(number, name, "no answer within 1 s") for number, name in enumerate(NAMES[:3], 1)]
    log, left_out = lose_a_site_a_round(tmp_path / "killed", federate, signal.SIGKILL)
    assert log.problems == lost
    log, late = lose_a_site_a_round(tmp_path / "late", federate, signal.SIGSTOP, wakes=True)
    assert [problem for problem in log.problems if problem in lost] == lost
    discarded = [problem for problem in log.problems if problem not in lost]
    assert discarded == [(number, name, TOO_LATE) for number, name in enumerate(NAMES[:3], 1)]
    # The model of a run in which the same sites were left out of the same rounds, and never heard of again.
    assert late == left_out


@HOW
def test_a_site_that_is_lost_once_it_has_answered_is_in_the_sum(
    tmp_path: Path, federate: Federate, undisturbed: str, how: signal.Signals
) -> None:
    run = new_run(tmp_path / "run")
    log, _ = federate(run, new_vault(tmp_path), {("d-1", 1): Halt("answer", how=how)}, {})
    assert read_lines(RunFolder(run).rounds)[1]["sites"] == list(NAMES)
    assert log.problems == log.aborted == []
    assert sha256_of(run) == undisturbed


LOST = [
    ("party-2", Halt("session", after=False)),
    ("party-2", Halt("norm check")),
    ("party-1", Halt("commit")),
    ("party-2", Halt("opened")),
    ("dealer", Halt("deal", after=False)),
]


@pytest.mark.parametrize(("name", "halt"), LOST, ids=str)
def test_a_round_is_tried_again_when_a_party_or_the_dealer_was_lost(
    tmp_path: Path,
    federate: Federate,
    undisturbed: str,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    halt: Halt,
) -> None:
    monkeypatch.setattr(secure, "GRACE_SECONDS", 2.0)
    run = new_run(tmp_path / "run")
    log, grid = federate(run, new_vault(tmp_path), {(name, 1): halt}, TIMES)
    ((number, reason),) = log.aborted
    assert number == 1
    assert reason.startswith(f"lost {name} (")
    assert log.seconds[0] < 30
    line = read_lines(RunFolder(run).rounds)[1]
    assert line["sites"] == list(NAMES)
    assert line["failures"] == []
    assert line["aborted"] == [reason]
    assert line["secure"]["stored"] == (halt.step in ("commit", "opened"))
    for headers in grid.sealed.values():
        first, second, _ = (ReportHeader.from_bytes(header) for header in headers)
        assert first.round == second.round == 1
        assert first.report_id != second.report_id
    assert sha256_of(run) == undisturbed


@pytest.mark.slow
def test_a_relay_killed_after_the_parties_opened_finds_the_same_sum(
    tmp_path: Path, federate: Federate, undisturbed: str
) -> None:
    vault, run = new_vault(tmp_path), new_run(tmp_path / "run")
    relay = Actor.start(run_doomed_relay, run, vault.folder, 1, halt=None, daemon=False)
    relay.process.join(PATIENCE)
    assert relay.process.exitcode == -signal.SIGKILL
    relay.end()
    assert load_state(RunFolder(run).checkpoints) is None
    log, _ = federate(run, vault, {}, {})
    line = read_lines(RunFolder(run).rounds)[1]
    assert line["secure"]["stored"]
    assert log.aborted == []
    assert sha256_of(run) == undisturbed


@pytest.mark.slow
def test_within_thirty_seconds_it_is_known_who_is_stalled(patient: tuple[Path, Actor], undisturbed: str) -> None:
    """With the product's own limits: the other tests shorten them."""
    run, relay = patient
    assert relay.answers.poll(PATIENCE)
    log = relay.answers.recv()
    ((_, reason),) = log.aborted
    assert reason.startswith("lost party-2 (")
    assert log.seconds[0] < 30
    assert secure.SESSION_SECONDS < 30
    assert sha256_of(run) == undisturbed

"""How long a deployment's round waits for a party or the dealer that was lost."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Error
from test_federation import lines_of, new_run
from test_secure import federate, secure_plan

from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import write_json
from strategies import federation
from strategies.server import _deployed
from tests.strategies.secure_grid import SecureFederation


@pytest.fixture
def three(tmp_path: Path) -> SecureFederation:
    return SecureFederation.create(tmp_path)


def test_a_deployment_waits_longer_for_a_party_that_was_lost(
    tmp_path: Path, three: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation, "_LONGEST_PAUSE", 0.6)
    run, grid = new_run(tmp_path / "run"), three.grid()
    grid.spoil = lambda name, number, content: Error(1, "gone") if name == "party-1" and number < 6 else content
    started = time.monotonic()
    notes = federate(replace(secure_plan(run, three), helper_patience=60.0), grid)
    assert time.monotonic() - started > 5 * 0.6
    assert len(notes.aborted) == 5
    assert len(lines_of(run)[1]["aborted"]) == 5


def test_a_party_that_is_lost_for_good_is_not_waited_for_for_ever(
    tmp_path: Path, three: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation, "_LONGEST_PAUSE", 0.2)
    run, grid = new_run(tmp_path / "run"), three.grid()
    grid.spoil = lambda name, _, content: Error(1, "gone") if name == "party-1" else content
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no sum could be opened in \d+ attempts: lost party-1"):
        federate(replace(secure_plan(run, three), helper_patience=0.7), grid)
    assert 0.7 <= time.monotonic() - started < 30


def test_nodes_of_a_deployment_are_given_minutes_and_those_of_a_simulation_none(tmp_path: Path) -> None:
    assert _deployed(tmp_path) == {}
    write_json(tmp_path / "nodes.json", {"join_timeout": 600.0, "nodes": []})
    assert _deployed(tmp_path) == {"owners": {}, "join_timeout": 600.0, "helper_patience": 240.0}

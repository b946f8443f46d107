"""How often a deployment starts an actor again: without end on a long run, not when it ends again and again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nescient_fl.deployment import launcher
from nescient_fl.deployment.actors import ActorView
from nescient_fl.deployment.launcher import _revive, _Running
from nescient_fl.deployment.layout import ActorPlace
from nescient_fl.errors import UserError


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(launcher.time, "monotonic", clock)
    monkeypatch.setattr(launcher, "_start", lambda *_: ended(-9))
    return clock


def ended(status: int) -> Any:
    return SimpleNamespace(poll=lambda: status)


def actor(folder: Path, status: int = -9) -> _Running:
    place = ActorPlace("site-1", "site", folder)
    place.log.write_text("error: the disk is full\n")
    return _Running(place, ended(status), ActorView("site-1", "site"), since=1000.0)


def killed(running: _Running, clock: Clock, lived: float) -> float:
    """Let an actor live for a while, die, and be started again. Returns the seconds until it was."""
    clock.now += lived
    died = clock.now
    restarts = running.view.restarts
    while running.view.restarts == restarts:
        _revive(running, {})
        clock.now += 0.5
    return running.since - died


def test_each_pause_is_longer_until_it_is_given_up(tmp_path: Path, clock: Clock) -> None:
    running = actor(tmp_path)
    assert [killed(running, clock, 1.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(UserError, match=r"^site-1: the disk is full$"):
        killed(running, clock, 1.0)


def test_an_actor_that_is_killed_now_and_then_is_started_again_each_time(tmp_path: Path, clock: Clock) -> None:
    running = actor(tmp_path)
    assert [killed(running, clock, 301.0) for _ in range(12)] == [0.5] * 12
    assert running.view.restarts == 12


def test_one_that_said_what_to_mend_is_not_started_again(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(UserError, match=r"^site-1: the disk is full$"):
        killed(actor(tmp_path, status=2), clock, 400.0)

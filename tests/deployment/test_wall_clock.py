"""That a coordinator's clock was set is noticed once, and told when the run fails."""

import pytest

from nescient_fl.deployment.wall_clock import WallClock


def test_a_clock_that_is_set_is_noticed_once_and_told_with_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    now, passed = 1_800_000_000.0, 100.0
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("time.monotonic", lambda: passed)
    clock = WallClock()
    assert clock.explain("lost") == "lost"
    now, passed = now + 50.0, passed + 49.0
    assert clock.look() == 0.0
    assert clock.explain("lost") == "lost"
    now, passed = now + 3610.0, passed + 10.0
    assert clock.look() == 3601.0
    assert clock.look() == 0.0
    assert clock.explain("lost").startswith("lost; this host's clock was set by +3601 s meanwhile")
    now -= 3600.0
    assert clock.look() == -3600.0
    assert "-3600 s" in clock.explain("lost")

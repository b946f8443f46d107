"""How far a member's clock may be from the link's."""

from pathlib import Path

import pytest

from nescient_fl.deployment import reach
from nescient_fl.deployment.reach import describe_clock
from nescient_fl.errors import UserError

TRUE = 1_800_000_000.0


def said(monkeypatch: pytest.MonkeyPatch, apart: float) -> str:
    """Return what is said of a clock that is so many seconds ahead."""
    monkeypatch.setattr(reach, "_asked", lambda *_: reach._Answer("TLSv1.3", TRUE))
    monkeypatch.setattr("time.time", lambda: TRUE + apart)
    return describe_clock("10.0.0.1:9092", Path("ca.pem"))


@pytest.mark.parametrize("apart", [-60.0, -3.0, 0.0, 4.0])
def test_a_clock_that_flower_takes_is_good(monkeypatch: pytest.MonkeyPatch, apart: float) -> None:
    assert said(monkeypatch, apart) == f"within {max(abs(apart), 1):.0f} s of the coordinator's"


@pytest.mark.parametrize(("apart", "words"), [(4.6, r"\+5 s"), (3600.0, r"\+3600 s"), (-61.0, "-61 s")])
def test_a_clock_that_is_off_is_told_by_how_much(monkeypatch: pytest.MonkeyPatch, apart: float, words: str) -> None:
    """Flower refuses a node whose signed time is 5 s in the future, so a minute ahead would pass and never join."""
    with pytest.raises(UserError, match=f"this clock is {words} from the coordinator's"):
        said(monkeypatch, apart)


def test_a_link_that_does_not_say_the_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_asked", lambda *_: reach._Answer("TLSv1.3", None))
    with pytest.raises(UserError, match="does not say what time it is"):
        describe_clock("10.0.0.1:9092", Path("ca.pem"))
